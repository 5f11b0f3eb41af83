//! The command line is read as documented, flags in any order.

use std::path::Path;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use reconvene::State;

use super::{Args, Command, ImportCommand, MeetingCommand};
use crate::request::TagEdit;
use crate::time::rfc3339;

fn parse(line: &str) -> Args {
    try_parse(line).unwrap_or_else(|error| panic!("`{line}`: {error}"))
}

fn try_parse(line: &str) -> Result<Args, clap::Error> {
    Args::try_parse_from(line.split(' '))
}

#[test]
fn the_definition_is_sound() {
    Args::command().debug_assert();
}

#[test]
fn data_and_json_stand_before_or_after_the_command() {
    for line in [
        "reconvene --data d --json meeting list",
        "reconvene meeting list --data d --json",
        "reconvene --json meeting --data d list",
        "reconvene meeting --json list --data=d",
    ] {
        let args = parse(line);
        assert!(args.json, "{line}");
        assert_eq!(args.data.as_deref(), Some(Path::new("d")), "{line}");
        let Command::Meeting(MeetingCommand::List(list)) = args.command else {
            panic!("{line}: {:?}", args.command);
        };
        assert_eq!((list.limit, list.after), (50, None));
    }
}

#[test]
fn tags_are_added_and_taken_away() {
    let line = "reconvene meeting edit M --tag +x --tag -y --tag=-z --tag +-w --json";
    let Command::Meeting(MeetingCommand::Edit(edit)) = parse(line).command else {
        panic!("another command");
    };
    let add = |tag: &str| TagEdit::Add(tag.to_owned());
    let remove = |tag: &str| TagEdit::Remove(tag.to_owned());
    assert_eq!(
        edit.changes.tag,
        [add("x"), remove("y"), remove("z"), add("-w")]
    );
}

#[test]
fn the_other_changes_of_a_meeting() {
    let line = "reconvene meeting edit M --title T --append-note -item --state completed";
    let Command::Meeting(MeetingCommand::Edit(edit)) = parse(line).command else {
        panic!("another command");
    };
    assert_eq!(edit.changes.title.as_deref(), Some("T"));
    assert_eq!(edit.changes.append_note.as_deref(), Some("-item"));
    assert_eq!(edit.changes.state, Some(State::Completed));
}

#[test]
fn a_filter_is_the_same_for_a_page_and_for_watching() {
    for watch in ["", " --watch"] {
        let line = format!(
            "reconvene meeting list{watch} --project P --state recording --state stopped --since \
             2026-01-31 --until 2026-02-01T12:00:00Z --text T --tag x --tag y"
        );
        let Command::Meeting(MeetingCommand::List(list)) = parse(&line).command else {
            panic!("another command");
        };
        assert_eq!(list.watch, !watch.is_empty());
        let filter = list.filter;
        assert_eq!(filter.project.as_deref(), Some("P"));
        assert_eq!(filter.state, [State::Recording, State::Stopped]);
        assert_eq!(
            filter.since.map(rfc3339).as_deref(),
            Some("2026-01-31T00:00:00Z")
        );
        assert_eq!(
            filter.until.map(rfc3339).as_deref(),
            Some("2026-02-01T12:00:00Z")
        );
        assert_eq!((filter.text.as_deref(), filter.tag.len()), (Some("T"), 2));
    }
}

#[test]
fn durations_are_written_with_units() {
    let Command::Invite { expires, .. } = parse("reconvene invite --expires 90m").command else {
        panic!("another command");
    };
    assert_eq!(expires, Duration::from_secs(5_400));
    let Command::Invite { expires, member } = parse("reconvene invite").command else {
        panic!("another command");
    };
    assert_eq!((expires, member), (Duration::from_secs(3_600), None));
    let Command::Sync { timeout, watch, .. } = parse("reconvene sync").command else {
        panic!("another command");
    };
    assert_eq!((timeout, watch), (Duration::from_secs(30), false));
}

#[test]
fn addresses_and_files_may_repeat() {
    let line = "reconvene serve --listen a --listen b --announce c";
    let Command::Serve(serve) = parse(line).command else {
        panic!("another command");
    };
    assert_eq!(serve.listen, ["a", "b"]);
    assert_eq!(serve.announce, ["c"]);
    let Command::Import(ImportCommand::Qmsum { files }) =
        parse("reconvene import qmsum a b").command
    else {
        panic!("another command");
    };
    assert_eq!(files.len(), 2);
    let Command::Import(ImportCommand::Srt { files }) = parse("reconvene import srt a b").command
    else {
        panic!("another command");
    };
    assert_eq!(files.len(), 2);
}

#[test]
fn one_meeting_is_exported_as_markdown_alone() {
    let Command::Export(export) = parse("reconvene export --markdown --meeting M").command else {
        panic!("another command");
    };
    assert!(export.markdown);
    assert_eq!(export.meeting.as_deref(), Some("M"));
    let Command::Export(export) = parse("reconvene export").command else {
        panic!("another command");
    };
    assert!(!export.markdown && export.meeting.is_none());
}

#[test]
fn what_makes_no_sense_is_refused_and_explained() {
    for (line, why) in [
        ("reconvene meeting edit M", "required"),
        ("reconvene meeting edit M --tag x", "write +x to add it"),
        ("reconvene meeting edit M --tag +", "must not be empty"),
        ("reconvene meeting edit M --tag --json", "a tag is missing"),
        ("reconvene meeting edit M --state over", "one of created"),
        ("reconvene meeting list --limit 0", "0 is not in 1..=1000"),
        ("reconvene invite --expires soon", "write it like 90s"),
        ("reconvene invite --expires 0s", "longer than nothing"),
        ("reconvene sync --watch --timeout 3s", "cannot be used with"),
        (
            "reconvene meeting list --watch --limit 5",
            "cannot be used with",
        ),
        (
            "reconvene meeting list --since tomorrow",
            "write a day like 2026-01-31",
        ),
        ("reconvene import qmsum", "required"),
        ("reconvene import vtt", "required"),
        ("reconvene export --meeting M", "--markdown"),
        ("reconvene frobnicate", "unrecognized subcommand"),
    ] {
        let error = try_parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
        let text = error.to_string();
        assert!(text.contains(why), "{line}: {text}");
    }
}
