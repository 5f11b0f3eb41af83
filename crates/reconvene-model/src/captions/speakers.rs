//! Who says a line, where only the line itself tells: `Name: text`.
//!
//! Only a file that begins with a name is taken to name who speaks. No rule gets all of them right; what
//! is taken for a name is kept as the speaker, so that in either case nothing that stood in the file is
//! lost.

/// Longest name before a colon, in characters. What is longer is text.
pub const NAME_CHARS_MAX: usize = 64;

/// Most words of a name before a colon.
const NAME_WORDS_MAX: usize = 6;

/// Small words that are part of names.
const PARTICLES: [&str; 18] = [
    "a", "al", "am", "and", "bin", "da", "de", "del", "den", "der", "di", "dos", "el", "la", "le",
    "of", "van", "von",
];

/// What somebody says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// Who, if that is known.
    pub(super) speaker: Option<String>,
    /// What.
    pub(super) text: String,
}

/// What texts begin with that nobody says, such as `(music)`.
const ASIDES: [char; 4] = ['(', '[', '*', '♪'];

/// Whether the texts of a file name who speaks: the first of them that somebody says begins with a name.
pub(super) fn are_named<'t>(mut texts: impl Iterator<Item = &'t str>) -> bool {
    let first = texts.find(|text| !text.trim_start().starts_with(ASIDES));
    let said = first.map(by_prefix).unwrap_or_default();
    said.first().is_some_and(|first| first.speaker.is_some())
}

/// Splits a text where a line begins with a name. Lines before the first are said by nobody known, lines
/// that begin with none by whoever spoke last.
pub(super) fn by_prefix(text: &str) -> Vec<Said> {
    let mut said: Vec<Said> = Vec::new();
    for line in text.split('\n') {
        match (named(line), said.last_mut()) {
            (Some((name, rest)), _) => said.push(Said {
                speaker: Some(name.to_owned()),
                text: rest.to_owned(),
            }),
            (None, Some(last)) => {
                last.text.push('\n');
                last.text.push_str(line);
            }
            (None, None) => said.push(Said {
                speaker: None,
                text: line.to_owned(),
            }),
        }
    }
    for one in &mut said {
        one.text = one.text.trim().to_owned();
        // A name that says nothing may be all there is to read.
        if one.text.is_empty()
            && let Some(name) = one.speaker.take()
        {
            one.text = format!("{name}:");
        }
    }
    said.retain(|one| !one.text.is_empty());
    said
}

/// The name before the first colon of a line, if it looks like one, and what follows.
fn named(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.split_once(':')?;
    let name = name.trim();
    if !(rest.is_empty() || rest.starts_with(char::is_whitespace)) {
        return None;
    }
    let is_name = name.chars().count() <= NAME_CHARS_MAX
        && name.starts_with(char::is_alphanumeric)
        && name.contains(char::is_alphabetic)
        && !name.contains(['?', '!', ';', ',', '"', '…', '<', '>'])
        && name.split_whitespace().count() <= NAME_WORDS_MAX
        && (is_label(name) || name.split_whitespace().all(is_name_word));
    is_name.then_some((name, rest))
}

/// Whether it is what recognisers call people they do not know, such as `speaker_1`.
fn is_label(name: &str) -> bool {
    let word = name.get(.."speaker".len());
    word.is_some_and(|word| word.eq_ignore_ascii_case("speaker"))
        && name.split_whitespace().count() <= 2
}

fn is_name_word(word: &str) -> bool {
    !word.starts_with(char::is_lowercase) || PARTICLES.contains(&word)
}
