//! The text of a cue without its markup. What the formats' markup means is `fasrt`'s business.

use fasrt::srt::text::PlainText;
use fasrt::vtt::cue::{CueText, Node, Options, Tag};

use super::speakers::Said;
use super::{Format, Problem, times};

/// Most tags of a cue within each other. Beyond it the file is refused ([`Problem::TooDeep`]).
pub const MARKUP_DEPTH_MAX: usize = 64;

/// Tags that say how text is shown, and nothing else. The last two are of SubRip, and often left behind
/// when it is converted.
const SHOWN: [&str; 9] = ["b", "c", "i", "u", "rt", "ruby", "lang", "font", "s"];

/// What a cue says, by voice tags where there are any. Nothing for a cue without text.
pub(super) fn of_cue(body: &str, format: Format) -> Result<Vec<Said>, Problem> {
    let mut said = Vec::new();
    match format {
        Format::SubRip => add(&mut said, None, PlainText::new(body).normalize()),
        Format::WebVtt => {
            let options = Options::new().with_max_depth(MARKUP_DEPTH_MAX);
            let body = literal_angles(body);
            let text = CueText::try_parse_with(&body, options).map_err(|_| Problem::TooDeep)?;
            walk(text.children(), None, &mut said);
        }
    }
    for one in &mut said {
        one.text = one.text.trim().to_owned();
    }
    said.retain(|one| !one.text.is_empty());
    Ok(said)
}

/// The body with each `<` that begins no tag as a character reference. A player passes over `<laughs>`,
/// and over everything after `<3`; here it is text.
fn literal_angles(body: &str) -> String {
    let mut out = String::with_capacity(body.len());
    let mut rest = body;
    while let Some((before, after)) = rest.split_once('<') {
        out.push_str(before);
        out.push_str(if is_tag(after) { "<" } else { "&lt;" });
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Whether a `<` before this begins a tag or time stamp that says nothing itself, or whose voice it is.
fn is_tag(after: &str) -> bool {
    let Some((tag, end)) = after
        .find(['<', '>'])
        .and_then(|end| after.split_at_checked(end))
    else {
        return false;
    };
    let name = tag.strip_prefix('/').unwrap_or(tag);
    let name = name.split(['.', ' ', '\t', '\n', '\u{c}']).next();
    let is_shown = |name: &str| SHOWN.iter().any(|shown| shown.eq_ignore_ascii_case(name));
    let is_name = name.is_some_and(|name| name == "v" || is_shown(name));
    end.starts_with('>') && (is_name || times::of_text(tag, Format::WebVtt).is_ok())
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
