//! Real files read completely; broken ones are refused with their place.

use super::{Place, Problem, parse};
use crate::testing::repository;

#[test]
fn the_example_meetings_read() {
    let directory = repository().join("examples/qmsum");
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    names.sort_unstable();
    assert_eq!(names.len(), 5);
    for path in names {
        let bytes = std::fs::read(&path).unwrap();
        let meeting = parse(path.to_str().unwrap(), &bytes).unwrap();
        assert_eq!(meeting.title, path.file_stem().unwrap().to_str().unwrap());
        assert_eq!(meeting.source, format!("qmsum:{}", meeting.title));
        assert!(meeting.segments.len() > 100);
        assert!(meeting.participants.len() >= 4);
        assert!(meeting.summary.unwrap().len() > 100);
    }
}

#[test]
fn order_and_first_appearance_are_kept() {
    let bytes = br#"{"general_query_list": [], "meeting_transcripts": [
        {"speaker": "B", "content": "one"}, {"speaker": "A", "content": ""},
        {"speaker": "B", "content": "three"}]}"#;
    let meeting = parse("dir/x.y.json", bytes).unwrap();
    assert_eq!(meeting.title, "x.y");
    assert_eq!(meeting.participants, ["B", "A"]);
    assert_eq!(meeting.summary, None);
    let ids: Vec<_> = meeting
        .segments
        .iter()
        .map(|one| (one.id.as_str(), one.start))
        .collect();
    assert_eq!(ids, [("000000", 0), ("000001", 1), ("000002", 2)]);
    assert_eq!(meeting.segments[1].text, "");
    let empty = br#"{"general_query_list": [], "meeting_transcripts": []}"#;
    assert_eq!(parse("x", empty).unwrap().pages(), 0);
}

#[test]
fn broken_files_are_refused_with_their_place() {
    let with = |transcripts: &str| {
        format!(r#"{{"general_query_list": [], "meeting_transcripts": {transcripts}}}"#)
    };
    let missing = |expected| Problem::Missing { expected };
    let wrong = |expected, found| Problem::WrongType { expected, found };
    let cases = [
        ("[]".to_owned(), "", wrong("an object", "a list")),
        ("{}".to_owned(), "general_query_list", missing("a list")),
        (
            r#"{"general_query_list": []}"#.to_owned(),
            "meeting_transcripts",
            missing("a list"),
        ),
        (
            r#"{"general_query_list": [{"query": "x"}], "meeting_transcripts": []}"#.to_owned(),
            "general_query_list[0].answer",
            missing("a string"),
        ),
        (
            with("3"),
            "meeting_transcripts",
            wrong("a list", "a number"),
        ),
        (
            with("[null]"),
            "meeting_transcripts[0]",
            wrong("an object", "null"),
        ),
        (
            with(r#"[{"speaker": "A", "content": "x"}, {"speaker": 7, "content": ""}]"#),
            "meeting_transcripts[1].speaker",
            wrong("a string", "a number"),
        ),
        (
            with(r#"[{"speaker": "", "content": "x"}]"#),
            "meeting_transcripts[0].speaker",
            Problem::Empty,
        ),
    ];
    for (text, path, problem) in cases {
        let error = parse("f.json", text.as_bytes()).unwrap_err();
        assert_eq!(error.file, "f.json");
        assert_eq!(error.place, Place::Path(path.to_owned()), "{text}");
        assert_eq!(error.problem, problem, "{text}");
    }
    let long = with(&format!(
        r#"[{{"speaker": "A", "content": "{}"}}]"#,
        "x".repeat(70_000)
    ));
    let error = parse("f.json", long.as_bytes()).unwrap_err();
    assert_eq!(error.problem, Problem::TooLong { bytes: 70_000 });

    let error = parse("f.json", b"{\n  \"a\": tru").unwrap_err();
    assert_eq!(
        error.place,
        Place::Line {
            line: 2,
            column: 10
        }
    );
    assert_eq!(
        error.to_string(),
        "f.json: line 2, column 10: not JSON: EOF while parsing a value"
    );
    let error = parse("f.json", b"{\"a\": \"\xff\"}").unwrap_err();
    assert!(matches!(error.problem, Problem::NotJson(_)));
}
