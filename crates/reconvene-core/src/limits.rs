//! Every bound of the engine, its frames and its records, with the relations between them.
//!
//! Each constant says what happens at the bound. Changing one changes the protocol only where the
//! text says so.

use std::time::Duration;

/// Largest frame body, without its length prefix. A longer one closes the link as a fault.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;

/// Largest first frame of a peer that is not admitted yet. A longer one closes the link.
pub const FIRST_FRAME_BYTES_MAX: usize = 1024;

/// Time a peer that is not admitted has to say who it is. Past it the link is closed.
pub const FIRST_FRAME_DEADLINE: Duration = Duration::from_secs(5);

/// Largest change as stored and sent. A larger one is refused (`TooLarge`), local ones before they
/// are committed.
pub const CHANGE_BYTES_MAX: usize = 256 * 1024;

/// Largest inflated change. Inflation stops there and the change is refused (`TooLarge`).
pub const CHANGE_INFLATED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Inflated sizes up to this are never refused for their ratio.
pub const CHANGE_INFLATE_RATIO_FLOOR: usize = 64 * 1024;

/// Largest ratio of inflated to stored size above [`CHANGE_INFLATE_RATIO_FLOOR`]; beyond it the
/// change is refused (`Malformed`).
pub const CHANGE_INFLATE_RATIO_MAX: usize = 200;

/// Most dependencies of one change, and most heads of one document. Beyond it the change is
/// refused (`Malformed`).
pub const DEPENDENCIES_MAX: usize = 256;

/// Most other actors one change may name. Beyond it the change is refused (`Malformed`).
pub const OTHER_ACTORS_MAX: usize = 256;

/// Longest actor id. Beyond it the change is refused (`Malformed`).
pub const ACTOR_BYTES_MAX: usize = 64;

/// Longest message of a change. Beyond it the change is refused (`Malformed`).
pub const CHANGE_MESSAGE_BYTES_MAX: usize = 4 * 1024;

/// Most actors of one document. A change by one more is refused (`TooLarge`).
pub const ACTORS_PER_DOCUMENT_MAX: usize = 4096;

/// Largest stored value; anything longer is a fault of ours.
pub const VALUE_BYTES_MAX: usize = 512 * 1024;

/// Largest sum of keys and values of one batch of local edits. A larger edit fails with
/// `EditTooLarge` and nothing is stored.
pub const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

const _: () = assert!(FIRST_FRAME_BYTES_MAX <= FRAME_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX < CHANGE_BYTES_MAX);
const _: () = assert!(CHANGE_BYTES_MAX < VALUE_BYTES_MAX);
const _: () = assert!(CHANGE_BYTES_MAX <= CHANGE_INFLATED_BYTES_MAX);
const _: () = assert!(VALUE_BYTES_MAX < BATCH_BYTES_MAX);
