//! Moments as people and other programs read them: RFC 3339, in UTC.

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

#[cfg(test)]
mod tests {
    use super::{LATEST_MS, WallTime, rfc3339};

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
