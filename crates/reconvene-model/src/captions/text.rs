//! The text of a cue without its markup. What the formats' markup means is `fasrt`'s business.

use fasrt::srt::text::PlainText;
use fasrt::vtt::cue::{CueText, Node, Options, Tag};

use super::speakers::Said;
use super::{Format, Problem};

/// Most tags of a cue within each other. Beyond it the file is refused ([`Problem::TooDeep`]).
pub const MARKUP_DEPTH_MAX: usize = 64;

/// What a cue says, by voice tags where there are any. Nothing for a cue without text.
pub(super) fn of_cue(body: &str, format: Format) -> Result<Vec<Said>, Problem> {
    let mut said = Vec::new();
    match format {
        Format::SubRip => add(&mut said, None, PlainText::new(body).normalize()),
        Format::WebVtt => {
            let options = Options::new().with_max_depth(MARKUP_DEPTH_MAX);
            let text = CueText::try_parse_with(body, options).map_err(|_| Problem::TooDeep)?;
            walk(text.children(), None, &mut said);
        }
    }
    for one in &mut said {
        one.text = one.text.trim().to_owned();
    }
    said.retain(|one| !one.text.is_empty());
    Ok(said)
}

/// Goes no deeper than the tree is.
fn walk(nodes: &[Node<'_>], speaker: Option<&str>, said: &mut Vec<Said>) {
    for node in nodes {
        match node {
            Node::Text(text) => add(said, speaker, text.normalize()),
            Node::Timestamp(_) => {}
            Node::Tag(tag) => {
                let name = match tag.tag() {
                    Tag::Voice => tag.annotation().map(|name| name.normalize().trim()),
                    _ => None,
                };
                let name = name.filter(|name| !name.is_empty());
                walk(tag.children(), name.or(speaker), said);
            }
        }
    }
}

/// What the same person goes on to say is one text; so is what nobody says, such as a line end between
/// two tags.
fn add(said: &mut Vec<Said>, speaker: Option<&str>, text: &str) {
    match said.last_mut() {
        Some(last) if last.speaker.as_deref() == speaker || text.trim().is_empty() => {
            last.text.push_str(text);
        }
        _ => said.push(Said {
            speaker: speaker.map(str::to_owned),
            text: text.to_owned(),
        }),
    }
}
