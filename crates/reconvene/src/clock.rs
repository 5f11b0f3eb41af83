//! The replica's clocks: wall time, and a tick that also advances while the machine sleeps.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reconvene_core::engine::Moment;
use reconvene_core::time::{Tick, WallTime};
use tokio::sync::watch;

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

/// A clock for tests, which runs with the machine's and which the test puts forward. Clones are the
/// same clock. See [`OpenOptions::clock`](crate::OpenOptions::clock).
///
/// What is timed by it: heartbeats, redials, deadlines of links, freshness. The times in documents are
/// the machine's.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    ahead: watch::Sender<Ahead>,
}

/// How far a clock is ahead of the machine's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ahead {
    /// While the machine was awake.
    awake: Duration,
    /// While it slept, on top of that.
    asleep: Duration,
    /// What its wall clock was set forward by, and back.
    wall: (Duration, Duration),
}

impl ManualClock {
    /// A clock that shows what the machine's does.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets time go by.
    pub fn advance(&self, time: Duration) {
        self.change(|ahead| ahead.awake += time);
    }

    /// Lets time go by while the machine sleeps.
    pub fn sleep(&self, time: Duration) {
        self.change(|ahead| ahead.asleep += time);
    }

    /// Sets the wall clock forward; no time goes by.
    pub fn set_forward(&self, time: Duration) {
        self.change(|ahead| ahead.wall.0 += time);
    }

    /// Sets the wall clock back; no time goes by.
    pub fn set_back(&self, time: Duration) {
        self.change(|ahead| ahead.wall.1 += time);
    }

    fn change(&self, change: impl FnOnce(&mut Ahead)) {
        self.ahead.send_modify(change);
    }
}

impl Ahead {
    fn apply(self, sample: Sample) -> Sample {
        let Self {
            awake,
            asleep,
            wall: (forward, back),
        } = self;
        // Where the system has no clock that sleeps with nobody, the wall clock tells of sleep.
        Sample {
            monotonic: sample.monotonic + awake,
            awake: sample.awake.map(|clock| clock + awake + asleep),
            wall: sample.wall + awake + asleep + forward - back,
        }
    }
}

/// Reads the clocks. What the clock of timers missed of the machine's sleep is added to the tick.
#[derive(Debug)]
pub(crate) struct Clock {
    manual: Option<watch::Receiver<Ahead>>,
    start: Instant,
    last: Sample,
    tick: Duration,
}

impl Clock {
    pub(crate) fn new(manual: Option<ManualClock>) -> Self {
        let start = Instant::now();
        let manual = manual.map(|manual| manual.ahead.subscribe());
        let last = ahead(manual.as_ref()).apply(sample(start));
        Self {
            manual,
            start,
            last,
            tick: Duration::ZERO,
        }
    }

    pub(crate) fn now(&mut self) -> Reading {
        let sample = sample(self.start);
        self.take(ahead(self.manual.as_ref()).apply(sample))
    }

    /// Resolves when someone moved the clock since this was asked last.
    pub(crate) fn moved(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let manual = self.manual.clone();
        if let Some(known) = &mut self.manual {
            known.mark_unchanged();
        }
        async move {
            if let Some(mut manual) = manual
                && manual.changed().await.is_ok()
            {
                return;
            }
            // Without anyone to move it, it stays.
            std::future::pending().await
        }
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

fn ahead(manual: Option<&watch::Receiver<Ahead>>) -> Ahead {
    manual.map_or_else(Ahead::default, |manual| *manual.borrow())
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
