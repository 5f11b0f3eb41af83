//! Reading caption files, WebVTT and SubRip: one file, one meeting with who said what and when.
//!
//! A caption file is a list of cues: a time line and text. What a player would pass over in silence is
//! refused here with its line, since it is somebody's words: a time line that cannot be read, or text
//! that belongs to no cue. Like [`crate::qmsum`] it reads bytes that the caller read from a file.

mod cues;
mod speakers;
mod text;
mod times;

use std::collections::BTreeSet;
use std::fmt;

use self::cues::Cue;
use self::speakers::Said;
use crate::edit::STRING_BYTES_MAX;
use crate::import::{ImportedMeeting, title_of};
use crate::transcript::{Segment, Timebase};

pub use self::speakers::NAME_CHARS_MAX;
pub use self::text::MARKUP_DEPTH_MAX;
pub use self::times::HOURS_MAX;

/// Most cues of one file, and most segments they make. Beyond it the file is refused
/// ([`Problem::TooMany`]).
pub const CUES_MAX: usize = 100_000;

/// Longest cue or comment of a file, markup included, in bytes. A file with a longer one is refused
/// ([`Problem::TooLong`]): reading it would take forty times the memory, and no segment may be as long.
pub const BLOCK_BYTES_MAX: usize = 8 * STRING_BYTES_MAX;

/// A format of caption files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// WebVTT (`.vtt`).
    WebVtt,
    /// SubRip (`.srt`).
    SubRip,
}

impl Format {
    /// The format's name in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WebVtt => "WebVTT",
            Self::SubRip => "SubRip",
        }
    }

    /// What the source of a meeting begins with.
    const fn source(self) -> &'static str {
        match self {
            Self::WebVtt => "vtt",
            Self::SubRip => "srt",
        }
    }

    /// A time line as it should be.
    const fn example(self) -> &'static str {
        match self {
            Self::WebVtt => "00:00:01.000 --> 00:00:02.500",
            Self::SubRip => "00:00:01,000 --> 00:00:02,500",
        }
    }
}

/// Why a file was not read: which file, where in it, what is wrong there and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {place}: {problem}")]
pub struct CaptionError {
    /// The file's name as given.
    pub file: String,
    /// The place in the file.
    pub place: Place,
    /// What is wrong there.
    pub problem: Problem,
}

/// A place in a caption file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The whole file.
    Whole,
    /// A line of it.
    Line {
        /// The line, from 1.
        line: usize,
        /// The cue it belongs to or should belong to, by its place in the file from 1; `None` before
        /// the first.
        cue: Option<usize>,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("the whole file"),
            Self::Line { line, cue: None } => write!(f, "line {line}"),
            Self::Line {
                line,
                cue: Some(cue),
            } => write!(f, "line {line}, cue {cue}"),
        }
    }
}

/// What is wrong at a place, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The bytes are no UTF-8.
    #[error("not UTF-8; save the file as UTF-8")]
    NotUtf8,
    /// A WebVTT file without its first line.
    #[error("a WebVTT file begins with a line WEBVTT; add it, or import the file as SubRip")]
    NoSignature,
    /// Nothing to import.
    #[error("no cue in it; is it a {} file?", .0.as_str())]
    NoCues(Format),
    /// Text without a time line before it.
    #[error(
        "text without a time line such as {}; write one above it, or take out the empty line if it \
         belongs to the cue before",
        .0.example()
    )]
    NotTimed(Format),
    /// A time line that cannot be read.
    #[error("times that cannot be read; write them like {}", .0.example())]
    BadTimes(Format),
    /// A time that is too late.
    #[error("a time of more than {HOURS_MAX} hours; correct it")]
    TooLate,
    /// A cue that ends before it begins.
    #[error("it ends before it begins; correct its times")]
    Backwards,
    /// A time line that does not begin a cue.
    #[error("a time line within other lines; put an empty line before its cue")]
    TimesWithin,
    /// Tags within tags, too many.
    #[error("more than {MARKUP_DEPTH_MAX} tags within each other; close or take out some")]
    TooDeep,
    /// A text or name is longer than a document may hold.
    #[error(
        "too long: {bytes} bytes, at most {STRING_BYTES_MAX}, and {BLOCK_BYTES_MAX} with markup; split \
         the cue"
    )]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// There are more cues, or more speakers within them, than a meeting takes.
    #[error("more than {CUES_MAX} cues; split the file")]
    TooMany,
}

/// A problem and where it is; what becomes a [`CaptionError`] once the file is known.
type Fault = (Place, Problem);

/// Reads one WebVTT file. `file` is its name or path: the title is its last part without the
/// extension, and errors quote it.
///
/// Speakers are those of voice tags (`<v Name>`); in a file without any, those of prefixes
/// (`Name: text`) as in [`parse_srt`]. Comments, styles, regions, cue settings and further tags are not
/// kept; what looks like a tag and is none, such as `<laughs>`, is text. Character references are
/// resolved, lines of a cue stay lines. A cue without text makes no segment, one with several speakers
/// makes several.
///
/// # Errors
/// With the first line that cannot be understood; nothing is passed over.
pub fn parse_vtt(file: &str, bytes: &[u8]) -> Result<ImportedMeeting, CaptionError> {
    parse(file, bytes, Format::WebVtt)
}

/// Reads one SubRip file; see [`parse_vtt`] for the rest.
///
/// A cue's number may be missing and times have a comma or a point. If the first thing said in the file
/// follows a name and a colon, then every line that begins so is taken for what that person says. A name
/// has up to six words and [`NAME_CHARS_MAX`] characters, each word with a capital or something else that
/// is no small letter.
///
/// # Errors
/// With the first line that cannot be understood; nothing is passed over.
pub fn parse_srt(file: &str, bytes: &[u8]) -> Result<ImportedMeeting, CaptionError> {
    parse(file, bytes, Format::SubRip)
}

fn parse(file: &str, bytes: &[u8], format: Format) -> Result<ImportedMeeting, CaptionError> {
    read(file, bytes, format).map_err(|(place, problem)| CaptionError {
        file: file.to_owned(),
        place,
        problem,
    })
}

fn read(file: &str, bytes: &[u8], format: Format) -> Result<ImportedMeeting, Fault> {
    let text = decode(bytes)?;
    let cues = cues::read(&text, format)?;
    if cues.is_empty() {
        return Err((Place::Whole, Problem::NoCues(format)));
    }
    let mut count = 0;
    let said = cues.iter().map(|cue| {
        let said = text::of_cue(&cue.body, format).map_err(|problem| (cue.place, problem))?;
        count += said.len();
        match count > CUES_MAX {
            true => Err((cue.place, Problem::TooMany)),
            false => Ok((cue, said)),
        }
    });
    let mut said: Vec<(&Cue, Vec<Said>)> = said.collect::<Result<_, Fault>>()?;
    let has_voices = said
        .iter()
        .any(|(_, said)| said.iter().any(|one| one.speaker.is_some()));
    let texts = said.iter().flat_map(|(_, said)| said);
    if !has_voices && speakers::are_named(texts.map(|one| one.text.as_str())) {
        for (_, said) in &mut said {
            *said = std::mem::take(said)
                .into_iter()
                .flat_map(|one| speakers::by_prefix(&one.text))
                .collect();
        }
    }
    // Cues may stand in any order; what is read later is what was said later.
    said.sort_by_key(|(cue, _)| cue.start);
    build(file, format, said)
}

/// The text with line feeds for all line ends, without a byte order mark.
fn decode(bytes: &[u8]) -> Result<String, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        (Place::Line { line, cue: None }, Problem::NotUtf8)
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    Ok(text.replace("\r\n", "\n").replace('\r', "\n"))
}

fn build(
    file: &str,
    format: Format,
    cues: Vec<(&Cue, Vec<Said>)>,
) -> Result<ImportedMeeting, Fault> {
    let mut known = BTreeSet::new();
    let mut participants = Vec::new();
    let mut segments = Vec::with_capacity(cues.len());
    for (cue, said) in cues {
        for Said { speaker, text } in said {
            let bytes = text.len().max(speaker.as_ref().map_or(0, String::len));
            if bytes > STRING_BYTES_MAX {
                return Err((cue.place, Problem::TooLong { bytes }));
            }
            if segments.len() == CUES_MAX {
                return Err((cue.place, Problem::TooMany));
            }
            if let Some(name) = &speaker
                && known.insert(name.clone())
            {
                participants.push(name.clone());
            }
            segments.push(Segment {
                id: format!("{:06}", segments.len()),
                start: cue.start,
                end: Some(cue.end),
                speaker,
                text,
            });
        }
    }
    let title = title_of(file);
    Ok(ImportedMeeting {
        source: format!("{}:{title}", format.source()),
        title: title.to_owned(),
        participants,
        timebase: Timebase::Ms,
        segments,
        summary: None,
    })
}

// Ids are six digits, so that their order is that of their numbers.
const _: () = assert!(CUES_MAX <= 1_000_000);

#[cfg(test)]
mod tests;
