//! The replica's clocks: wall time, and a tick that also advances while the machine sleeps.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reconvene_core::engine::Moment;
use reconvene_core::time::{Tick, WallTime};

/// What the clock that sleeps with the machine misses of the one that does not, at least, for the
/// machine to have slept.
const SLEPT_AT_LEAST: Duration = Duration::from_secs(2);
/// The same where only the wall clock goes on, which people and time servers also set.
const SLEPT_AT_LEAST_BY_WALL: Duration = Duration::from_secs(5);

/// What the system's clocks say, each since a start of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// The clock of timers; on some systems it stands still while the machine sleeps.
    monotonic: Duration,
    /// A clock that does not, where the system has one.
    awake: Option<Duration>,
    wall: SystemTime,
}

/// A moment, and whether the machine slept since the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) moment: Moment,
    pub(crate) slept: bool,
}

/// Reads the clocks. What the clock of timers missed of the machine's sleep is added to the tick.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    last: Sample,
    tick: Duration,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let start = Instant::now();
        Self {
            start,
            last: sample(start),
            tick: Duration::ZERO,
        }
    }

    pub(crate) fn now(&mut self) -> Reading {
        let sample = sample(self.start);
        self.take(sample)
    }

    fn take(&mut self, sample: Sample) -> Reading {
        let monotonic = sample.monotonic.saturating_sub(self.last.monotonic);
        let missed = match (sample.awake, self.last.awake) {
            (Some(now), Some(last)) => {
                let missed = now.saturating_sub(last).checked_sub(monotonic);
                missed.filter(|missed| *missed >= SLEPT_AT_LEAST)
            }
            _ => {
                let walled = sample.wall.duration_since(self.last.wall);
                let missed = walled.unwrap_or(Duration::ZERO).checked_sub(monotonic);
                missed.filter(|missed| *missed >= SLEPT_AT_LEAST_BY_WALL)
            }
        };
        self.tick += monotonic + missed.unwrap_or(Duration::ZERO);
        self.last = sample;
        let ms = u64::try_from(self.tick.as_millis()).unwrap_or(u64::MAX);
        Reading {
            moment: Moment {
                tick: Tick::from_millis(ms),
                wall: to_wall(sample.wall),
            },
            slept: missed.is_some(),
        }
    }
}

fn sample(start: Instant) -> Sample {
    Sample {
        monotonic: start.elapsed(),
        awake: awake(),
        wall: SystemTime::now(),
    }
}

/// Time since the machine was started, its sleep included.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn awake() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).ok()?;
    let nanos = u32::try_from(time.tv_nsec).ok()?;
    Some(Duration::new(seconds, nanos))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn awake() -> Option<Duration> {
    None
}

/// The wall time now.
pub(crate) fn wall_now() -> WallTime {
    to_wall(SystemTime::now())
}

fn to_wall(time: SystemTime) -> WallTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    WallTime::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
