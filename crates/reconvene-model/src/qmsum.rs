//! Reading meetings of the QMSum corpus: one JSON file, one meeting with its transcript and summary.
//!
//! It reads bytes that the caller read from a file; it opens none. Every refusal names the file and
//! the place in it.

use std::fmt;

use serde_json::Value;

use crate::import::{ImportedMeeting, title_of};
use crate::transcript::{Segment, Timebase};

/// Most utterances of one file. Beyond it the file is refused ([`Problem::TooMany`]).
pub const UTTERANCES_MAX: usize = 100_000;

/// Why a file was not read: which file, where in it, and what is wrong there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {place}: {problem}")]
pub struct QmsumError {
    /// The file's name as given.
    pub file: String,
    /// The place in the file.
    pub place: Place,
    /// What is wrong there.
    pub problem: Problem,
}

/// A place in a JSON file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where the text stops being JSON; both count from 1.
    Line {
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
    /// A value in it, such as `meeting_transcripts[12].speaker`; empty for the whole.
    Path(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { line, column } => write!(f, "line {line}, column {column}"),
            Self::Path(path) if path.is_empty() => f.write_str("the whole file"),
            Self::Path(path) => f.write_str(path),
        }
    }
}

/// What is wrong at a place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The text is not JSON.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// A value must be there and is not.
    #[error("missing; expected {expected}")]
    Missing {
        /// What must be there.
        expected: &'static str,
    },
    /// A value has another type than it must have.
    #[error("found {found}; expected {expected}")]
    WrongType {
        /// What must be there.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A name must not be empty.
    #[error("must not be empty")]
    Empty,
    /// A string is longer than a document may hold.
    #[error("too long: {bytes} bytes, at most {}", crate::edit::STRING_BYTES_MAX)]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// A list is longer than it may be.
    #[error("too many: {count}, at most {UTTERANCES_MAX}")]
    TooMany {
        /// Its length.
        count: usize,
    },
}

/// Reads one file of the corpus. `file` is its name or path: the title is its last part without the
/// extension, and errors quote it.
///
/// Every list may be empty; without general queries there is no summary, else the first one's answer
/// is. Topics and specific queries are not read.
pub fn parse(file: &str, bytes: &[u8]) -> Result<ImportedMeeting, QmsumError> {
    let reader = Reader { file };
    let root: Value = serde_json::from_slice(bytes).map_err(|error| reader.not_json(&error))?;
    let fields = match &root {
        Value::Object(fields) => fields,
        other => return Err(reader.wrong_type(String::new(), "an object", other)),
    };
    let summary = reader.summary(fields.get("general_query_list"))?;
    let utterances = reader.list("meeting_transcripts", fields.get("meeting_transcripts"))?;
    if utterances.len() > UTTERANCES_MAX {
        let problem = Problem::TooMany {
            count: utterances.len(),
        };
        return Err(reader.error("meeting_transcripts".to_owned(), problem));
    }

    let mut participants: Vec<String> = Vec::new();
    let mut segments = Vec::with_capacity(utterances.len());
    for (place, utterance) in utterances.iter().enumerate() {
        let path = format!("meeting_transcripts[{place}]");
        let speaker = reader.string(&path, "speaker", utterance)?;
        let text = reader.string(&path, "content", utterance)?;
        if speaker.is_empty() {
            return Err(reader.error(format!("{path}.speaker"), Problem::Empty));
        }
        if !participants.iter().any(|known| known == speaker) {
            participants.push(speaker.to_owned());
        }
        segments.push(Segment {
            id: format!("{place:06}"),
            start: i64::try_from(place).expect("bounded by UTTERANCES_MAX"),
            end: None,
            speaker: Some(speaker.to_owned()),
            text: text.to_owned(),
        });
    }
    let title = title_of(file);
    Ok(ImportedMeeting {
        source: format!("qmsum:{title}"),
        title: title.to_owned(),
        participants,
        timebase: Timebase::Order,
        segments,
        summary,
    })
}

struct Reader<'a> {
    file: &'a str,
}

impl Reader<'_> {
    fn summary(&self, queries: Option<&Value>) -> Result<Option<String>, QmsumError> {
        let queries = self.list("general_query_list", queries)?;
        let Some(query) = queries.first() else {
            return Ok(None);
        };
        let answer = self.string("general_query_list[0]", "answer", query)?;
        Ok(Some(answer.to_owned()))
    }

    fn list<'v>(&self, path: &str, value: Option<&'v Value>) -> Result<&'v [Value], QmsumError> {
        match value {
            Some(Value::Array(items)) => Ok(items),
            Some(other) => Err(self.wrong_type(path.to_owned(), "a list", other)),
            None => {
                let expected = "a list";
                Err(self.error(path.to_owned(), Problem::Missing { expected }))
            }
        }
    }

    fn string<'v>(&self, path: &str, key: &str, parent: &'v Value) -> Result<&'v str, QmsumError> {
        let Value::Object(fields) = parent else {
            return Err(self.wrong_type(path.to_owned(), "an object", parent));
        };
        let path = format!("{path}.{key}");
        let text = match fields.get(key) {
            Some(Value::String(text)) => text,
            Some(other) => return Err(self.wrong_type(path, "a string", other)),
            None => {
                let expected = "a string";
                return Err(self.error(path, Problem::Missing { expected }));
            }
        };
        if text.len() > crate::edit::STRING_BYTES_MAX {
            return Err(self.error(path, Problem::TooLong { bytes: text.len() }));
        }
        Ok(text)
    }

    fn wrong_type(&self, path: String, expected: &'static str, found: &Value) -> QmsumError {
        let found = match found {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        self.error(path, Problem::WrongType { expected, found })
    }

    fn not_json(&self, error: &serde_json::Error) -> QmsumError {
        // serde_json appends the place, which is a field of its own here.
        let text = error.to_string();
        let text = text.split(" at line ").next().unwrap_or_default();
        QmsumError {
            file: self.file.to_owned(),
            place: Place::Line {
                line: error.line(),
                column: error.column(),
            },
            problem: Problem::NotJson(text.to_owned()),
        }
    }

    fn error(&self, path: String, problem: Problem) -> QmsumError {
        QmsumError {
            file: self.file.to_owned(),
            place: Place::Path(path),
            problem,
        }
    }
}

#[cfg(test)]
mod tests;
