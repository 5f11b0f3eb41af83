//! Archives in the simulated world: what one has of a node's workspace, and how a host restores it.

use std::collections::BTreeSet;

use reconvene_core::engine::{Input, Restore, RestoredDocument, tombstone_of};
use reconvene_core::ids::WorkspaceId;
use reconvene_core::keys::KeyRange;
use reconvene_core::records::{HeadRow, Record as _};
use reconvene_core::storage::{Scan, StoreRead as _};
use reconvene_core::stored::chunks;

use crate::snapshots::{changes_in, inspect};
use crate::world::{NodeId, World};

/// Documents that are restored with one barrier.
const AT_ONCE: usize = 3;

impl World {
    /// What an archive of a node's workspace has, document by document: a snapshot of it and its changes,
    /// or its tombstone. A document with several snapshots stands in it as often.
    pub fn archive(&self, node: NodeId, of: WorkspaceId) -> Vec<RestoredDocument> {
        let reader = &self.disk(node).reader;
        let heads = reader.scan(&Scan::ascending(KeyRange::heads(&of), usize::MAX));
        let heads = heads.expect("an open store reads").rows;
        let mut all = Vec::new();
        for (key, value) in heads {
            let document = key.document().expect("a head row is of a document");
            let head = HeadRow::decode(&value).expect("a stored head row decodes");
            let mut archived = RestoredDocument {
                document,
                kind: head.kind,
                snapshot: None,
                changes: Vec::new(),
                tombstone: tombstone_of(&head),
            };
            if archived.tombstone.is_some() {
                all.push(archived);
                continue;
            }
            for chunk in chunks(reader, &of, &document).expect("an open store reads") {
                match inspect(&chunk) {
                    Ok(headers) => {
                        let earlier = archived.snapshot.replace((chunk, headers));
                        all.extend(earlier.map(|snapshot| RestoredDocument {
                            snapshot: Some(snapshot),
                            changes: Vec::new(),
                            ..archived.clone()
                        }));
                    }
                    Err(_) => archived.changes.push(chunk),
                }
            }
            archived.changes.sort_by_key(|chunk| {
                let mut changes = changes_in(chunk).expect("a stored change is readable");
                changes
                    .pop()
                    .map(|(header, _)| (header.start_op, header.hash))
            });
            all.push(archived);
        }
        all
    }

    /// Has a host restore documents, a few at a time.
    pub fn restore_archive(
        &mut self,
        node: NodeId,
        workspace: WorkspaceId,
        archived: &[RestoredDocument],
        may_purge: bool,
    ) {
        let mut rest = archived;
        while !rest.is_empty() {
            let mut seen = BTreeSet::new();
            let is_next = |archived: &&RestoredDocument| seen.insert(archived.document);
            let count = rest.iter().take(AT_ONCE).take_while(is_next).count();
            let (documents, later) = rest.split_at(count);
            rest = later;
            let restore = Restore {
                request: self.request(),
                workspace,
                may_purge,
                documents: documents.to_vec(),
            };
            self.give(node, Input::Restore(restore));
        }
    }
}
