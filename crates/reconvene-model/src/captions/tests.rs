//! What is written comes back, hard cases read as people mean them, and what cannot be read is refused
//! with its line.

mod written;

use super::{
    BLOCK_BYTES_MAX, CUES_MAX, CaptionError, Format, HOURS_MAX, MARKUP_DEPTH_MAX, Place, Problem,
    parse_srt, parse_vtt,
};
use crate::edit::STRING_BYTES_MAX;
use crate::import::ImportedMeeting;
use crate::testing::repository;
use crate::transcript::Timebase;

/// Start, end, speaker and text of each segment.
type Line<'a> = (i64, i64, Option<&'a str>, &'a str);

fn lines(meeting: &ImportedMeeting) -> Vec<Line<'_>> {
    let lines = meeting.segments.iter().map(|segment| {
        let end = segment.end.expect("captions end");
        let speaker = segment.speaker.as_deref();
        (segment.start, end, speaker, segment.text.as_str())
    });
    lines.collect()
}

fn example(name: &str) -> Vec<u8> {
    std::fs::read(repository().join("examples/captions").join(name)).unwrap()
}

#[test]
fn the_example_in_webvtt_reads_with_voices_and_without_what_is_for_show() {
    let meeting = parse_vtt("some/where/kickoff.vtt", &example("kickoff.vtt")).unwrap();
    assert_eq!(
        (meeting.title.as_str(), meeting.source.as_str()),
        ("kickoff", "vtt:kickoff")
    );
    assert_eq!(meeting.timebase, Timebase::Ms);
    assert_eq!(
        meeting.participants,
        ["Ada Byron", "Charles Babbage", "R&D <remote>"]
    );
    let hours = 123 * 3_600_000;
    assert_eq!(
        lines(&meeting),
        [
            (
                0,
                2_500,
                Some("Ada Byron"),
                "Good morning & welcome.\nShall we begin?"
            ),
            (
                2_000,
                4_000,
                Some("Charles Babbage"),
                "Yes, with the 2 < 3 question."
            ),
            (4_000, 6_250, Some("Ada Byron"), "First the budget."),
            (4_000, 6_250, Some("Charles Babbage"), "It is late."),
            (6_250, 7_000, None, "(laughter)"),
            (
                3_600_000,
                3_601_000,
                Some("R&D <remote>"),
                "漢字 from afar\u{a0}– one\u{200e}."
            ),
            (hours, hours + 1_999, Some("Ada Byron"), "Still here."),
        ]
    );
    let ids: Vec<_> = meeting.segments.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids[..2], ["000000", "000001"]);
}

#[test]
fn the_example_in_subrip_reads_with_names_before_colons() {
    let meeting = parse_srt("kickoff.srt", &example("kickoff.srt")).unwrap();
    assert_eq!(meeting.source, "srt:kickoff");
    assert_eq!(meeting.participants, ["Ada Byron", "CHARLES", "speaker_2"]);
    let hours = 100 * 3_600_000;
    assert_eq!(
        lines(&meeting),
        [
            (
                1_000,
                2_500,
                Some("Ada Byron"),
                "Good morning.\nShall we begin?"
            ),
            (2_000, 4_000, Some("CHARLES"), "Yes &amp; no --> maybe."),
            (4_000, 5_000, Some("Ada Byron"), "First."),
            (4_000, 5_000, Some("speaker_2"), "Second."),
            (
                5_000,
                6_000,
                None,
                "so that is the plan: we wait until 10:30"
            ),
            (hours, hours + 1, None, "late"),
        ]
    );
}

#[test]
fn a_webvtt_file_without_voices_has_names_before_colons() {
    let text =
        "WEBVTT\n\n1\n00:01.000 --> 00:02.000\nAnn Lee: Hi\n\n00:02.000 --> 00:03.000\nBye\n";
    let meeting = parse_vtt("m", text.as_bytes()).unwrap();
    let said = [
        (1_000, 2_000, Some("Ann Lee"), "Hi"),
        (2_000, 3_000, None, "Bye"),
    ];
    assert_eq!(lines(&meeting), said);
    // With a voice anywhere a colon is only a colon.
    let text = text.replace("Bye", "<v Bob>Bye");
    let meeting = parse_vtt("m", text.as_bytes()).unwrap();
    assert_eq!(meeting.participants, ["Bob"]);
    assert_eq!(meeting.segments[0].text, "Ann Lee: Hi");
}

#[test]
fn an_angle_that_begins_no_tag_is_text() {
    let said = |line: &str| {
        let text = format!("WEBVTT\n\n00:00.000 --> 00:01.000\n<v Ann>{line}");
        let meeting = parse_vtt("m", text.as_bytes()).unwrap();
        assert_eq!(meeting.segments.len(), 1, "{line}");
        assert_eq!(meeting.segments[0].speaker.as_deref(), Some("Ann"));
        meeting.segments[0].text.clone()
    };
    for line in [
        "5 < 6 of them",
        "I <3 this",
        "<laughs> ok",
        "so <",
        "at <10:30> or <V Bob>",
        "<>",
        "a <b",
        "</ x>",
    ] {
        assert_eq!(said(line), line);
    }
    for (line, text) in [
        ("a<b.loud>b</b>c<00:00.500>d</v>", "abcd"),
        ("<I>a</I> <font color=\"red\">b</FONT>", "a b"),
        ("<ruby>a<rt>b</rt></ruby><c.x.y>c", "abc"),
        ("a <<i>b</i>> c", "a <b> c"),
        ("&lt;b&gt; &amp;lt; &nope; &", "<b> &lt; &nope; &"),
    ] {
        assert_eq!(said(line), text, "{line}");
    }
}

#[test]
fn names_before_colons_look_like_names() {
    let said = |line: &str| {
        let text = format!("1\n00:00:00,000 --> 00:00:01,000\n{line}\n");
        let meeting = parse_srt("m", text.as_bytes()).unwrap();
        let first = &meeting.segments[0];
        (first.speaker.clone(), first.text.clone())
    };
    for (line, name, text) in [
        ("Lynne Neagle AM: Good.", "Lynne Neagle AM", "Good."),
        ("Ludwig van Beethoven: Ta", "Ludwig van Beethoven", "Ta"),
        ("PhD D:\tYes", "PhD D", "Yes"),
        ("Q: Why: because?", "Q", "Why: because?"),
        ("SPEAKER_01: a", "SPEAKER_01", "a"),
        ("speaker 3: a", "speaker 3", "a"),
        ("Irène: a", "Irène", "a"),
        ("王芳: 好", "王芳", "好"),
        ("<b>Ann</b>: a", "Ann", "a"),
        ("Ann:\nwell", "Ann", "well"),
    ] {
        assert_eq!(
            said(line),
            (Some(name.to_owned()), text.to_owned()),
            "{line}"
        );
    }
    let long = format!("{}: a", "N".repeat(65));
    for line in [
        "at 10:30 we go",
        "Ann:here we go",
        "the plan: go",
        "Right, Ann: go",
        "Really? Ann: go",
        "One Two Three Four Five Six Seven: go",
        ": go",
        "42: go",
        "(Ann): go",
        "Ann:",
        &long,
    ] {
        assert_eq!(said(line), (None, line.to_owned()), "{line}");
    }
}

#[test]
fn names_count_in_a_file_that_begins_with_one() {
    let cue = |text: &str| format!("1\n00:00:00,000 --> 00:00:01,000\n{text}\n\n");
    let speakers = |texts: &[&str]| {
        let file: String = texts.iter().map(|text| cue(text)).collect();
        let meeting = parse_srt("m", file.as_bytes()).unwrap();
        let speakers = meeting.segments.into_iter().map(|one| one.speaker);
        speakers.collect::<Vec<_>>()
    };
    let (ann, bob) = (Some("Ann".to_owned()), Some("Bob".to_owned()));
    assert_eq!(
        speakers(&["Ann: a", "b", "Bob: c"]),
        [ann.clone(), None, bob]
    );
    // What nobody says may come first.
    for aside in ["(music)", "[Applause]", "♪ la ♪", "*door*"] {
        assert_eq!(speakers(&[aside, "Ann: a"]), [None, ann.clone()], "{aside}");
    }
    // Who speaks first is not known, so a later colon may be that of anything.
    assert_eq!(speakers(&["so we begin", "Agenda: one"]), [None, None]);
    assert_eq!(speakers(&["so\nAgenda: one"]), [None]);
}

#[test]
fn line_ends_marks_and_byte_order_marks_do_not_matter() {
    let vtt = "WEBVTT - a title\nKind: captions\n\nNOTE\nnothing\n\nSTYLE\n::cue {}\n\nREGION\nid:a\n\nid\n\
               00:01.000 --> 00:02.000 align:start line:0%\na\nb\n\n\n00:01.500-->00:03.000\n";
    let expected = parse_vtt("m", vtt.as_bytes()).unwrap();
    assert_eq!(lines(&expected), [(1_000, 2_000, None, "a\nb")]);
    let srt = "1\n00:00:01,000 --> 00:00:02.000 X1:40 X2:600\n{\\an8}a\nb\n \n2\n0:00:01.500 --> 0:00:03,000\n";
    let other = parse_srt("m", srt.as_bytes()).unwrap();
    assert_eq!(lines(&other), lines(&expected));
    for (one, parse) in [
        (
            vtt,
            parse_vtt as fn(&str, &[u8]) -> Result<ImportedMeeting, CaptionError>,
        ),
        (srt, parse_srt),
    ] {
        let first = parse("m", one.as_bytes()).unwrap();
        for ends in ["\r\n", "\r"] {
            let other = format!("\u{feff}{}", one.replace('\n', ends));
            assert_eq!(parse("m", other.as_bytes()).unwrap(), first);
            let cut = other.trim_end();
            assert_eq!(parse("m", cut.as_bytes()).unwrap(), first);
        }
    }
}

#[test]
fn cues_in_any_order_are_read_in_that_of_their_times() {
    let text = "WEBVTT\n\n00:09.000 --> 00:10.000\nlast\n\n00:01.000 --> 00:20.000\nfirst\n\n\
                00:01.000 --> 00:02.000\nsecond\n";
    let meeting = parse_vtt("m", text.as_bytes()).unwrap();
    let texts: Vec<_> = meeting
        .segments
        .iter()
        .map(|one| one.text.as_str())
        .collect();
    assert_eq!(texts, ["first", "second", "last"]);
}

fn refused(format: Format, text: &[u8]) -> (Place, Problem) {
    let parse = match format {
        Format::WebVtt => parse_vtt,
        Format::SubRip => parse_srt,
    };
    let error = parse("dir/bad.txt", text).expect_err("it is broken");
    assert_eq!(error.file, "dir/bad.txt");
    (error.place, error.problem)
}

#[test]
fn what_cannot_be_read_is_refused_with_its_line_and_cue() {
    use Format::{SubRip, WebVtt};
    let good = "WEBVTT\n\n00:01.000 --> 00:02.000\na\n\n";
    let after = |text: &str| format!("{good}{text}");
    let at = |line, cue| Place::Line {
        line,
        cue: Some(cue),
    };
    let start = Place::Line { line: 1, cue: None };
    for (text, place, problem) in [
        (String::new(), start, Problem::NoSignature),
        ("WEBVTTx\n".to_owned(), start, Problem::NoSignature),
        (
            "1\n00:00:01,000 --> 00:00:02,000\na".to_owned(),
            start,
            Problem::NoSignature,
        ),
        (
            "WEBVTT\n00:01.000 --> 00:02.000\na".to_owned(),
            at(2, 1),
            Problem::TimesWithin,
        ),
        (
            "WEBVTT\n\nNOTE x\n".to_owned(),
            Place::Whole,
            Problem::NoCues(WebVtt),
        ),
        (after("left behind"), at(6, 2), Problem::NotTimed(WebVtt)),
        (
            after("id\n00:03.000 -> 00:04.000\nb"),
            at(7, 2),
            Problem::NotTimed(WebVtt),
        ),
        (
            after("id\nid\n00:03.000 --> 00:04.000\nb"),
            at(7, 2),
            Problem::NotTimed(WebVtt),
        ),
        (
            after("00:03,000 --> 00:04.000\nb"),
            at(6, 2),
            Problem::BadTimes(WebVtt),
        ),
        (
            after("00:03.000 -->\nb"),
            at(6, 2),
            Problem::BadTimes(WebVtt),
        ),
        (
            after("00:60.000 --> 01:61.000\nb"),
            at(6, 2),
            Problem::BadTimes(WebVtt),
        ),
        (
            after("1:00:3.000 --> 1:00:04.000\nb"),
            at(6, 2),
            Problem::BadTimes(WebVtt),
        ),
        (
            after("00:03.0 --> 00:04.000\nb"),
            at(6, 2),
            Problem::BadTimes(WebVtt),
        ),
        (
            after("00:03.000 --> 00:04.000%align\nb"),
            at(6, 2),
            Problem::BadTimes(WebVtt),
        ),
        (
            after("-1:00:03.000 --> 00:04.000\nb"),
            at(6, 2),
            Problem::BadTimes(WebVtt),
        ),
        (
            after("00:04.000 --> 00:03.999\nb"),
            at(6, 2),
            Problem::Backwards,
        ),
        (
            after("00:04.000 --> 100000:00:03.000\nb"),
            at(6, 2),
            Problem::TooLate,
        ),
        (
            after(&format!("00:04.000 --> {}:00:03.000\nb", "9".repeat(40))),
            at(6, 2),
            Problem::TooLate,
        ),
        (
            after("00:03.000 --> 00:04.000\nb\nc --> d"),
            at(8, 2),
            Problem::TimesWithin,
        ),
        (
            after("NOTE x\n00:03.000 --> 00:04.000\nb"),
            at(7, 2),
            Problem::TimesWithin,
        ),
        (
            after(&format!(
                "00:03.000 --> 00:04.000\n{}b",
                "<i>".repeat(MARKUP_DEPTH_MAX + 1)
            )),
            at(6, 2),
            Problem::TooDeep,
        ),
        (
            after(&format!(
                "00:03.000 --> 00:04.000\n{}",
                "b".repeat(STRING_BYTES_MAX + 1)
            )),
            at(6, 2),
            Problem::TooLong {
                bytes: STRING_BYTES_MAX + 1,
            },
        ),
    ] {
        assert_eq!(
            refused(WebVtt, text.as_bytes()),
            (place, problem),
            "{text:.60}"
        );
    }
    let good = "1\n00:00:01,000 --> 00:00:02,000\na\n\n";
    let after = |text: &str| format!("{good}{text}");
    for (text, place, problem) in [
        (String::new(), Place::Whole, Problem::NoCues(SubRip)),
        ("\n \n".to_owned(), Place::Whole, Problem::NoCues(SubRip)),
        (
            "WEBVTT\n\n1".to_owned(),
            at(1, 1),
            Problem::NotTimed(SubRip),
        ),
        (
            after("left behind\nand more"),
            at(5, 2),
            Problem::NotTimed(SubRip),
        ),
        (after("2"), at(5, 2), Problem::NotTimed(SubRip)),
        (
            after("2\n00:00:03,000 -> 00:00:04,000\nb"),
            at(6, 2),
            Problem::NotTimed(SubRip),
        ),
        (
            after("b\n00:00:03,000 --> 00:00:04,000\nb"),
            at(5, 2),
            Problem::NotTimed(SubRip),
        ),
        (
            after("2\n00:03,000 --> 00:04,000\nb"),
            at(6, 2),
            Problem::BadTimes(SubRip),
        ),
        (
            after("2\n00:00:03,000 --> 00:00:04,000\nb\n3\n00:00:05,000 --> 00:00:06,000\nc"),
            at(9, 2),
            Problem::TimesWithin,
        ),
    ] {
        assert_eq!(
            refused(SubRip, text.as_bytes()),
            (place, problem),
            "{text:.60}"
        );
    }
    let latin = b"1\n00:00:01,000 --> 00:00:02,000\ncaf\xe9\n";
    let third = Place::Line { line: 3, cue: None };
    assert_eq!(refused(SubRip, latin), (third, Problem::NotUtf8));
    assert_eq!(at(7, 2).to_string(), "line 7, cue 2");
}

#[test]
fn a_file_is_read_up_to_its_limits() {
    let latest = format!("{HOURS_MAX}:59:59.999");
    let text = format!(
        "WEBVTT\n\n{latest} --> {latest}\n{}x",
        "<i>".repeat(MARKUP_DEPTH_MAX)
    );
    let meeting = parse_vtt("m", text.as_bytes()).unwrap();
    assert_eq!(meeting.segments[0].text, "x");
    let cue = "00:00:00,000 --> 00:00:01,000\na\n\n";
    let full = cue.repeat(CUES_MAX);
    let meeting = parse_srt("m", full.as_bytes()).unwrap();
    assert_eq!(meeting.segments.len(), CUES_MAX);
    let (_, problem) = refused(Format::SubRip, format!("{full}{cue}").as_bytes());
    assert_eq!(problem, Problem::TooMany);
    // As many cues, but more people in one of them.
    let two = "00:00:00,000 --> 00:00:01,000\nA: a\nB: b\n\n";
    let full = format!("{two}{}", cue.repeat(CUES_MAX - 1));
    let (_, problem) = refused(Format::SubRip, full.as_bytes());
    assert_eq!(problem, Problem::TooMany);
}

#[test]
fn what_would_take_a_lot_of_memory_is_refused_where_it_begins() {
    let vtt = |rest: &str| parse_vtt("file.vtt", format!("WEBVTT\n\n{rest}").as_bytes());
    let time = "00:00.000 --> 00:01.000\n";
    let lines = format!("{time}{}", "a\n".repeat(BLOCK_BYTES_MAX));
    let note = format!("NOTE\n{}", "a\n".repeat(BLOCK_BYTES_MAX));
    for long in [lines, note] {
        let error = vtt(&long).unwrap_err();
        let place = Place::Line {
            line: 3,
            cue: Some(1),
        };
        assert_eq!(error.place, place);
        assert!(matches!(error.problem, Problem::TooLong { .. }), "{error}");
    }
    let voices = format!("{time}{}\n\n", "<v A>x</v><v B>y</v>".repeat(5_000));
    let error = vtt(&voices.repeat(11)).unwrap_err();
    assert_eq!(error.problem, Problem::TooMany);
    assert!(vtt(&voices.repeat(10)).is_ok());
}
