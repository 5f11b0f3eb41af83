//! Who wants to know about index rows: per live query, which rows changed since it last looked.
//!
//! Only ids are kept, never rows: a query reads the rows from the store when its reader comes, so it
//! sees what lists see, and what changed twice in between is told once. A row is marked when the
//! batch that wrote it is visible to readers; whoever registers first and reads then misses nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reconvene_core::ids::{DocumentId, DocumentKind, WorkspaceId};
use tokio::sync::Notify;

use crate::Error;
use crate::limits::QUERY_MARKS_MAX;
use crate::mutants::{self, Mutant};

/// Where an index row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RowPlace {
    pub(crate) workspace: WorkspaceId,
    pub(crate) kind: DocumentKind,
    pub(crate) document: DocumentId,
}

/// Which rows a query wants to know about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interest {
    /// Those of this workspace; without, of every one.
    pub(crate) workspace: Option<WorkspaceId>,
    /// Those of these kinds.
    pub(crate) kinds: &'static [DocumentKind],
}

impl Interest {
    fn includes(&self, place: &RowPlace) -> bool {
        self.workspace.is_none_or(|own| own == place.workspace) && self.kinds.contains(&place.kind)
    }
}

/// The live queries of a replica.
#[derive(Default)]
pub(crate) struct Subscriptions {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    entries: BTreeMap<u64, (Interest, Arc<Marks>)>,
    closed: bool,
}

/// What one query has not looked at yet.
#[derive(Default)]
struct Marks {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    marked: Marked,
    /// Whether the reader waits although something may be marked.
    held: bool,
    closed: bool,
}

/// Rows to look at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Marked {
    /// These.
    Rows(BTreeSet<RowPlace>),
    /// So many that all have to be compared.
    Everything,
}

impl Default for Marked {
    fn default() -> Self {
        Self::Rows(BTreeSet::new())
    }
}

impl Marked {
    fn is_empty(&self) -> bool {
        matches!(self, Self::Rows(rows) if rows.is_empty())
    }
}

impl Subscriptions {
    /// Registers a query. From now on no row is missed.
    pub(crate) fn register(self: &Arc<Self>, interest: Interest) -> Result<Registration, Error> {
        let mut table = lock(&self.table);
        if table.closed {
            return Err(Error::Closed);
        }
        let number = table.next;
        table.next += 1;
        let marks = Arc::<Marks>::default();
        table.entries.insert(number, (interest, Arc::clone(&marks)));
        Ok(Registration {
            subscriptions: Arc::clone(self),
            number,
            marks,
        })
    }

    /// Marks rows that readers can see now.
    pub(crate) fn mark(&self, rows: &[RowPlace]) {
        if mutants::is(Mutant::TellsNoQuery) {
            return;
        }
        let table = lock(&self.table);
        let interested = table.entries.values().filter(|(interest, marks)| {
            let own = rows.iter().filter(|place| interest.includes(place));
            marks.add(own.copied())
        });
        // All are marked before the first wakes: what one reader was told, no other is still to hear.
        let interested: Vec<_> = interested.collect();
        for (_, marks) in interested {
            marks.wake.notify_one();
        }
    }

    /// Has every query of a workspace compare everything.
    pub(crate) fn mark_all(&self, workspace: WorkspaceId) {
        let table = lock(&self.table);
        let is_of = |interest: &Interest| interest.workspace.is_none_or(|own| own == workspace);
        let entries = table.entries.values();
        let of_workspace = entries.filter(|(interest, _)| is_of(interest));
        for (_, marks) in of_workspace {
            lock(&marks.state).marked = Marked::Everything;
            marks.wake.notify_one();
        }
    }

    /// Has the queries of a workspace that there are now wait with what is marked, or go on.
    pub(crate) fn hold(&self, workspace: WorkspaceId, held: bool) {
        let table = lock(&self.table);
        let is_of = |interest: &Interest| interest.workspace == Some(workspace);
        let entries = table.entries.values();
        for (_, marks) in entries.filter(|(interest, _)| is_of(interest)) {
            lock(&marks.state).held = held;
            marks.wake.notify_one();
        }
    }

    /// Ends every query, also those to come.
    pub(crate) fn close(&self) {
        let mut table = lock(&self.table);
        table.closed = true;
        for (_, marks) in std::mem::take(&mut table.entries).into_values() {
            lock(&marks.state).closed = true;
            marks.wake.notify_one();
        }
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        lock(&self.table).entries.len()
    }
}

impl Marks {
    /// Marks rows; whether there is something to wake for.
    fn add(&self, rows: impl Iterator<Item = RowPlace>) -> bool {
        let mut state = lock(&self.state);
        let Marked::Rows(marked) = &mut state.marked else {
            return true;
        };
        marked.extend(rows);
        let some = !marked.is_empty();
        if marked.len() > QUERY_MARKS_MAX {
            state.marked = Marked::Everything;
        }
        some
    }
}

/// A query's place among the others; forgotten when it is dropped.
pub(crate) struct Registration {
    subscriptions: Arc<Subscriptions>,
    number: u64,
    marks: Arc<Marks>,
}

impl Registration {
    /// What was marked since this was asked last; nothing while that is held.
    pub(crate) fn take(&self) -> Marked {
        let mut state = lock(&self.marks.state);
        match state.held {
            true => Marked::default(),
            false => std::mem::take(&mut state.marked),
        }
    }

    /// Whether something is marked and not held.
    pub(crate) fn is_marked(&self) -> bool {
        let state = lock(&self.marks.state);
        !state.held && !state.marked.is_empty()
    }

    /// Whether the replica was closed.
    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.marks.state).closed
    }

    /// Waits until something is marked or the replica is closed. Dropping this midway loses nothing.
    pub(crate) async fn changed(&self) {
        while !self.is_marked() && !self.is_closed() {
            // Telling leaves a permit behind, so what comes in between is not slept through.
            self.marks.wake.notified().await;
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        lock(&self.subscriptions.table).entries.remove(&self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics halfway through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
