//! A page reads as its meeting, whatever was written in it: what a Markdown parser makes of it is
//! compared, not only its bytes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use reconvene_core::time::WallTime;

use super::date::{clock, moment};
use super::{MarkdownMeeting, join, meeting};
use crate::meeting::{ActionItem, Deletion, Meeting, MeetingError, Participant, State};
use crate::testing::{NOW, document_id};
use crate::transcript::{Segment, Timebase, TranscriptPage};
use crate::workspace::ProjectId;

fn participant(name: &str) -> Participant {
    Participant {
        name: name.to_owned(),
    }
}

fn page(timebase: Timebase, said: &[(i64, Option<&str>, &str)]) -> TranscriptPage {
    let segments = said
        .iter()
        .enumerate()
        .map(|(place, (start, speaker, text))| Segment {
            id: format!("{place:06}"),
            start: *start,
            end: None,
            speaker: speaker.map(str::to_owned),
            text: (*text).to_owned(),
        });
    TranscriptPage {
        timebase,
        segments: segments.collect(),
        ..TranscriptPage::default()
    }
}

fn full() -> Meeting {
    Meeting {
        title: "Weekly *planning* #3\n".to_owned(),
        notes: "Bring figures.\n\n\n- one\n    - two\n1. three\n".to_owned(),
        summary: "We met & left.".to_owned(),
        project: Some(ProjectId::from_bytes([5; 16])),
        created_at: Some(NOW),
        source: Some("vtt:planning".to_owned()),
        state: Some(State::Completed),
        reached: BTreeMap::from([
            (State::Created, NOW),
            (State::Completed, WallTime::from_millis(1_700_000_060_000)),
        ]),
        error: Some(MeetingError {
            cause: "no\nsound".to_owned(),
            at: Some(NOW),
        }),
        tags: BTreeSet::from(["a_b".to_owned(), "x".to_owned()]),
        participants: BTreeMap::from([
            ("1".to_owned(), participant("Ann <Lee>")),
            ("bob".to_owned(), participant("")),
        ]),
        action_items: BTreeMap::from([
            (
                "1".to_owned(),
                ActionItem {
                    text: "Call [them](now)".to_owned(),
                    done: true,
                    assignee: Some("Bob".to_owned()),
                },
            ),
            (
                "2".to_owned(),
                ActionItem {
                    text: String::new(),
                    done: false,
                    assignee: None,
                },
            ),
        ]),
        deletion: Some(Deletion {
            at: Some(NOW),
            saw_all: false,
            pages: BTreeMap::new(),
        }),
        ..Meeting::default()
    }
}

const FULL: &str = "\
# Weekly \\*planning\\* \\#3

- id: `01010101-0101-0101-0101-010101010101`
- created: 2023-11-14T22:13:20Z
- state: completed
- reached: created 2023-11-14T22:13:20Z, completed 2023-11-14T22:14:20Z
- error: no sound (2023-11-14T22:13:20Z)
- project: Web \\[site\\]
- participants: Ann \\<Lee\\>, bob
- tags: a\\_b, x
- source: vtt:planning
- deletion: deleted 2023-11-14T22:13:20Z, and kept because of what was not seen then

## Summary

We met \\& left.

## Notes

Bring figures.

\\- one\\
\u{a0}\u{a0}\u{a0}\u{a0}\\- two\\
1\\. three

## Action items

- [x] Call \\[them\\](now) (Bob)
- [ ] *No text.*

## Transcript

`00:00:00` **Ann \\<Lee\\>:** Good morning.\\
Shall we?

`101:00:01` nobody knows who

*A page of the transcript has not arrived yet.*

**Bob:** *No text.*
";

#[test]
fn a_page_has_all_that_people_see_of_a_meeting() {
    let pages = [
        Some(page(
            Timebase::Ms,
            &[
                (999, Some("Ann <Lee>"), "Good morning.\r\nShall we?"),
                (101 * 3_600_000 + 1_000, None, "nobody knows who"),
            ],
        )),
        None,
        Some(page(Timebase::Order, &[(0, Some("Bob"), " ")])),
    ];
    let written = full();
    let mut shown = MarkdownMeeting {
        id: document_id(1),
        meeting: &written,
        project: Some("Web [site]"),
        pages: &pages,
    };
    assert_eq!(meeting(&shown), FULL);
    shown.project = None;
    let unknown = "- project: `05050505-0505-0505-0505-050505050505`, which is not known here\n";
    assert!(meeting(&shown).contains(unknown));
}

#[test]
fn what_is_said_begins_right_after_who_says_it() {
    let pages = [Some(page(
        Timebase::Order,
        &[(0, Some("Bob"), " # one\n  two"), (1, None, "\n\t- three")],
    ))];
    let written = Meeting::default();
    let shown = MarkdownMeeting {
        id: document_id(2),
        meeting: &written,
        project: None,
        pages: &pages,
    };
    let said = "**Bob:** \\# one\\\n\u{a0}\u{a0}two\n\n\\- three\n";
    assert!(meeting(&shown).ends_with(said), "{}", meeting(&shown));
}

#[test]
fn what_there_is_not_is_left_out() {
    let written = Meeting::default();
    let shown = MarkdownMeeting {
        id: document_id(2),
        meeting: &written,
        project: None,
        pages: &[],
    };
    let page = meeting(&shown);
    assert_eq!(
        page,
        "# Untitled\n\n- id: `02020202-0202-0202-0202-020202020202`\n"
    );
    assert_eq!(join(&[]), "*No meetings.*\n");
    assert_eq!(join(std::slice::from_ref(&page)), page);
    assert_eq!(
        join(&[page.clone(), page.clone()]),
        format!("{page}\n* * *\n\n{page}")
    );
}

#[test]
fn moments_and_spans_are_written_for_people() {
    for (ms, text) in [
        (0, "1970-01-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59Z"),
        (951_782_400_999, "2000-02-29T00:00:00Z"),
        (951_868_800_000, "2000-03-01T00:00:00Z"),
        (4_107_542_399_000, "2100-02-28T23:59:59Z"),
        (4_107_542_400_000, "2100-03-01T00:00:00Z"),
        (253_402_300_799_000, "9999-12-31T23:59:59Z"),
        (-62_167_219_200_000, "0000-01-01T00:00:00Z"),
        (253_402_300_800_000, "253402300800000 ms after 1970"),
        (i64::MIN, "-9223372036854775808 ms after 1970"),
    ] {
        assert_eq!(moment(WallTime::from_millis(ms)), text);
    }
    assert_eq!(clock(-1_000), "-00:00:01");
    assert_eq!(clock(i64::MIN), "-2562047788015:12:55");
}

/// Every extension that could take text for something else.
fn extensions() -> Options {
    let mut all = Options::all();
    // These only change how quotes and dashes look.
    all.remove(Options::ENABLE_SMART_PUNCTUATION);
    all
}

/// What a parser sees: blocks by name, with their text.
fn blocks(markdown: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut heading = None;
    for event in Parser::new_ext(markdown, extensions()) {
        let is_open = found.last().is_some_and(|(kind, _)| kind != "/");
        let mut add = |text: &str| match found.last_mut() {
            Some((_, content)) if is_open => content.push_str(text),
            _ => panic!("{text:?} is in no block of {markdown:?}"),
        };
        match event {
            Event::Start(Tag::Heading {
                level,
                id,
                classes,
                attrs,
            }) => {
                assert_eq!((id, classes.len(), attrs.len()), (None, 0, 0));
                heading = Some(level);
                found.push((level.to_string(), String::new()));
            }
            Event::Start(Tag::Paragraph) => found.push(("p".to_owned(), String::new())),
            Event::Start(Tag::Item) => found.push(("item".to_owned(), String::new())),
            Event::End(TagEnd::Heading(_)) => heading = None,
            Event::Start(Tag::List(None)) | Event::End(_) => {}
            Event::Start(Tag::Strong) => add("<strong>"),
            Event::Start(Tag::Emphasis) => add("<em>"),
            Event::Text(text) => add(&text),
            Event::Code(text) => add(&format!("<code>{text}")),
            Event::HardBreak => add("\n"),
            Event::TaskListMarker(done) => add(if done { "[x]" } else { "[ ]" }),
            Event::Rule => found.push(("/".to_owned(), String::new())),
            other => panic!("{other:?} in {markdown:?}"),
        }
    }
    assert_eq!(heading, None::<HeadingLevel>);
    found
}

/// The lines of a text, without what cannot be seen.
fn visible(text: &str) -> Vec<String> {
    let is_hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}'..='\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let lines = text.split(['\n', '\r']);
    let lines = lines.map(|line| line.replace(is_hidden, " ").trim().to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

fn one_line(text: &str) -> String {
    let words = visible(text).join(" ");
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text that would be something else, was it not escaped.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "# ",
            "## Summary",
            "- ",
            "+ ",
            "* ",
            "1. ",
            "2) ",
            "> ",
            "```",
            "~~~",
            "    code",
            "\t",
            "---",
            "===",
            "***",
            "___",
            "| a | b |",
            "|---|---|",
            ":-:",
            "[a]: b",
            "[a](b)",
            "![i](j)",
            "<b>",
            "</details>",
            "<!--",
            "-->",
            "<a@b.c>",
            "&amp;",
            "&#35;",
            "\\",
            "\\n",
            "`",
            "``",
            "*",
            "**",
            "_",
            "~~",
            "[ ] ",
            "[x] ",
            "[^1]",
            "[^1]: f",
            "[[w]]",
            "{#id .c}",
            "$x$",
            "$$",
            "\n",
            "\n\n",
            "\r\n",
            "\r",
            "  \n",
            "\\\n",
            " ",
            "\u{a0}",
            "\u{202e}",
            "\u{2028}",
            "\0",
            "^a^",
            "~a~",
            "> [!NOTE]",
            ": d",
            "+++",
            "::: x",
            ":::",
            "a",
            "Word",
            "漢字",
            "é",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,4}",
    ];
    prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn nothing_that_is_written_changes_what_a_page_is(
        title in hostile(), notes in hostile(), summary in hostile(), project in hostile(),
        tag in hostile(), name in hostile(), item in hostile(), said in hostile(),
    ) {
        let written = Meeting {
            title: title.clone(),
            notes: notes.clone(),
            summary: summary.clone(),
            project: Some(ProjectId::from_bytes([5; 16])),
            tags: BTreeSet::from([tag.clone()]),
            participants: BTreeMap::from([("id".to_owned(), participant(&name))]),
            action_items: BTreeMap::from([("1".to_owned(), ActionItem {
                text: item.clone(), done: true, assignee: Some(name.clone()),
            })]),
            ..Meeting::default()
        };
        let pages = [Some(page(Timebase::Ms, &[(1_000, Some(&name), &said)]))];
        let shown = MarkdownMeeting {
            id: document_id(1), meeting: &written, project: Some(&project), pages: &pages,
        };
        let markdown = join(&[meeting(&shown), meeting(&shown)]);

        let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
        let mut expected: Vec<(&str, Vec<String>)> = vec![
            ("h1", vec![or(one_line(&title), "Untitled")]),
            ("item", vec![format!("id: <code>{}", shown.id)]),
            ("item", vec![match one_line(&project) {
                none if none.is_empty() => "project: <code>05050505-0505-0505-0505-050505050505, which is not known here".to_owned(),
                some => format!("project: {some}"),
            }]),
            ("item", vec![format!("participants: {}", or(one_line(&name), "id"))]),
        ];
        if !one_line(&tag).is_empty() {
            expected.push(("item", vec![format!("tags: {}", one_line(&tag))]));
        }
        for (section, text) in [("Summary", &summary), ("Notes", &notes)] {
            if !visible(text).is_empty() {
                expected.push(("h2", vec![section.to_owned()]));
                expected.push(("p", visible(text)));
            }
        }
        let speaker = one_line(&name);
        let by = if speaker.is_empty() { String::new() } else { format!(" ({speaker})") };
        expected.push(("h2", vec!["Action items".to_owned()]));
        expected.push(("item", vec![format!("[x]{}{by}", or(one_line(&item), "<em>No text."))]));
        expected.push(("h2", vec!["Transcript".to_owned()]));
        let by = if speaker.is_empty() { String::new() } else { format!("<strong>{speaker}: ") };
        let mut lines = visible(&said);
        if lines.is_empty() {
            lines.push("<em>No text.".to_owned());
        }
        lines[0] = format!("<code>00:00:01 {by}{}", lines[0]);
        expected.push(("p", lines));
        let once = expected.clone();
        expected.push(("/", Vec::new()));
        expected.extend(once);

        // Paragraphs that follow each other are one text.
        let mut found: Vec<(String, Vec<String>)> = Vec::new();
        for (kind, text) in blocks(&markdown) {
            let lines = visible(&text);
            match found.last_mut() {
                Some((last, before)) if kind == "p" && last == "p" => before.extend(lines),
                _ => found.push((kind, lines)),
            }
        }
        let expected: Vec<_> = expected.into_iter().map(|(kind, lines)| (kind.to_owned(), lines)).collect();
        prop_assert_eq!(found, expected, "{}", markdown);
    }
}
