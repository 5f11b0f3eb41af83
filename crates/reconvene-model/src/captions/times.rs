//! The time line of a cue.

use super::{Format, Problem};

/// Latest hour of a time; about eleven years. Beyond it a file is refused ([`Problem::TooLate`]).
pub const HOURS_MAX: i64 = 99_999;

/// What separates the parts of a time line.
const SPACES: [char; 3] = [' ', '\t', '\u{c}'];

/// What tells a time line from others.
pub(super) const ARROW: &str = "-->";

/// The start and end of a time line, in milliseconds. What follows the end after a space, such as
/// settings, says how a cue is shown and is passed over.
pub(super) fn of_line(line: &str, format: Format) -> Result<(i64, i64), Problem> {
    let (start, rest) = line.split_once(ARROW).ok_or(Problem::BadTimes(format))?;
    let rest = rest.trim_start_matches(SPACES);
    let end = rest.split(SPACES).next().unwrap_or_default();
    let start = of_text(start.trim_matches(SPACES), format)?;
    let end = of_text(end, format)?;
    if end < start {
        return Err(Problem::Backwards);
    }
    Ok((start, end))
}

/// `HH:MM:SS.mmm` with any number of hour digits; in WebVTT the hours may be missing, in SubRip there
/// may be a comma.
pub(super) fn of_text(text: &str, format: Format) -> Result<i64, Problem> {
    let bad = Problem::BadTimes(format);
    let split = match format {
        Format::WebVtt => text.rsplit_once('.'),
        Format::SubRip => text.rsplit_once([',', '.']),
    };
    let (clock, millis) = split.ok_or_else(|| bad.clone())?;
    let parts: Vec<_> = clock.split(':').collect();
    let (hours, minutes, seconds) = match (parts.as_slice(), format) {
        ([hours, minutes, seconds], _) => (*hours, *minutes, *seconds),
        ([minutes, seconds], Format::WebVtt) => ("0", *minutes, *seconds),
        _ => return Err(bad),
    };
    if hours.is_empty() || !hours.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad);
    }
    let below = |text: &str, digits: usize, bound: i64| {
        let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse::<i64>().ok().filter(|_| is_number);
        number.filter(|number| *number < bound)
    };
    let minutes = below(minutes, 2, 60).ok_or_else(|| bad.clone())?;
    let seconds = below(seconds, 2, 60).ok_or_else(|| bad.clone())?;
    let millis = below(millis, 3, 1_000).ok_or(bad)?;
    // Digits that do not fit are more than fit.
    let hours = hours.parse::<i64>().unwrap_or(i64::MAX);
    if hours > HOURS_MAX {
        return Err(Problem::TooLate);
    }
    Ok(((hours * 60 + minutes) * 60 + seconds) * 1_000 + millis)
}
