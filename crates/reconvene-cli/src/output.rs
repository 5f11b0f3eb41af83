//! Stdout: one JSON document, JSON Lines, or text for people.
//!
//! A reader that has gone away is no error and never a panic; whoever streams asks and stops.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Value, json};

use crate::failure::Failure;

/// Whether anyone still reads what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Yes.
    Present,
    /// The other end of the pipe is closed.
    Gone,
}

/// How the answer is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// Answers in JSON, or in text.
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether it answers in JSON.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Writes an answer: as JSON on one line, or as `human` renders it.
    pub(crate) fn answer(
        self,
        value: &Value,
        human: impl FnOnce(&Value) -> String,
    ) -> Result<Reader, Failure> {
        if self.json {
            write_line(&to_text(value)?)
        } else {
            write_line(&human(value))
        }
    }

    /// Tells a failure: on stdout with JSON, else on stderr.
    pub(crate) fn failure(self, failure: &Failure) {
        let told = if self.json {
            to_text(&json!({ "error": failure })).and_then(|text| write_line(&text).map(drop))
        } else {
            let mut text = format!("error: {}\n", failure.message);
            if let Some(hint) = &failure.hint {
                text.push_str(&format!("  next: {hint}\n"));
            }
            io::stderr().write_all(text.as_bytes()).map_err(not_written)
        };
        if let Err(error) = told {
            // The exit code still tells.
            tracing::error!(%error.message, code = failure.code, "the failure could not be told");
        }
    }
}

/// Writes text as it is, and a line end where it has none; nothing for no text.
pub(crate) fn write_line(text: &str) -> Result<Reader, Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| match text.is_empty() || text.ends_with('\n') {
            true => Ok(()),
            false => stdout.write_all(b"\n"),
        })
        .and_then(|()| stdout.flush());
    match written {
        Ok(()) => Ok(Reader::Present),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(not_written(error)),
    }
}

/// Any answer as a JSON value.
pub(crate) fn to_value(answer: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(answer).map_err(not_json)
}

fn to_text(value: &Value) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(not_json)
}

fn not_json(error: serde_json::Error) -> Failure {
    Failure::new("internal", format!("the answer has no JSON form: {error}"))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is used as a `map_err` function"
)]
fn not_written(error: io::Error) -> Failure {
    Failure::new("io", format!("the answer could not be written: {error}"))
        .with_hint("check where the output goes; the command itself was carried out")
}
