//! Captions written by the tests: real meetings and made ones come back as they were, and nothing that
//! can be in a file makes the reader panic.

use fasrt::vtt::{Block, Parser};
use proptest::prelude::*;

use super::{Line, lines};
use crate::captions::{parse_srt, parse_vtt};
use crate::testing::repository;

/// What is written and must come back.
#[derive(Clone, Debug)]
struct Written {
    start: i64,
    end: i64,
    speaker: Option<String>,
    text: String,
}

impl Written {
    fn line(&self) -> Line<'_> {
        (self.start, self.end, self.speaker.as_deref(), &self.text)
    }
}

fn time(ms: i64, separator: char) -> String {
    let (seconds, ms) = (ms / 1_000, ms % 1_000);
    let (minutes, seconds) = (seconds / 60, seconds % 60);
    let (hours, minutes) = (minutes / 60, minutes % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}{separator}{ms:03}")
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;")
}

fn vtt(cues: &[Written], line_end: &str) -> String {
    let mut out = "WEBVTT\n\n".to_owned();
    for cue in cues {
        let (start, end) = (time(cue.start, '.'), time(cue.end, '.'));
        out.push_str(&format!("{start} --> {end} align:start\n"));
        let text = escaped(&cue.text);
        match &cue.speaker {
            Some(name) => out.push_str(&format!("<v {}>{text}</v>\n\n", escaped(name))),
            None => out.push_str(&format!("{text}\n\n")),
        }
    }
    out.replace('\n', line_end)
}

fn srt(cues: &[Written], separator: char, line_end: &str) -> String {
    let mut out = String::new();
    for (number, cue) in (1..).zip(cues) {
        let (start, end) = (time(cue.start, separator), time(cue.end, separator));
        out.push_str(&format!("{number}\n{start} --> {end}\n"));
        match &cue.speaker {
            Some(name) => out.push_str(&format!("{name}: {}\n\n", cue.text)),
            None => out.push_str(&format!("{}\n\n", cue.text)),
        }
    }
    out.replace('\n', line_end)
}

fn check_vtt(cues: &[Written], line_end: &str) {
    let meeting = parse_vtt("m.vtt", vtt(cues, line_end).as_bytes()).unwrap();
    assert_eq!(
        lines(&meeting),
        cues.iter().map(Written::line).collect::<Vec<_>>()
    );
}

fn check_srt(cues: &[Written], separator: char, line_end: &str) {
    let meeting = parse_srt("m.srt", srt(cues, separator, line_end).as_bytes()).unwrap();
    assert_eq!(
        lines(&meeting),
        cues.iter().map(Written::line).collect::<Vec<_>>()
    );
}

/// The utterances of a real meeting, each some seconds long, every other one begun before the last one
/// ended.
fn real(name: &str) -> Vec<Written> {
    let path = repository().join(format!("examples/qmsum/{name}.json"));
    let bytes = std::fs::read(path).unwrap();
    let meeting = crate::qmsum::parse(name, &bytes).unwrap();
    let mut start = 0;
    let spoken = meeting.segments.into_iter().filter_map(|segment| {
        let text = segment.text.trim().to_owned();
        let long = 300 * i64::try_from(text.split_whitespace().count()).unwrap();
        let written = Written {
            start,
            end: start + long,
            speaker: segment.speaker,
            text,
        };
        start += long - (start % 2) * 200;
        (!written.text.is_empty()).then_some(written)
    });
    let mut spoken: Vec<_> = spoken.collect();
    spoken.sort_by_key(|one| one.start);
    spoken
}

#[test]
fn real_meetings_come_back_from_webvtt_and_subrip() {
    for name in ["ES2002a", "ES2005a", "IS1000a", "Bro007", "education_3"] {
        let cues = real(name);
        assert!(cues.len() > 100, "{name}");
        check_vtt(&cues, "\n");
        check_vtt(&cues, "\r\n");
        check_srt(&cues, ',', "\r\n");
        check_srt(&cues, '.', "\n");
    }
}

/// A line of text that no format takes for anything else: not blank, no spaces around.
fn line() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        "[a-z]{1,8}",
        "[\\PC&&[^\\s\u{feff}]]{1,4}",
        Just("&amp;".to_owned()),
        Just("a<b>".to_owned()),
        Just("-- >".to_owned()),
        Just("\u{301}x".to_owned()),
    ];
    prop::collection::vec(word, 1..6).prop_map(|words| format!("x{}", words.join(" ")))
}

fn cues(text: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<Written>> {
    let name = "[A-Z][a-z]{0,6}( [A-Z][a-z]{1,6}){0,2}";
    let start = prop_oneof![0..10_000_i64, 0..1_000_000_000_i64];
    let cue = (start, 0..100_000_i64, prop::option::of(name), text).prop_map(
        |(start, long, speaker, text)| Written {
            start,
            end: start + long,
            speaker,
            text,
        },
    );
    prop::collection::vec(cue, 1..12).prop_map(|mut cues| {
        cues.sort_by_key(|cue| cue.start);
        cues
    })
}

proptest! {
    #[test]
    fn what_is_written_as_webvtt_comes_back(
        // Somebody speaks, so that no colon is taken for that of a name.
        mut cues in cues(prop::collection::vec(line(), 1..4).prop_map(|lines| lines.join("\n"))),
        line_end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
    ) {
        cues[0].speaker = Some("Ann & <Bob>".to_owned());
        check_vtt(&cues, line_end);
    }

    #[test]
    fn what_is_written_as_subrip_comes_back(
        // The first one speaks, so that names before colons are taken for such.
        mut cues in cues("x[a-z ]{0,20}[a-z&-](\nx[a-z ,.]{0,20}[a-z])?"),
        separator in prop_oneof![Just(','), Just('.')],
        line_end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
    ) {
        cues[0].speaker = Some("Ann".to_owned());
        check_srt(&cues, separator, line_end);
    }

    /// What is read here, a parser that follows the standard to the letter reads, too: the same cues,
    /// the same times.
    #[test]
    fn a_parser_of_the_standard_sees_the_same_cues(
        cues in cues(prop::collection::vec(line(), 1..4).prop_map(|lines| lines.join("\n"))),
    ) {
        let text = vtt(&cues, "\n");
        let mut expected: Vec<_> = cues.iter().map(|cue| (cue.start, cue.end)).collect();
        let mut found = Vec::new();
        for block in Parser::new(&text) {
            if let Block::Cue(cue) = block.unwrap() {
                let ms = |time: fasrt::vtt::Timestamp| i64::try_from(time.to_duration().as_millis()).unwrap();
                found.push((ms(cue.header_ref().start()), ms(cue.header_ref().end())));
            }
        }
        expected.sort_unstable();
        found.sort_unstable();
        prop_assert_eq!(expected, found);
    }

    /// Whatever stands between them: words are text, and stay in their order.
    #[test]
    fn no_word_is_lost_between_what_looks_like_markup(
        between in prop::collection::vec(prop::sample::select(vec![
            "<", ">", "</", "<3", "<>", "<laughs>", "<b>", "</b>", "</v>", "<i.x>", "</I>", "<10:30>",
            "<00:01.000>", "&", "&lt", "&lt;", "&amp;", "&#", "&#60;", "{", "}", "{x}", "\n", " ", "\0", "é",
        ]), 1..20),
    ) {
        let body = between.iter().enumerate().fold("w".to_owned(), |body, (place, piece)| {
            format!("{body}{piece} w{place} ")
        });
        for (read, end) in [
            (parse_vtt("m", format!("WEBVTT\n\n00:01.000 --> 00:02.000\n{body}").as_bytes()), "vtt"),
            (parse_srt("m", format!("00:00:01,000 --> 00:00:02,000\n{body}").as_bytes()), "srt"),
        ] {
            let meeting = read.unwrap();
            let said: Vec<_> = meeting.segments.iter().map(|one| one.text.as_str()).collect();
            let said = said.join(" ");
            let mut rest = said.as_str();
            for place in 0..between.len() {
                let found = rest.split_once(&format!(" w{place}"));
                prop_assert!(found.is_some(), "w{place} in {said:?}, {end} of {body:?}");
                rest = found.map_or("", |(_, rest)| rest);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check_any(&bytes);
    }

    /// Files that are nearly right: pieces of cues in any order.
    #[test]
    fn any_pieces_are_read_or_refused(
        pieces in prop::collection::vec(prop_oneof![
            Just("WEBVTT"), Just("\n"), Just("\n\n"), Just("\r\n"), Just("\u{feff}"), Just("1"),
            Just("00:01.000"), Just("00:00:01,000"), Just(" --> "), Just("-->"), Just("99999999999999999999"),
            Just("<v Ann>"), Just("</v>"), Just("<v"), Just("<00:01.000>"), Just("<ruby>"), Just("<rt>"),
            Just("&"), Just("&lt;"), Just("&#0;"), Just("&#x110000;"), Just("{\\an8}"), Just("{"), Just("<"),
            Just("NOTE"), Just("STYLE"), Just("REGION"), Just(":"), Just("Ann: "), Just("\0"), Just("é"),
            Just("00:01.000 --> 00:02.000\n"), Just("00:00:01,000 --> 00:00:02,000\n"),
        ], 0..40),
    ) {
        let text = pieces.concat();
        check_any(text.as_bytes());
        check_any(format!("WEBVTT\n\n{text}").as_bytes());
    }
}

/// Reads as either format; what is read keeps the rules of a meeting.
fn check_any(bytes: &[u8]) {
    for read in [parse_vtt("m", bytes), parse_srt("m", bytes)] {
        let Ok(meeting) = read else { continue };
        for segment in &meeting.segments {
            assert!(segment.end.unwrap() >= segment.start && segment.start >= 0);
            assert!(!segment.text.trim().is_empty());
            if let Some(name) = &segment.speaker {
                assert!(meeting.participants.contains(name) && !name.trim().is_empty());
            }
        }
        assert!(meeting.segments.is_sorted_by_key(|segment| segment.start));
    }
}
