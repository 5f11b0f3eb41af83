//! Bounds of what a server does on behalf of integrations. What happens at a bound stands with it.

use std::time::Duration;

/// How long the result of a sync run is kept unless set otherwise.
pub const RUN_KEPT_DEFAULT: Duration = Duration::from_secs(60);

/// How often integrations are looked at by themselves unless set otherwise.
pub const VALIDATE_EVERY_DEFAULT: Duration = Duration::from_secs(3600);

/// Most sync runs and validations that go on at a time. Further ones wait.
pub const OUTSIDE_AT_ONCE: usize = 4;

/// Most commands of one member that go on at a time because they talk to the outside, unless set
/// otherwise. A further one is refused as `too_many_commands`; its author may try again.
pub const COMMANDS_PER_MEMBER_DEFAULT: usize = 64;

/// Calls of the API in flight, streams aside, unless set otherwise.
pub const API_CALLS_DEFAULT: usize = reconvene_api::limits::CALLS_DEFAULT;

/// Longest time of one sync run. Past it the run has failed with `timed_out`.
pub const RUN_MAX: Duration = Duration::from_secs(600);

/// Longest time of one validation. Past it the integration is unreachable.
pub const VALIDATION_MAX: Duration = Duration::from_secs(30);

/// Longest time of one HTTP exchange. Past it the other side is unreachable.
pub const HTTP_EXCHANGE_MAX: Duration = Duration::from_secs(10);

/// Largest HTTP answer and largest file that is read, in bytes. A larger one is refused.
pub const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Longest text that says what is wrong with an integration or a run, in bytes. A longer one is cut.
pub const PROBLEM_BYTES_MAX: usize = 1024;

/// Events that are stored in one batch.
pub const EVENTS_PER_BATCH: usize = 32;

/// How often a webhook is tried for one meeting. Then the run has failed; the next one goes on there.
pub const WEBHOOK_ATTEMPTS: u32 = 5;
/// How long it waits after the first attempt; twice as long after each further one.
pub const WEBHOOK_WAIT: Duration = Duration::from_millis(250);

/// How often a run that goes on writes down how far it is, at most.
pub const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// When what could not be carried out because the store failed is tried again.
pub const RETRY_AFTER: Duration = Duration::from_secs(2);

const _: () = assert!(VALIDATION_MAX.as_millis() >= 2 * HTTP_EXCHANGE_MAX.as_millis());
