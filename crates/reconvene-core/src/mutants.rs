//! Mutants: ways of being wrong that can be planted on purpose, to show that a proof notices them.
//!
//! Nothing is planted unless the feature `mutants` is on, which only what proves does turn on, and then
//! only what whoever makes the engine asks for. Without it there is nothing to ask for, and the
//! questions are gone once compiled.

/// One way for an engine to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Mutant {
    /// Acknowledges what came before it is behind its barrier.
    AcknowledgesEarly,
    /// Sends what is written before it is behind its barrier.
    SendsEarly,
    /// Moves its cursor in a batch ahead of what the cursor covers.
    MovesCursorEarly,
    /// Follows its feed from its end instead of from where a peer that comes back holds it.
    ForgetsWhoWasAway,
    /// Keeps what a peer sent to itself.
    PassesNothingOn,
    /// Takes for sent what did not fit the window.
    DropsUnderPressure,
    /// Takes a head row that does not read for one that is not there.
    TakesUnreadableForAbsent,
    /// Goes on with its history although a peer holds more of it than there is.
    KeepsItsHistory,
    /// Relies on cursors into other histories.
    TrustsOldCursors,
    /// Follows from a cursor without finding its entry in the feed.
    ConfirmsNothing,
    /// Deletes, with what a snapshot holds, a change that came since.
    DeletesUnread,
    /// Takes changes of a document that was purged for those of a new one.
    ForgetsTombstones,
    /// Ends a reconciliation with its first run, and leaves a document out of that.
    ComparesInPart,
    /// Has the journal let go of what was sent.
    ReleasesOnSend,
    /// Says that it holds all a peer has as soon as it knows how much that is.
    VerifiesUnseen,
    /// Forgets at a greeting what the peer still refuses, and does not wait to be told again.
    ForgetsRefusals,
    /// Goes on numbering its feed after a batch that failed.
    LeavesGaps,
    /// Says of a device that it holds all that ever came.
    RelaysTooMuch,
    /// Does not read the journal when it starts.
    IgnoresJournal,
    /// Leaves the last change out of an entry of several.
    SkipsLastOfEntry,
    /// Enters what is left of a damaged document without beginning a new history.
    HealsQuietly,
    /// Keeps the link of a peer that sent what no peer sends that keeps the protocol.
    KeepsOffenders,
    /// Takes whatever is refused for what no peer sends that keeps the protocol.
    BlamesRelays,
    /// Takes a feed for the one it knows if only the numbers agree where both end.
    IgnoresForks,
    /// Keeps from a peer what the peer once sent, also where it may have lost it.
    NeverEchoes,
    /// Purges what one change more stands in than was known to who purged it.
    PurgesOneTooMany,
    /// Dates what a heartbeat says by when it came.
    VouchesByArrival,
    /// Lets an answer out when all but the last batch that may show in it are behind their barrier.
    AnswersOneEarly,
    /// Takes a dial that failed for one that is still on its way.
    DialsOnce,
    /// Takes a feed that ends one short of what the journal has for one that has it.
    ReplaysOneTooFew,
    /// Does not ask others again for what they were refused when what it lacked comes from someone else.
    AsksNobodyElse,
    /// Goes on waiting for what was to be acknowledged on a link that is gone.
    WaitsForGoneLinks,
    /// Says where its feed ends while the journal has what the feed has not.
    SpeaksUnsettled,
    /// Asks a full disk only when someone wants to write.
    NeverAsksForRoom,
    /// Counts against the window what was acknowledged.
    NeverFreesWindow,
    /// Sends all of what was just stored, however much of it.
    PushesPastWindow,
    /// Tells its host of one changed document per release, whatever changed with it.
    TellsOfFirst,
    /// Takes an answer to a read it gave up for the one it waits for.
    TakesLateAnswers,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 38] = [
        Self::AcknowledgesEarly,
        Self::SendsEarly,
        Self::MovesCursorEarly,
        Self::ForgetsWhoWasAway,
        Self::PassesNothingOn,
        Self::DropsUnderPressure,
        Self::TakesUnreadableForAbsent,
        Self::KeepsItsHistory,
        Self::TrustsOldCursors,
        Self::ConfirmsNothing,
        Self::DeletesUnread,
        Self::ForgetsTombstones,
        Self::ComparesInPart,
        Self::ReleasesOnSend,
        Self::VerifiesUnseen,
        Self::ForgetsRefusals,
        Self::LeavesGaps,
        Self::RelaysTooMuch,
        Self::IgnoresJournal,
        Self::SkipsLastOfEntry,
        Self::HealsQuietly,
        Self::KeepsOffenders,
        Self::BlamesRelays,
        Self::IgnoresForks,
        Self::NeverEchoes,
        Self::PurgesOneTooMany,
        Self::VouchesByArrival,
        Self::AnswersOneEarly,
        Self::DialsOnce,
        Self::ReplaysOneTooFew,
        Self::AsksNobodyElse,
        Self::WaitsForGoneLinks,
        Self::SpeaksUnsettled,
        Self::NeverAsksForRoom,
        Self::NeverFreesWindow,
        Self::PushesPastWindow,
        Self::TellsOfFirst,
        Self::TakesLateAnswers,
    ];

    /// The mutant of this name, as [`std::fmt::Debug`] writes it.
    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|mutant| format!("{mutant:?}") == name)
    }

    #[cfg(feature = "mutants")]
    const fn bit(self) -> u64 {
        1 << self as u8
    }
}

/// The mutants that an engine carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mutants {
    #[cfg(feature = "mutants")]
    bits: u64,
}

impl Mutants {
    /// None of them.
    pub const NONE: Self = Self {
        #[cfg(feature = "mutants")]
        bits: 0,
    };

    /// These and one more.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub const fn and(self, mutant: Mutant) -> Self {
        Self {
            bits: self.bits | mutant.bit(),
        }
    }

    /// Whether this one is among them.
    #[cfg(feature = "mutants")]
    pub const fn has(self, mutant: Mutant) -> bool {
        self.bits & mutant.bit() != 0
    }

    /// Whether this one is among them: never, without the feature `mutants`.
    #[cfg(not(feature = "mutants"))]
    pub const fn has(self, _mutant: Mutant) -> bool {
        false
    }
}
