//! The order in which pieces make sense: what the archive is about first, bodies after the document
//! that announces them, and as many as it announces.

use super::pieces::Piece;
use crate::ids::{DocumentId, WorkspaceId};

/// A document of which less is there than it announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incomplete {
    /// Where.
    pub workspace: WorkspaceId,
    /// The document.
    pub document: DocumentId,
    /// How many snapshots are not there.
    pub snapshots: u64,
    /// How many changes are not there.
    pub changes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Order {
    has_begun: bool,
    /// What is yet to come of the last document.
    open: Option<Incomplete>,
}

impl Order {
    /// Takes the next piece. A document before it that is not complete, or what is wrong with the
    /// order otherwise.
    pub(super) fn take(&mut self, piece: &Piece) -> Result<Option<Incomplete>, String> {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        let mut wrong = None;
        if is_first != matches!(piece, Piece::About(_)) {
            wrong = Some("it does not say first whose archive it is, or twice".to_owned());
        }
        let ended = match piece {
            Piece::Snapshot(body) | Piece::Change(body) => {
                let place = (body.workspace, body.document);
                let open = self.open.as_mut();
                let open = open.filter(|open| (open.workspace, open.document) == place);
                match (open, piece) {
                    (Some(open), Piece::Snapshot(_)) if open.snapshots > 0 => open.snapshots -= 1,
                    (Some(open), Piece::Change(_)) if open.changes > 0 => open.changes -= 1,
                    _ => wrong = Some(format!("document {} did not announce it", body.document)),
                }
                return wrong.map_or(Ok(None), Err);
            }
            Piece::Other(_) | Piece::Damage(_) => None,
            Piece::Document(document) => self.open.replace(Incomplete {
                workspace: document.workspace,
                document: document.document,
                snapshots: u64::from(document.snapshots),
                changes: document.changes,
            }),
            Piece::About(_) | Piece::File(_) | Piece::Workspace(_) | Piece::End(_) => {
                self.open.take()
            }
        };
        match wrong {
            Some(wrong) => Err(wrong),
            None => Ok(ended.filter(Incomplete::lacks)),
        }
    }

    /// The last document, if something of it is yet to come.
    pub(super) fn end(&mut self) -> Option<Incomplete> {
        self.open.take().filter(Incomplete::lacks)
    }
}

impl Incomplete {
    fn lacks(&self) -> bool {
        self.snapshots > 0 || self.changes > 0
    }
}
