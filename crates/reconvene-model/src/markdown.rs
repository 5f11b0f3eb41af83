//! A meeting as Markdown, for people: the same bytes on every replica that holds the same.
//!
//! Everything that somebody wrote is escaped, so that it reads as it was written and is no heading,
//! list, table or other markup of the page. (What looks like a web address is made a link of by some
//! readers all the same.) What people see is here; conflicts are only counted, and what
//! programs need is in [`crate::export`].

mod date;
mod escape;

use std::fmt::Write;

use reconvene_core::ids::DocumentId;

use self::date::{clock, moment};
use self::escape::{after_space, inline, paragraphs};
use crate::meeting::Meeting;
use crate::transcript::{Segment, Timebase, TranscriptPage};

/// What a meeting is called that has no title.
const UNTITLED: &str = "Untitled";
/// What stands for a transcript page that a meeting lists and that has not arrived.
const MISSING_PAGE: &str = "*A page of the transcript has not arrived yet.*";
/// What stands where nothing was written.
const NO_TEXT: &str = "*No text.*";
/// What stands between meetings.
const RULE: &str = "\n* * *\n\n";
/// What stands for a workspace without meetings.
const NO_MEETINGS: &str = "*No meetings.*\n";

/// A meeting to be written as Markdown.
#[derive(Clone, Copy, Debug)]
pub struct MarkdownMeeting<'a> {
    /// Its id.
    pub id: DocumentId,
    /// The meeting.
    pub meeting: &'a Meeting,
    /// The name of its project; `None` if that is not known here.
    pub project: Option<&'a str>,
    /// Its transcript pages in reading order, `None` for those that have not arrived.
    pub pages: &'a [Option<TranscriptPage>],
}

/// Writes one meeting: its title as a heading, a list of what there is to know, then its summary, notes,
/// action items and transcript, each if there is any.
pub fn meeting(shown: &MarkdownMeeting<'_>) -> String {
    let meeting = shown.meeting;
    let mut out = String::new();
    put(
        &mut out,
        format_args!("# {}\n\n", or(&inline(&meeting.title), UNTITLED)),
    );
    facts(&mut out, shown);
    section(&mut out, "Summary", &paragraphs(&meeting.summary));
    section(&mut out, "Notes", &paragraphs(&meeting.notes));
    section(&mut out, "Action items", &action_items(meeting));
    section(&mut out, "Transcript", &transcript(shown.pages));
    out
}

/// Joins meetings that were written by [`meeting`], in this order.
pub fn join(meetings: &[String]) -> String {
    match meetings {
        [] => NO_MEETINGS.to_owned(),
        meetings => meetings.join(RULE),
    }
}

fn facts(out: &mut String, shown: &MarkdownMeeting<'_>) {
    let meeting = shown.meeting;
    let state = meeting.state.map_or("", |state| state.as_str());
    let reached = meeting.reached.iter();
    let reached: Vec<_> = reached
        .map(|(state, at)| format!("{} {}", state.as_str(), moment(*at)))
        .collect();
    let project = match (meeting.project, shown.project) {
        (None, _) => String::new(),
        (Some(_), Some(name)) if !inline(name).is_empty() => inline(name),
        (Some(id), _) => format!("`{id}`, which is not known here"),
    };
    let participants = meeting.participants.iter();
    let participants: Vec<_> = participants
        .map(|(id, participant)| or(&inline(&participant.name), &inline(id)).to_owned())
        .collect();
    let tags: Vec<_> = meeting.tags.iter().map(|tag| inline(tag)).collect();
    let error = meeting.error.as_ref().map_or_else(String::new, |error| {
        let at = error.at.map(|at| format!(" ({})", moment(at)));
        format!("{}{}", inline(&error.cause), at.unwrap_or_default())
    });
    // One that had effect would not be shown.
    let deletion = meeting
        .deletion
        .as_ref()
        .map_or_else(String::new, |deletion| {
            let at = deletion.at.map(|at| format!(" {}", moment(at)));
            let at = at.unwrap_or_default();
            format!("deleted{at}, and kept because of what was not seen then")
        });
    let conflicts = match meeting.conflicts.len() {
        0 => String::new(),
        count => format!("{count}, to be settled"),
    };
    for (name, value) in [
        ("id", format!("`{}`", shown.id)),
        (
            "created",
            meeting.created_at.map(moment).unwrap_or_default(),
        ),
        ("state", state.to_owned()),
        ("reached", reached.join(", ")),
        ("error", error),
        ("project", project),
        ("participants", participants.join(", ")),
        ("tags", tags.join(", ")),
        (
            "source",
            inline(meeting.source.as_deref().unwrap_or_default()),
        ),
        ("deletion", deletion),
        ("conflicts", conflicts),
    ] {
        if !value.is_empty() {
            put(out, format_args!("- {name}: {value}\n"));
        }
    }
}

fn action_items(meeting: &Meeting) -> String {
    let mut out = String::new();
    for item in meeting.action_items.values() {
        let done = if item.done { 'x' } else { ' ' };
        let text = inline(&item.text);
        put(&mut out, format_args!("- [{done}] {}", or(&text, NO_TEXT)));
        let assignee = inline(item.assignee.as_deref().unwrap_or_default());
        if !assignee.is_empty() {
            put(&mut out, format_args!(" ({assignee})"));
        }
        out.push('\n');
    }
    out
}

fn transcript(pages: &[Option<TranscriptPage>]) -> String {
    let mut parts = Vec::new();
    for page in pages {
        match page {
            None => parts.push(format!("{MISSING_PAGE}\n")),
            Some(page) => {
                let said = page.segments.iter();
                parts.extend(said.map(|segment| said_of(segment, page.timebase)));
            }
        }
    }
    parts.join("\n")
}

/// One segment: the time if it has one, the speaker if one is known, and what was said.
fn said_of(segment: &Segment, timebase: Timebase) -> String {
    let mut out = String::new();
    if timebase == Timebase::Ms {
        put(&mut out, format_args!("`{}` ", clock(segment.start)));
    }
    let speaker = inline(segment.speaker.as_deref().unwrap_or_default());
    if !speaker.is_empty() {
        put(&mut out, format_args!("**{speaker}:** "));
    }
    // It begins on a line that has begun already.
    let text = paragraphs(after_space(&segment.text));
    match text.is_empty() {
        true => put(&mut out, format_args!("{NO_TEXT}\n")),
        false => out.push_str(&text),
    }
    out
}

fn section(out: &mut String, name: &str, body: &str) {
    if !body.is_empty() {
        put(out, format_args!("\n## {name}\n\n{body}"));
    }
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    match text.is_empty() {
        true => otherwise,
        false => text,
    }
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes every write");
}

#[cfg(test)]
mod tests;
