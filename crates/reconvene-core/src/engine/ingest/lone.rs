//! The graph of one document by itself, for attacks on what is let into it.

use std::collections::{BTreeMap, BTreeSet};

use super::place::{Judgement, Known, add, judge};
use crate::engine::Root;
use crate::guard::ChangeHeader;
use crate::ids::{ChangeHash, DocumentKind};
use crate::records::HeadRow;
use crate::refusal::RefusalCode;

/// What an engine keeps of a document of which everything came from peers, and decides by: as it is
/// once all that came before is stored, and what comes next comes in a frame of its own.
#[derive(Clone, Debug)]
pub struct LoneGraph {
    row: HeadRow,
    roots: BTreeMap<ChangeHash, Root>,
    stored: BTreeSet<ChangeHash>,
}

impl LoneGraph {
    /// A document of which nothing is stored.
    pub fn new(kind: DocumentKind, roots: BTreeMap<ChangeHash, Root>) -> Self {
        Self {
            row: HeadRow::empty(kind),
            roots,
            stored: BTreeSet::new(),
        }
    }

    /// Takes a change that passed the guard; whether it was new.
    ///
    /// # Errors
    /// The code an engine refuses it with.
    pub fn take(&mut self, header: &ChangeHeader) -> Result<bool, RefusalCode> {
        let known = Known {
            roots: &self.roots,
            present: &|hash| self.stored.contains(hash),
            max_op: &|hash| self.row.head_max_ops.get(hash).copied(),
            orphans: false,
        };
        match judge(header, &self.row, self.row.kind, &known) {
            Judgement::Duplicate => Ok(false),
            Judgement::Refuse(code) => Err(code),
            Judgement::Add => {
                add(&mut self.row, header, Vec::new());
                self.row.change_count += 1;
                self.row.change_bytes += header.body_bytes as u64;
                self.stored.insert(header.hash);
                Ok(true)
            }
        }
    }
}
