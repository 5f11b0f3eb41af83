//! The replica's clocks: wall time, and a tick that also advances while the machine sleeps.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reconvene_core::engine::Moment;
use reconvene_core::time::{Tick, WallTime};

/// A jump of the wall clock against the monotonic one by more than this counts as sleep.
const SLEEP_TOLERANCE: Duration = Duration::from_secs(5);

/// Reads both clocks. The monotonic clock of some systems stops while the machine sleeps; what the
/// wall clock saw of that time is added to the tick.
#[derive(Debug)]
pub(crate) struct Clock {
    last_instant: Instant,
    last_wall: SystemTime,
    tick: Duration,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            last_instant: Instant::now(),
            last_wall: SystemTime::now(),
            tick: Duration::ZERO,
        }
    }

    pub(crate) fn now(&mut self) -> Moment {
        let (instant, wall) = (Instant::now(), SystemTime::now());
        let monotonic = instant.saturating_duration_since(self.last_instant);
        let walled = wall
            .duration_since(self.last_wall)
            .unwrap_or(Duration::ZERO);
        let slept = walled
            .checked_sub(monotonic)
            .filter(|gap| *gap > SLEEP_TOLERANCE);
        self.tick += monotonic + slept.unwrap_or(Duration::ZERO);
        self.last_instant = instant;
        self.last_wall = wall;
        let ms = u64::try_from(self.tick.as_millis()).unwrap_or(u64::MAX);
        Moment {
            tick: Tick::from_millis(ms),
            wall: to_wall(wall),
        }
    }
}

/// The wall time now.
pub(crate) fn wall_now() -> WallTime {
    to_wall(SystemTime::now())
}

fn to_wall(time: SystemTime) -> WallTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    WallTime::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
