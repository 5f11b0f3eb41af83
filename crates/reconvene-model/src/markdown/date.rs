//! Times as people read them.

use reconvene_core::time::WallTime;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// The years that RFC 3339 can write, in days since 1970.
const DAYS: std::ops::RangeInclusive<i64> = -719_528..=2_932_896;

/// A moment in RFC 3339, in UTC, to the second. One that it cannot write is told as a number.
pub(super) fn moment(at: WallTime) -> String {
    let ms = at.as_millis();
    let (days, within) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
    if !DAYS.contains(&days) {
        return format!("{ms} ms after 1970");
    }
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{}Z", clock(within))
}

/// A span of time as hours, minutes and seconds.
pub(super) fn clock(ms: i64) -> String {
    let sign = if ms < 0 { "-" } else { "" };
    let seconds = ms.unsigned_abs() / 1_000;
    let (minutes, seconds) = (seconds / 60, seconds % 60);
    let (hours, minutes) = (minutes / 60, minutes % 60);
    format!("{sign}{hours:02}:{minutes:02}:{seconds:02}")
}

/// Year, month and day of a day counted from 1970, in the Gregorian calendar. Years are taken to begin
/// in March, so that the day that may be missing is the last.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_OF_400_YEARS: i64 = 146_097;
    let since_march_0 = days + 719_468;
    let era = since_march_0.div_euclid(DAYS_OF_400_YEARS);
    let day = since_march_0.rem_euclid(DAYS_OF_400_YEARS);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let is_next_year = month >= 10;
    let month = if is_next_year { month - 9 } else { month + 3 };
    (era * 400 + year + i64::from(is_next_year), month, of_month)
}
