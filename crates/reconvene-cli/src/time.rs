//! Moments as people and other programs read and write them: RFC 3339, in UTC.

use std::time::{Duration, SystemTime};

use reconvene::WallTime;

/// 9999-12-31T23:59:59Z, the last second that RFC 3339 can write.
const LATEST_MS: u64 = 253_402_300_799_000;

/// A moment in RFC 3339, to the second. Moments that it cannot write become the nearest that it can.
pub(crate) fn rfc3339(moment: WallTime) -> String {
    // Nothing here is older than the epoch, save by a clock that is wrong.
    let ms = u64::try_from(moment.as_millis()).unwrap_or(0);
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(ms.min(LATEST_MS));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// A moment as a person writes it: a date, a moment in RFC 3339, or a duration for so long ago.
pub(crate) fn parse_moment(text: &str, now: SystemTime) -> Result<WallTime, String> {
    let day = format!("{text}T00:00:00Z");
    let moment = humantime::parse_rfc3339_weak(text)
        .or_else(|_| humantime::parse_rfc3339(&day))
        .ok()
        .or_else(|| now.checked_sub(humantime::parse_duration(text).ok()?));
    let since = moment.and_then(|moment| moment.duration_since(SystemTime::UNIX_EPOCH).ok());
    let ms = since.and_then(|since| i64::try_from(since.as_millis()).ok());
    ms.map(WallTime::from_millis).ok_or_else(|| {
        "write a day like 2026-01-31, a moment in UTC like 2026-01-31T09:30:00Z, or a duration like \
         7d for so long ago"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{LATEST_MS, WallTime, parse_moment, rfc3339};

    #[test]
    fn moments_are_read_as_days_moments_or_times_ago() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(951_782_400);
        for (text, expected) in [
            ("2000-02-29", Some("2000-02-29T00:00:00Z")),
            ("2000-02-28T10:20:30Z", Some("2000-02-28T10:20:30Z")),
            ("2000-02-28 10:20:30", Some("2000-02-28T10:20:30Z")),
            ("2h", Some("2000-02-28T22:00:00Z")),
            ("1day", Some("2000-02-28T00:00:00Z")),
            ("2000-02-30", None),
            ("yesterday", None),
            ("", None),
            ("100years", None),
        ] {
            let read = parse_moment(text, now).ok().map(rfc3339);
            assert_eq!(read.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn moments_are_written_in_utc() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_999, "2000-02-29T00:00:00Z"),
            (1_700_000_000_000, "2023-11-14T22:13:20Z"),
            (-1, "1970-01-01T00:00:00Z"),
            (LATEST_MS as i64, "9999-12-31T23:59:59Z"),
            (i64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(WallTime::from_millis(ms)), text, "{ms}");
        }
    }
}
