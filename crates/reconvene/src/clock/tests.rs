//! Sleep is found out where the clocks differ by it, and by nothing else.

use super::*;

fn after(clock: &Clock, monotonic: u64, awake: Option<u64>, wall: i64) -> Sample {
    let wall_by = Duration::from_secs(wall.unsigned_abs());
    Sample {
        monotonic: clock.last.monotonic + Duration::from_secs(monotonic),
        awake: awake
            .zip(clock.last.awake)
            .map(|(by, last)| last + Duration::from_secs(by)),
        wall: match wall < 0 {
            true => clock.last.wall - wall_by,
            false => clock.last.wall + wall_by,
        },
    }
}

/// Whether the machine is taken to have slept, and by how many seconds the tick advances.
fn check(mut clock: Clock, monotonic: u64, awake: Option<u64>, wall: i64) -> (bool, u64) {
    let before = clock.tick;
    let reading = clock.take(after(&clock, monotonic, awake, wall));
    (reading.slept, (clock.tick - before).as_secs())
}

#[test]
fn sleep_is_what_the_clock_of_timers_missed() {
    let with = || {
        let mut clock = Clock::new(None);
        clock.last.awake = Some(Duration::from_secs(1_000));
        clock
    };
    assert_eq!(check(with(), 10, Some(10), 10), (false, 10));
    assert_eq!(check(with(), 10, Some(610), 610), (true, 610));
    // Somebody sets the wall clock: nothing slept.
    assert_eq!(check(with(), 10, Some(10), 3_600), (false, 10));
    assert_eq!(check(with(), 10, Some(10), -3_600), (false, 10));
}

#[test]
fn without_such_a_clock_the_wall_clock_tells() {
    let without = || {
        let mut clock = Clock::new(None);
        clock.last.awake = None;
        clock
    };
    assert_eq!(check(without(), 10, None, 12), (false, 10));
    assert_eq!(check(without(), 10, None, 610), (true, 610));
    assert_eq!(check(without(), 10, None, -3_600), (false, 10));
}

#[test]
fn a_clock_of_this_machine_runs_on_without_sleep() {
    let mut clock = Clock::new(None);
    let first = clock.now();
    let second = clock.now();
    assert!(!first.slept && !second.slept);
    assert!(second.moment.tick >= first.moment.tick);
    assert_eq!(clock.last.awake.is_some(), cfg!(target_os = "linux"));
}
