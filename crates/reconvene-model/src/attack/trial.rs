//! What becomes of an altered history: the guard, an engine's graph, then real documents.

use std::collections::{BTreeMap, BTreeSet};

use reconvene_core::engine::{LoneGraph, Root};
use reconvene_core::guard::parse_change;
use reconvene_core::ids::{ChangeHash, DocumentKind};

use super::histories::History;
use super::mutations::Attack;
use crate::genesis::{MEETING, TRANSCRIPT};
use crate::materialise::contain;
use crate::snapshot::{SnapshotError, snapshot};
use crate::testing::{DOC, NOW, export};
use crate::{
    Document, EditError, EncodedChange, MaterialiseCounter, ModelError, ProjectId, Purpose,
    Segment, derive_actor, index, materialise,
};

/// How an attack ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// No altered change passed the guard.
    RefusedByGuard,
    /// None was placed in the document's graph.
    RefusedByGraph,
    /// The document leaves out an altered change, which does not fit it, and goes on as any other.
    SetAside,
    /// The document takes it, and keeps its changes singly since Automerge does not load what it saves.
    NotCompacted,
    /// The document takes it, and leaves out an honest change that does not fit it any more.
    Crowded,
    /// The document takes it, saves and loads; but what it shows may be another thing until it is
    /// loaded anew. Automerge does not see that an operation is of another object or key than what it
    /// names.
    Unsettled,
    /// The document takes it and goes on as any other.
    Taken,
    /// It did harm.
    Escaped,
}

/// What a document is, as far as anyone can see it.
#[derive(Debug, PartialEq)]
struct Seen {
    heads: Vec<ChangeHash>,
    export: Result<String, String>,
    row: Result<Option<Vec<u8>>, String>,
}

fn look(document: &Document) -> Seen {
    let export = contain(|| export(document)).map_err(|panicked| panicked.to_string());
    let row = index::index_row(DOC, document).map_err(|error| error.to_string());
    Seen {
        heads: document.heads(),
        export,
        row: row.map(|row| row.map(|row| row.encode())),
    }
}

pub(super) fn graph_of(kind: DocumentKind) -> LoneGraph {
    let roots = crate::roots().iter().map(|genesis| {
        let (kind, max_op) = (genesis.kind, genesis.max_op);
        (genesis.hash, Root { kind, max_op })
    });
    LoneGraph::new(kind, roots.collect::<BTreeMap<_, _>>())
}

/// Tries an attack; an error is harm done.
pub(super) fn run(history: &History, attack: &Attack) -> Result<Outcome, String> {
    let mut graph = graph_of(history.kind);
    let mut accepted: Vec<&[u8]> = Vec::new();
    let (mut passed, mut placed) = (0, 0);
    let mut altered = Vec::new();
    for (place, body) in attack.bodies.iter().enumerate() {
        let is_altered = attack.altered.contains(&place);
        let Ok(header) = parse_change(body) else {
            continue;
        };
        passed += u32::from(is_altered);
        if graph.take(&header) == Ok(true) {
            placed += u32::from(is_altered);
            if is_altered {
                altered.push(accepted.len());
            }
            accepted.push(body);
        }
    }
    match (passed, placed) {
        (0, _) => return Ok(Outcome::RefusedByGuard),
        (_, 0) => return Ok(Outcome::RefusedByGraph),
        _ => {}
    }
    document(history.kind, &accepted, &altered, &mut graph)
}

/// Whether nothing is left out but altered changes, and what was made to depend on them.
fn is_harmless(document: &Document, accepted: &[&[u8]], altered: &[usize]) -> Result<bool, String> {
    let mut suspect = BTreeSet::new();
    for (place, body) in accepted.iter().enumerate() {
        let header = parse_change(body).map_err(|error| error.to_string())?;
        let follows = header
            .dependencies
            .iter()
            .any(|hash| suspect.contains(hash));
        if follows || altered.contains(&place) {
            suspect.insert(header.hash);
        }
    }
    let mut aside = document.set_aside().iter();
    Ok(aside.all(|hash| suspect.contains(hash)))
}

/// Gives changes to documents as the product does: one that is open, and one that is loaded.
pub(super) fn document(
    kind: DocumentKind,
    accepted: &[&[u8]],
    altered: &[usize],
    graph: &mut LoneGraph,
) -> Result<Outcome, String> {
    let counter = MaterialiseCounter::new();
    let load =
        |chunks: &[&[u8]]| materialise(kind, chunks.iter().copied(), Purpose::Read, &counter);
    let open_until = altered.first().copied().unwrap_or(0);
    let mut open = load(&accepted[..open_until]).map_err(|error| format!("honest: {error}"))?;
    let applied = open.apply(accepted[open_until..].iter().copied());
    let mut document = load(accepted).map_err(|error| format!("past the guard: {error}"))?;
    let seen = look(&document);
    let is_settled = match applied {
        Ok(()) => look(&open) == seen,
        // It is loaded anew.
        Err(_) => true,
    };
    if !document.set_aside().is_empty() {
        if open.heads() == document.heads() && !open.is_poisoned() {
            return Err("an open document takes what does not load".to_owned());
        }
        let is_harmless = is_harmless(&document, accepted, altered)?;
        let reversed: Vec<_> = accepted.iter().rev().copied().collect();
        if load(&reversed).map(|again| look(&again)).ok().as_ref() != Some(&seen) {
            return Err("in another order something else is left out".to_owned());
        }
        if !is_harmless {
            return Ok(Outcome::Crowded);
        }
    }
    if !document.missing().is_empty() {
        return Ok(Outcome::Unsettled);
    }
    let aside = document.set_aside().to_vec();
    let saved = saved(kind, accepted, &seen, &counter)?;
    if !is_settled {
        return Ok(Outcome::Unsettled);
    }
    // Edited here, which the next loading has to show, and everyone else has to take.
    let actor = derive_actor(&crate::testing::device(8), &DOC, &[8; 16]);
    let mut everything: Vec<Vec<u8>> = accepted.iter().map(|body| body.to_vec()).collect();
    for step in 0..2 {
        let edited = document.edit(&actor, NOW, |editor| edit(editor, kind, step));
        let changes = match edited {
            Ok(((), changes)) => changes,
            // A document whose containers are gone or full says so each time, and stays as it was.
            Err(EditError::Refused(_)) => return Ok(saved),
            Err(EditError::ReadOnly { .. }) => return Ok(saved),
            Err(error) => return Err(format!("a local edit: {error}")),
        };
        take_own(graph, &changes)?;
        everything.extend(changes.into_iter().map(|change| change.bytes));
    }
    let seen = look(&document);
    let chunks: Vec<_> = everything.iter().map(|body| &body[..]).collect();
    let again = load(&chunks).map_err(|error| format!("once edited: {error}"))?;
    if look(&again) != seen {
        return Ok(Outcome::Unsettled);
    }
    if again.set_aside() != aside {
        return Err("once edited, something else is left out".to_owned());
    }
    let saved_again = self::saved(kind, &chunks, &seen, &counter)?;
    match (saved, saved_again) {
        // What could be saved may not be any more, or again.
        (Outcome::NotCompacted, _) | (_, Outcome::NotCompacted) => Ok(Outcome::NotCompacted),
        (before, after) if before == after => Ok(after),
        (before, after) => Err(format!("{before:?} before an edit, then {after:?}")),
    }
}

/// Compacts and loads what came out of it.
fn saved(
    kind: DocumentKind,
    chunks: &[&[u8]],
    seen: &Seen,
    counter: &MaterialiseCounter,
) -> Result<Outcome, String> {
    let made = match snapshot(kind, chunks.iter().copied(), [], counter) {
        Ok(made) => made,
        Err(SnapshotError::Unsavable { .. }) => return Ok(Outcome::NotCompacted),
        Err(SnapshotError::SetAside { .. }) => return Ok(Outcome::SetAside),
        Err(error) => return Err(format!("a snapshot: {error}")),
    };
    let chunk = std::iter::once(&made.bytes[..]);
    let loaded = materialise(kind, chunk, Purpose::Read, counter);
    let loaded = loaded.map_err(|error| format!("a proven snapshot: {error}"))?;
    if &look(&loaded) != seen {
        return Err("what was compacted differs from what was not".to_owned());
    }
    Ok(Outcome::Taken)
}

fn edit(editor: &mut crate::Editor, kind: DocumentKind, step: u8) -> Result<(), ModelError> {
    match kind {
        MEETING => {
            let mut meeting = editor.meeting()?;
            meeting.set_title(&format!("edited {step}"))?;
            meeting.append_note("and more")?;
            meeting.add_tag("edited")
        }
        TRANSCRIPT => {
            let segment = Segment {
                id: format!("edited {step}"),
                start: 0,
                end: None,
                speaker: None,
                text: "said".to_owned(),
            };
            editor.transcript()?.append_segment(&segment)
        }
        _ => {
            let project = ProjectId::from_bytes([0x40 + step; 16]);
            let mut workspace = editor.workspace()?;
            workspace.set_name(&format!("edited {step}"))?;
            workspace.add_project(project, "edited")
        }
    }
}

/// What is written here has to be taken everywhere.
fn take_own(graph: &mut LoneGraph, changes: &[EncodedChange]) -> Result<(), String> {
    for change in changes {
        let header = parse_change(&change.bytes)
            .map_err(|error| format!("the guard refuses what was written here: {error}"))?;
        match graph.take(&header) {
            Ok(true) => {}
            other => return Err(format!("the graph and what was written here: {other:?}")),
        }
    }
    Ok(())
}
