//! A host that believes what it is told: by the end of every release it has heard of each document
//! that changed in it, and of each of its changes.

use std::collections::{BTreeMap, BTreeSet};

use reconvene_core::engine::Event;
use reconvene_core::ids::{ChangeHash, DocumentId, FeedSeq, WorkspaceId};
use reconvene_core::keys::Key;
use reconvene_core::records::{FeedHeadRow, Record as _};
use reconvene_core::storage::StoreRead as _;

use super::read_feed;
use crate::world::{NodeId, World, workspace};

/// What a host was told of others' changes.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The end of each feed, as told last; in the beginning, as the host found it.
    through: BTreeMap<WorkspaceId, u64>,
    /// Documents that changed since then, with their new changes; of one that was purged, none.
    since: BTreeMap<WorkspaceId, BTreeMap<DocumentId, Heard>>,
    /// Workspaces that are fresh.
    pub(super) fresh: BTreeSet<WorkspaceId>,
    /// Whether it gave its engine something back from the journal.
    pub(crate) replays: bool,
}

#[derive(Debug, Default)]
struct Heard {
    changes: BTreeSet<ChangeHash>,
    is_purged: bool,
}

impl World {
    /// A host starts: what is in the store it reads there.
    pub(crate) fn begin_to_be_told(&mut self, node: NodeId) {
        let of = workspace(1);
        let head = self.disk(node).reader.read(&Key::feed_head(&of));
        let head = head.expect("an open store reads").map(|head| {
            let head = FeedHeadRow::decode(&head).expect("a stored feed head decodes");
            head.point.seq.0
        });
        self.nodes[node].host.told = Told {
            through: BTreeMap::from([(of, head.unwrap_or(0))]),
            ..Told::default()
        };
    }

    /// A host is told something.
    pub(crate) fn note_told(&mut self, node: NodeId, event: &Event) {
        let told = &mut self.nodes[node].host.told;
        match event {
            Event::DocumentChanged {
                workspace,
                document,
                changes,
                ..
            } => {
                let since = told.since.entry(*workspace).or_default();
                let heard = since.entry(*document).or_default();
                heard.changes.extend(changes);
            }
            Event::DocumentPurged {
                workspace,
                document,
                ..
            } => {
                let since = told.since.entry(*workspace).or_default();
                since.entry(*document).or_default().is_purged = true;
            }
            Event::FeedAdvanced { workspace, seq } => {
                self.check_told(node, *workspace, *seq);
            }
            Event::Fresh { workspace } => {
                told.fresh.insert(*workspace);
            }
            Event::Stale { workspace, .. } => {
                told.fresh.remove(workspace);
            }
            _ => {}
        }
    }

    /// The feed advanced to here: of every entry up to it that came from someone else, the host was told.
    fn check_told(&mut self, node: NodeId, workspace: WorkspaceId, seq: FeedSeq) {
        let told = &mut self.nodes[node].host.told;
        let since = told.since.remove(&workspace).unwrap_or_default();
        let Some(before) = told.through.insert(workspace, seq.0) else {
            return; // A feed that the host did not look at before.
        };
        let me = self.peer(node);
        for (at, row) in read_feed(&self.disk(node).reader, &workspace, before) {
            if at > seq.0 || row.origin.is_none_or(|origin| origin == me) {
                continue;
            }
            let heard = since.get(&row.document);
            let is_told = heard.is_some_and(|heard| match row.purged {
                Some(_) => heard.is_purged,
                None => {
                    let mut changes = row.changes.iter();
                    heard.is_purged || changes.all(|(hash, _)| heard.changes.contains(hash))
                }
            });
            if !is_told {
                self.fail(format_args!(
                    "node {node} did not tell its host of entry {at}, a change of {}",
                    row.document
                ));
            }
        }
    }
}
