//! Offences: changes that every peer refuses, in whatever state, so that whoever sends one is broken or
//! hostile. Refused as any other, kept in quarantine, and their link is closed.
//!
//! What an honest peer passes on unknowing is none, whatever is wrong with it: a peer takes what follows
//! from what it holds, and another one holds something else. So of what does not fit the graph only that
//! is an offence which everyone knows to be wrong: what contradicts the first change of its document.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Placed;
use crate::engine::{CloseReason, Engine, Event, Root};
use crate::guard::{ChangeHeader, GuardError, check_snapshot_envelope};
use crate::ids::{ChangeHash, DocumentId, DocumentKind, LinkId, PeerId, WorkspaceId};
use crate::keys::Key;
use crate::mutants::Mutant;
use crate::records::{Offence, PeerRow};
use crate::refusal::RefusalCode;
use crate::time::WallTime;
use crate::wire::{self, Fault, Frame, Refused};

/// Why nothing more of a document was taken.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Unfit {
    pub(super) code: RefusalCode,
    pub(super) offence: Option<Offending>,
}

/// What no peer sends that keeps the protocol, and what is wrong with it, for people.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Offending {
    pub(super) raw: Bytes,
    pub(super) what: String,
}

impl Offending {
    pub(super) fn new(raw: Bytes, what: &str) -> Self {
        let what = what.to_owned();
        Self { raw, what }
    }
}

impl From<RefusalCode> for Unfit {
    fn from(code: RefusalCode) -> Self {
        Self {
            code,
            offence: None,
        }
    }
}

impl Unfit {
    pub(super) fn of_change(raw: Bytes, error: &GuardError) -> Self {
        let offence = error.is_offence();
        let offence = offence.then(|| Offending::new(raw, &error.to_string()));
        let code = match error.is_too_large() {
            true => RefusalCode::TooLarge,
            false => RefusalCode::Damaged,
        };
        Self { code, offence }
    }

    /// Of a snapshot that the host refused, perhaps having loaded it.
    pub(in crate::engine) fn of_snapshot(raw: &Bytes, code: RefusalCode) -> Self {
        let error = check_snapshot_envelope(raw).err();
        let offence = error.filter(|error| error.is_offence());
        Self {
            code,
            offence: offence.map(|error| Offending::new(raw.clone(), &error.to_string())),
        }
    }
}

/// What is wrong with a change for everyone who has its document at all: it depends on nothing but first
/// changes of documents, and is not of their kind or does not count on from them.
pub(super) fn contradicts_root(
    header: &ChangeHeader,
    kind: DocumentKind,
    roots: &BTreeMap<ChangeHash, Root>,
) -> Option<&'static str> {
    let of = header.dependencies.iter().map(|hash| roots.get(hash));
    let of: Option<Vec<_>> = of.collect();
    let of = of.filter(|of| !of.is_empty())?;
    if of.iter().any(|root| root.kind != kind) {
        return Some("a change follows the first change of another kind of document");
    }
    let last = of.iter().map(|root| root.max_op).max()?;
    (header.start_op != last + 1).then_some("a change does not count on from its document's first")
}

/// Remembers what a peer offended with; yields what a link is closed for, and what is new of it.
pub(super) fn note_offences(
    row: &mut PeerRow,
    (workspace, peer): (WorkspaceId, PeerId),
    found: Vec<(DocumentId, Offending)>,
    at: WallTime,
    writes: (&mut Vec<(Key, Bytes)>, &mut Vec<Key>),
) -> (Vec<(DocumentId, String)>, Vec<Offence>) {
    let (mut faults, mut news) = (Vec::new(), Vec::new());
    let mut kept: BTreeMap<Key, Option<Bytes>> = BTreeMap::new();
    for (document, Offending { raw, what }) in found {
        let offence = Offence::new(document, &raw, &what, at);
        let noted = row.offend(offence.clone());
        if noted.closes {
            faults.push((document, offence.what.clone()));
        }
        if noted.is_new {
            let row = offence.row(&workspace, peer, &raw);
            kept.insert(offence.key(&workspace, &peer), Some(row));
            news.push(offence);
        }
        for dropped in &noted.dropped {
            kept.insert(dropped.key(&workspace, &peer), None);
        }
    }
    for (key, row) in kept {
        match row {
            Some(row) => writes.0.push((key, row)),
            None => writes.1.push(key),
        }
    }
    (faults, news)
}

impl Placed {
    /// As [`Mutant::BlamesRelays`]: takes whatever was refused for an offence.
    pub(super) fn blame(&mut self) {
        for (document, code) in self.refused.iter().filter(|(_, code)| !code.may_pass()) {
            if self.offences.iter().all(|(of, _)| of != document) {
                let raw = Bytes::copy_from_slice(document.as_bytes());
                let offence = Offending::new(raw, &code.to_string());
                self.offences.push((*document, offence));
            }
        }
    }
}

impl Engine {
    /// What a peer's offences come to, once they are noted: the host is told of what is new.
    pub(super) fn tell_offences(
        &self,
        (link, peer, workspace): (LinkId, PeerId, WorkspaceId),
        closes: bool,
        offences: Vec<Offence>,
    ) -> Option<Event> {
        (!offences.is_empty()).then_some(Event::Offended {
            link,
            peer,
            workspace,
            offences,
            closes,
        })
    }

    /// Tells a peer what it sent that no peer sends that keeps the protocol, and closes the link.
    pub(in crate::engine) fn close_offender(
        &mut self,
        link: LinkId,
        workspace: WorkspaceId,
        documents: Vec<(DocumentId, String)>,
    ) {
        if !self.links.contains_key(&link) || self.is(Mutant::KeepsOffenders) {
            return;
        }
        let code = RefusalCode::Fault;
        let fault = Fault::of(workspace, documents);
        self.send(
            link,
            &Frame::Refused(Refused {
                code,
                message: format!("{code}: {fault}").chars().take(500).collect(),
                protocol: (wire::PROTOCOL_MIN, wire::PROTOCOL_MAX),
                fault: Some(fault),
            }),
        );
        self.close_link(link, CloseReason::Refused(code));
    }
}
