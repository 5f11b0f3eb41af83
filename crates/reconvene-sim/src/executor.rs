//! Commands in the simulated world: devices issue them as documents, under ids of their own, and the
//! server's host carries them out, in the steps in which a server's executor does: it takes one up, and
//! when that is durable ends it together with what it changes. A sync run reaches the outside under its
//! command's id, as often as it has to be carried on.

use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::rand_core::RngCore as _;
use reconvene_core::engine::Event;
use reconvene_core::ids::{
    ChangeHash, DocumentId, FeedSeq, MemberId, PeerId, RequestId, WorkspaceId,
};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::records::{FeedHeadRow, Record as _};
use reconvene_core::storage::{Scan, StoreRead as _};
use reconvene_core::wire::Role;
use reconvene_model::entries;
use reconvene_model::meeting::State;
use reconvene_model::{
    Ask, Author, COMMAND, Command, CommandDraft, Document, ENTRY, EncodedChange, INTEGRATION,
    IntegrationDraft, Outcome, OutcomeState, RunDraft, RunEnd, RunId, RunState, Settings,
};

use crate::documents::Edits;
use crate::world::{Happening, NodeId, World, document};

/// Numbers of documents from which on they are commands.
pub(crate) const COMMANDS_FROM: u64 = 1_000;

/// The document of the one integration there is.
pub(crate) const INTEGRATION_NUMBER: u64 = 900;

/// After how long something is tried again that the store refused, in milliseconds.
const RETRY_AFTER: u64 = 1_000;

/// After how long it is looked again whether readers see what was replayed, in milliseconds.
const LOOK_AGAIN_AFTER: u64 = 50;

/// What the executor of a server has under way; gone with its node.
#[derive(Debug, Default)]
pub(crate) struct Executor {
    /// Edits, with whose turn it is when they are durable.
    edits: BTreeMap<RequestId, DocumentId>,
    busy: BTreeSet<DocumentId>,
    /// Whether the journal is being replayed: nothing is carried out before all of it is in the store.
    pub(crate) is_replaying: bool,
    /// The feed's end when all of the journal was in the store. Engines are told here of what is in the
    /// journal before readers see it.
    replayed: FeedSeq,
}

/// What the world knows of commands.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    /// Changes that end a command.
    ends: BTreeMap<DocumentId, BTreeSet<ChangeHash>>,
    /// Changes that begin a run, by the command that asked for it.
    starts: BTreeMap<DocumentId, BTreeSet<ChangeHash>>,
    /// How often the outside was told under each key.
    pub(crate) outside: BTreeMap<String, u64>,
}

/// What a command asks, by its number.
fn asked(number: u64) -> CommandDraft {
    let ask = match number % 4 {
        0 | 1 => Some(Ask::StartIntegrationSync {
            integration: document(INTEGRATION_NUMBER),
            trigger: "manual".to_owned(),
        }),
        2 => Some(Ask::StopRecording {
            meeting: document(1 + number / 4 % 3),
        }),
        _ => None,
    };
    CommandDraft {
        name: ask.as_ref().map_or("fly", Ask::name).to_owned(),
        arguments: ask.as_ref().map(Ask::arguments).unwrap_or_default(),
        issued_by: author(),
        replaces: None,
    }
}

fn author() -> Author {
    Author {
        member: MemberId::from_bytes([7; 16]),
        device: PeerId::from_bytes([7; 32]),
    }
}

impl World {
    /// Has a host issue a command; whether there are real documents. The same number is the same command.
    pub fn command(&mut self, node: NodeId, workspace: WorkspaceId, number: u64) -> bool {
        if !self.real {
            return false;
        }
        let draft = asked(number);
        let id = document(COMMANDS_FROM + number);
        let mut parts = Vec::new();
        if draft.arguments.contains_key("integration") {
            let create = Edits::by(|editor| {
                let mut integration = editor.integration()?;
                integration.create(&IntegrationDraft {
                    adapter: "simulated".to_owned(),
                    external_id: "outside".to_owned(),
                    account: None,
                    settings: Settings::default(),
                    added_by: author(),
                })
            });
            let integration = document(INTEGRATION_NUMBER);
            let reads = self.read_command_or(node, (workspace, integration));
            if reads.is_none() {
                parts.push((integration, INTEGRATION, create));
            }
        }
        let issue = Edits::by(move |editor| editor.command()?.issue(&draft));
        parts.push((id, COMMAND, issue));
        self.edit_documents(node, workspace, parts);
        true
    }

    /// Has a host say that it wants a command no more; whether there is one.
    pub fn cancel_command(&mut self, node: NodeId, workspace: WorkspaceId, number: u64) -> bool {
        let id = document(COMMANDS_FROM + number);
        if !self.real || self.read_command_or(node, (workspace, id)).is_none() {
            return false;
        }
        let cancel = Edits::by(|editor| editor.command()?.cancel());
        self.edit_documents(node, workspace, vec![(id, COMMAND, cancel)]);
        true
    }

    /// A document as a node has it; `None` if it has none.
    fn read_command_or(
        &mut self,
        node: NodeId,
        place: (WorkspaceId, DocumentId),
    ) -> Option<Document> {
        let open = self.bring_up(node, place, None)?;
        let read = open.document.clone();
        self.nodes[node].host.documents.give_back(place, open);
        Some(read)
    }

    /// Has an executor look at everything there is, as it does when it starts.
    pub(crate) fn look_for_commands(&mut self, node: NodeId, workspace: WorkspaceId) {
        if !self.real || self.nodes[node].role != Role::Server {
            return;
        }
        let scan = Scan::ascending(KeyRange::heads(&workspace), usize::MAX);
        let rows = self.disk(node).reader.scan(&scan);
        let rows = rows.expect("an open store reads").rows;
        for id in rows.iter().filter_map(|(key, _)| key.document()) {
            self.execute_later(node, workspace, id, 0);
        }
    }

    fn execute_later(&mut self, node: NodeId, of: WorkspaceId, id: DocumentId, after: u64) {
        let kind = crate::documents::kind_of(&id);
        if kind == COMMAND || kind == INTEGRATION {
            let life = self.nodes[node].life;
            self.schedule(self.now + after, Happening::Execute(node, life, of, id));
        }
    }

    /// What the host of a server does when it is told something that may be of commands.
    pub(crate) fn on_executor_event(&mut self, node: NodeId, event: &Event) {
        if self.nodes[node].role != Role::Server {
            return;
        }
        let of = crate::world::workspace(1);
        match event {
            Event::EditDurable { request, .. } | Event::EditRefused { request, .. } => {
                let host = &mut self.nodes[node].host;
                let executor = &mut host.executor;
                let Some(id) = executor.edits.remove(request) else {
                    if matches!(event, Event::EditRefused { .. }) {
                        return; // Whoever made it tries again.
                    }
                    // Somebody may issue a command at the server, too.
                    let local = host.documents.on_its_way(request).unwrap_or_default();
                    let ids: Vec<_> = local.iter().map(|((_, id), _)| *id).collect();
                    for id in ids {
                        self.execute_later(node, of, id, 0);
                    }
                    return;
                };
                executor.busy.remove(&id);
                let after = match event {
                    Event::EditRefused { .. } => RETRY_AFTER,
                    _ => 0,
                };
                self.execute_later(node, of, id, after);
                if id != document(INTEGRATION_NUMBER) {
                    self.execute_later(node, of, document(INTEGRATION_NUMBER), after);
                }
            }
            Event::DocumentChanged { document, .. } | Event::DocumentHealed { document, .. } => {
                self.execute_later(node, of, *document, 0);
            }
            Event::ReplayDone { .. } => {
                let status = self.engine(node).and_then(|it| it.workspace_status(&of));
                let replayed = status.map_or(FeedSeq(1), |status| status.head.seq);
                self.nodes[node].host.executor.replayed = FeedSeq(replayed.0.max(1));
                self.execute_later(node, of, document(INTEGRATION_NUMBER), 0);
            }
            Event::Restored { .. } | Event::RoomAgain => self.look_for_commands(node, of),
            _ => {}
        }
    }

    /// Carries out what is due of a document.
    pub(crate) fn execute(&mut self, node: NodeId, workspace: WorkspaceId, id: DocumentId) {
        let executor = &self.nodes[node].host.executor;
        if executor.is_replaying {
            return self.look_whether_replayed(node, workspace, id);
        }
        if executor.busy.contains(&id) {
            return;
        }
        let Some(read) = self.read_command_or(node, (workspace, id)) else {
            return;
        };
        let parts = match read.kind() {
            COMMAND => {
                let command = read.command().expect("an open document reads");
                self.observe(node, &format_args!("takes up {id}, {:?}", command.outcome));
                self.next_of_command(node, workspace, id, &command)
            }
            _ => self.next_of_runs(id, &read),
        };
        if parts.is_empty() {
            return;
        }
        let mut edits = parts.iter().map(|(.., edits)| edits);
        let starts = edits.clone().any(|edits| matches!(edits, Edits::Start(_)));
        let ends = edits.any(|edits| matches!(edits, Edits::End(_)));
        let Some(request) = self.edit_documents(node, workspace, parts) else {
            return; // It is damaged, or was purged, or needs a later version.
        };
        let host = &mut self.nodes[node].host;
        let Some(local) = host.documents.on_its_way(&request) else {
            return self.execute_later(node, workspace, id, RETRY_AFTER); // It was refused at once.
        };
        host.executor.edits.insert(request, id);
        host.executor.busy.insert(id);
        let hashes = |of: DocumentId| {
            let made = local.iter().filter(move |((_, id), _)| *id == of);
            made.flat_map(|(_, made): &(_, Vec<EncodedChange>)| made)
                .map(|change| change.hash)
        };
        let (ended, started): (Vec<_>, Vec<_>) = (
            hashes(id).collect(),
            hashes(document(INTEGRATION_NUMBER)).collect(),
        );
        let known = &mut self.knowledge.commands;
        if ends {
            known.ends.entry(id).or_default().extend(ended);
        }
        if starts {
            known.starts.entry(id).or_default().extend(started);
        }
    }

    /// Looks whether readers see what was replayed, and goes on if they do. One look at a time: the
    /// integration's turn stands for it.
    fn look_whether_replayed(&mut self, node: NodeId, workspace: WorkspaceId, id: DocumentId) {
        let replayed = self.nodes[node].host.executor.replayed;
        if replayed.0 == 0 || id != document(INTEGRATION_NUMBER) {
            return;
        }
        let head = self.disk(node).reader.read(&Key::feed_head(&workspace));
        let head = head.expect("an open store reads");
        let end = head.map(|value| FeedHeadRow::decode(&value).expect("it decodes").point.seq);
        if end >= Some(replayed) {
            self.nodes[node].host.executor.is_replaying = false;
            self.look_for_commands(node, workspace);
        } else if !self.refuses_writes(node) {
            self.execute_later(node, workspace, id, LOOK_AGAIN_AFTER);
        }
    }

    /// The next step of a command: taken up, then ended, after an entry about its refusal is filed.
    fn next_of_command(
        &mut self,
        node: NodeId,
        workspace: WorkspaceId,
        id: DocumentId,
        command: &Command,
    ) -> Vec<(DocumentId, reconvene_core::ids::DocumentKind, Edits)> {
        if command.outcome.is_some() || command.name.is_empty() {
            return Vec::new();
        }
        if command.accepted_at.is_none() {
            let take = match command.cancel {
                true => Edits::End(Outcome::cancelled()),
                false => Edits::by(|editor| editor.command()?.accept()),
            };
            return vec![(id, COMMAND, take)];
        }
        let mut parts = Vec::new();
        let outcome = match command.ask() {
            Ok(Ask::StartIntegrationSync { integration, .. }) => {
                let read = self.read_command_or(node, (workspace, integration));
                let runs = read.and_then(|read| Some(read.integration().ok()?.runs));
                match runs {
                    Some(runs) if runs.values().any(|run| !run.has_ended()) => {
                        Outcome::done([("joined", "true".to_owned())])
                    }
                    Some(_) => {
                        let mut run = [0; 16];
                        self.rng.fill_bytes(&mut run);
                        run[..6].copy_from_slice(&self.now.to_be_bytes()[2..]);
                        let draft = RunDraft {
                            id: RunId::from_bytes(run),
                            trigger: "manual".to_owned(),
                            command: Some(id),
                        };
                        parts.push((integration, INTEGRATION, Edits::Start(draft)));
                        Outcome::done([("run", RunId::from_bytes(run).to_string())])
                    }
                    None => Outcome::refused("unknown_integration", "it is not here"),
                }
            }
            Ok(Ask::StopRecording { meeting }) => {
                let read = self.read_command_or(node, (workspace, meeting));
                let state = read.and_then(|read| read.meeting().ok()?.state);
                match state {
                    Some(State::Recording) => {
                        let stop =
                            Edits::by(|editor| editor.meeting()?.reach_state(State::Stopping));
                        parts.push((meeting, reconvene_model::MEETING, stop));
                        Outcome::done([("state", "stopping".to_owned())])
                    }
                    Some(state) if state > State::Recording => {
                        Outcome::done([("state", state.as_str().to_owned())])
                    }
                    _ => Outcome::refused("not_recording", "it is not being recorded"),
                }
            }
            Ok(_) => Outcome::refused("unknown_command", "this server does not know it"),
            Err(error) => Outcome::refused(error.code(), error.to_string()),
        };
        if outcome.state == OutcomeState::Refused {
            let draft = entries::of_outcome(workspace, id, &command.name, &outcome);
            let filed = self.read_command_or(node, (workspace, draft.id()));
            if filed.is_none() {
                let file = Edits::by({
                    let draft = draft.clone();
                    move |editor| editor.entry()?.file(&draft)
                });
                return vec![(draft.id(), ENTRY, file)];
            }
        }
        parts.push((id, COMMAND, Edits::End(outcome)));
        parts
    }

    /// Carries a run on: tells the outside, and ends the run.
    fn next_of_runs(
        &mut self,
        id: DocumentId,
        read: &Document,
    ) -> Vec<(DocumentId, reconvene_core::ids::DocumentKind, Edits)> {
        let integration = read.integration().expect("an open document reads");
        let mut going = integration.runs.iter().filter(|(_, run)| !run.has_ended());
        let Some((run, record)) = going.next() else {
            return Vec::new();
        };
        let run = *run;
        let key = match record.command {
            Some(command) => command.to_string(),
            None => run.to_string(),
        };
        *self.knowledge.commands.outside.entry(key).or_default() += 1;
        let end = Edits::by(move |editor| {
            editor.integration()?.end_run(
                run,
                &RunEnd {
                    state: RunState::Succeeded,
                    error: None,
                    kept_ms: 60_000,
                },
            )
        });
        vec![(id, INTEGRATION, end)]
    }

    /// Checks, of a world at rest, that each command ended, once, with one effect in the store; that the
    /// outside was told under no key but those of commands, each of whose runs ended; and that what was
    /// refused is in the inbox. A server that lost its past may have ended one again of which it knew no
    /// more; then it is only checked that the outside was told under the same key.
    pub(crate) fn check_commands(&self, nodes: &[NodeId], workspace: WorkspaceId) {
        let server_forgot = nodes
            .iter()
            .any(|node| self.nodes[*node].role == Role::Server && self.rewritten(*node));
        let known = &self.knowledge.commands;
        let mut commands = BTreeSet::new();
        let all = self.all_documents(nodes[0], workspace);
        let find = |id: DocumentId| all.iter().find(|(of, _)| *of == id).map(|(_, read)| read);
        for (id, read) in all.iter().filter(|(_, read)| read.kind() == COMMAND) {
            let command = read.command().expect("a loaded document reads");
            if command.name.is_empty() {
                continue; // Somebody wanted it no more before anybody issued it.
            }
            commands.insert(id.to_string());
            let Some(outcome) = command.outcome else {
                self.fail(format_args!("command {id} has no outcome: {command:?}"));
            };
            let there = |of: &Document, changes: Option<&BTreeSet<ChangeHash>>| {
                let changes = changes.into_iter().flatten();
                changes
                    .filter(|hash| of.lacking([**hash]).is_empty())
                    .count()
            };
            let ends = there(read, known.ends.get(id));
            let integration = find(document(INTEGRATION_NUMBER));
            let starts = integration.map_or(0, |of| there(of, known.starts.get(id)));
            let is_once = ends == 1 && starts == usize::from(outcome.result.contains_key("run"));
            if !is_once && !server_forgot {
                self.fail(format_args!(
                    "command {id} ended {ends} times, with {starts} runs: {outcome:?}"
                ));
            }
            if outcome.state == OutcomeState::Refused {
                let entry = find(entries::outcome_id(*id));
                let entry = entry.and_then(|read| read.entry().ok());
                if entry.is_none_or(|entry| entry.resolved.is_some() || entry.code.is_empty()) {
                    self.fail(format_args!("the inbox does not say that {id} was refused"));
                }
            }
        }
        if let Some(read) = find(document(INTEGRATION_NUMBER)) {
            let integration = read.integration().expect("a loaded document reads");
            for (run, record) in &integration.runs {
                let key = record.command.map(|command| command.to_string());
                let is_told = key.is_some_and(|key| known.outside.contains_key(&key));
                if !record.has_ended() || !is_told {
                    self.fail(format_args!("run {run} did not end: {record:?}"));
                }
            }
        }
        let strange = known.outside.keys().find(|key| !commands.contains(*key));
        if let Some(key) = strange.filter(|_| !server_forgot) {
            self.fail(format_args!(
                "the outside was told under {key}, which is no command"
            ));
        }
    }
}
