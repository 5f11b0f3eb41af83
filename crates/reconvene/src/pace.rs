//! How fast remote changes are applied: a decision from what the last batch cost. It reads no clock.
//!
//! Applying to a document costs by its size and hardly by the number of changes, so what is gathered
//! while the last batch's time goes by once more costs about nothing on top. Cheap documents are
//! applied at once, expensive ones in large batches, and applying takes about half of the time at
//! most. Nothing is ever gathered longer than [`GATHER_MAX`].

use std::time::Duration;

use crate::limits::{APPLY_COST_TARGET, APPLY_DOCUMENTS_MAX, APPLY_DOCUMENTS_MIN, GATHER_MAX};

/// What the last batches say about the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    last: Duration,
    documents: usize,
}

impl Pace {
    /// A pace of which nothing is known: the first batch is taken at once, and of a middling size.
    pub(crate) fn new() -> Self {
        Self {
            last: Duration::ZERO,
            documents: APPLY_DOCUMENTS_MIN * 8,
        }
    }

    /// Notes what a batch of so many documents cost.
    pub(crate) fn note(&mut self, documents: usize, cost: Duration) {
        if documents == 0 {
            return;
        }
        self.last = cost;
        let each = cost.as_nanos() / documents as u128;
        let fit = APPLY_COST_TARGET.as_nanos().checked_div(each);
        let fit = fit.map_or(APPLY_DOCUMENTS_MAX, |fit| {
            usize::try_from(fit).unwrap_or(APPLY_DOCUMENTS_MAX)
        });
        // One measurement is not trusted with more than a doubling: a cheap batch says little of the
        // next. Being too slow is believed at once.
        self.documents = fit
            .min(self.documents * 2)
            .clamp(APPLY_DOCUMENTS_MIN, APPLY_DOCUMENTS_MAX);
    }

    /// Most documents of the next batch.
    pub(crate) fn documents(&self) -> usize {
        self.documents
    }

    /// How much longer to gather, when the last batch ended `since` ago and changes of `waiting`
    /// documents wait. Nothing, if nothing waits or more than fits a batch does.
    pub(crate) fn gather(&self, since: Duration, waiting: usize) -> Duration {
        if waiting == 0 || waiting >= self.documents {
            return Duration::ZERO;
        }
        self.last.min(GATHER_MAX).saturating_sub(since)
    }
}

#[cfg(test)]
mod tests;
