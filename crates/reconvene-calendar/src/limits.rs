//! Bounds of what is taken from a calendar. What happens at a bound stands with it.

/// Most events of one calendar. A calendar with more is refused whole.
pub const CALENDAR_EVENTS_MAX: usize = 10_000;

/// How deep components of a calendar may be nested: an alarm in an event in the calendar is three. A
/// calendar with more is refused whole.
pub const CALENDAR_NESTING_MAX: usize = 8;

/// Longest event, in bytes once its lines are unfolded. A calendar with a longer one is refused whole.
pub const CALENDAR_EVENT_BYTES_MAX: usize = 256 * 1024;
