//! The cues of a caption file: blocks of lines between empty ones, each with its time line.

use super::times::{self, ARROW};
use super::{BLOCK_BYTES_MAX, CUES_MAX, Fault, Format, Place, Problem};

/// One cue: when, and its text as the file has it.
pub(super) struct Cue {
    /// The place of its time line.
    pub(super) place: Place,
    /// When it begins, in milliseconds.
    pub(super) start: i64,
    /// When it ends; no earlier.
    pub(super) end: i64,
    /// Its lines, with markup.
    pub(super) body: String,
}

/// A line and its number, from 1.
type Line<'a> = (usize, &'a str);

/// Reads all cues, in the file's order. The text has line feeds only.
pub(super) fn read(text: &str, format: Format) -> Result<Vec<Cue>, Fault> {
    let mut lines = (1..).zip(text.split('\n'));
    if format == Format::WebVtt {
        pass_header(&mut lines)?;
    }
    let mut cues = Vec::new();
    // No more of the file is held as lines than one block: they take more than what is in them.
    let (mut block, mut bytes) = (Vec::new(), 0);
    let mut go_on = true;
    while go_on {
        let line = lines.next();
        go_on = line.is_some();
        if let Some((_, words)) = line.filter(|(_, words)| !is_blank(words, format)) {
            block.extend(line);
            bytes += words.len() + 1;
            if bytes > BLOCK_BYTES_MAX {
                let place = place(block[0].0, cues.len() + 1);
                return Err((place, Problem::TooLong { bytes }));
            }
            continue;
        }
        let [first, rest @ ..] = &block[..] else {
            continue;
        };
        let number = cues.len() + 1;
        if format == Format::WebVtt && is_remark(first.1) {
            within(rest, number, |line| line.contains(ARROW))?;
        } else {
            cues.push(cue(&block, number, format)?);
        }
        if cues.len() > CUES_MAX {
            return Err((place(first.0, number), Problem::TooMany));
        }
        block.clear();
        bytes = 0;
    }
    Ok(cues)
}

/// Takes the signature and what belongs to it.
fn pass_header<'t>(lines: &mut impl Iterator<Item = Line<'t>>) -> Result<(), Fault> {
    let first = lines.next();
    let signed = first.and_then(|(_, line)| line.strip_prefix("WEBVTT"));
    if !signed.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t'])) {
        return Err((Place::Line { line: 1, cue: None }, Problem::NoSignature));
    }
    for line in first
        .into_iter()
        .chain(lines.take_while(|(_, line)| !line.is_empty()))
    {
        within(&[line], 1, |line| line.contains(ARROW))?;
    }
    Ok(())
}

/// Whether a line separates cues. WebVTT has it that only an empty one does.
fn is_blank(line: &str, format: Format) -> bool {
    match format {
        Format::WebVtt => line.is_empty(),
        Format::SubRip => line.trim().is_empty(),
    }
}

/// Whether a block that begins so is a comment, a style or a region.
fn is_remark(line: &str) -> bool {
    let word = line.split([' ', '\t']).next();
    word == Some("NOTE") || matches!(line.trim_end(), "STYLE" | "REGION")
}

fn cue(block: &[Line<'_>], number: usize, format: Format) -> Result<Cue, Fault> {
    // In SubRip a time line is preceded by a number or by nothing, in WebVTT by any one line.
    let named = match (format, block) {
        (_, [(_, first), ..]) if first.contains(ARROW) => 0,
        (Format::SubRip, [(_, first), ..]) if !is_number(first) => 0,
        _ => 1,
    };
    let (timing, lines) = match block.get(named..) {
        Some([timing, lines @ ..]) if timing.1.contains(ARROW) => (timing, lines),
        _ => {
            let (line, _) = block.get(named).or(block.first()).unwrap_or(&(0, ""));
            return Err((place(*line, number), Problem::NotTimed(format)));
        }
    };
    let place = place(timing.0, number);
    let (start, end) = times::of_line(timing.1, format).map_err(|problem| (place, problem))?;
    within(lines, number, |line| match format {
        Format::WebVtt => line.contains(ARROW),
        // An arrow may be part of what is said.
        Format::SubRip => times::of_line(line, format).is_ok(),
    })?;
    let lines: Vec<_> = lines.iter().map(|(_, line)| *line).collect();
    Ok(Cue {
        place,
        start,
        end,
        body: lines.join("\n"),
    })
}

/// Refuses lines among which there is a time line.
fn within(lines: &[Line<'_>], cue: usize, is_times: impl Fn(&str) -> bool) -> Result<(), Fault> {
    match lines.iter().find(|(_, line)| is_times(line)) {
        Some((line, _)) => Err((place(*line, cue), Problem::TimesWithin)),
        None => Ok(()),
    }
}

fn is_number(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_digit())
}

fn place(line: usize, cue: usize) -> Place {
    Place::Line {
        line,
        cue: Some(cue),
    }
}
