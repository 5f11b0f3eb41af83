//! Joining a workspace with a ticket, and carrying over what this device made before.
//!
//! What is carried over keeps its ids and its bytes: neither names the workspace it is in, so the
//! copies are the same documents with the same history. The profile says what is on its way; every
//! step can be repeated, so whatever ends the process, the next open goes on.

use bytes::Bytes;
use reconvene_core::engine::{EditedDocument, JoinRequest};
use reconvene_core::guard::parse_change;
use reconvene_core::ids::{DocumentId, MemberId, PeerId, WorkspaceId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::limits;
use reconvene_core::records::HeadRow;
use reconvene_core::storage::{Scan, StoreRead as _};
use reconvene_core::stored;
use reconvene_core::ticket::Ticket;
use reconvene_model::index::{index_row, is_indexed};
use reconvene_model::{Purpose, WORKSPACE_DOCUMENT, snapshot};
use serde::Serialize;

use crate::documents::{decode, head_row, not_found};
use crate::driver::Command;
use crate::profile::{ProfileMove, ProfileServer, ProfileWorkspace};
use crate::replica::{EditMode, Shared, request_id, share_rows, workspace_rows};
use crate::{Error, Replica};

/// Documents read at a time when a workspace is carried over.
const CARRIED_DOCUMENTS: usize = 32;
/// Change bytes stored at a time when a workspace is carried over.
const CARRIED_BYTES: usize = 1024 * 1024;

const _: () = assert!(CARRIED_BYTES + limits::CHANGE_BYTES_MAX < limits::BATCH_BYTES_MAX);

/// How to join.
#[derive(Clone, Copy, Debug, Default)]
pub struct JoinOptions {
    /// Whether what this device made before moves into the joined workspace: everything in workspaces
    /// that are shared with nobody, its own home included. Without, only such a home is merged into the
    /// member's home, and other workspaces stay as they are.
    pub adopt: bool,
}

/// What joining led to.
#[derive(Clone, Debug, Serialize)]
pub struct JoinReport {
    /// The workspace that was joined, and is current now.
    pub workspace: WorkspaceId,
    /// Its name.
    pub workspace_name: String,
    /// Whose device this is.
    pub member: MemberId,
    /// What they are called.
    pub member_name: String,
    /// Their home workspace.
    pub home: WorkspaceId,
    /// The server.
    pub server: PeerId,
    /// Documents of this device's own that moved: into the joined workspace, or into the home.
    pub merged_documents: usize,
}

impl Replica {
    /// Redeems a ticket: enrols this device with the server, makes the ticket's workspace current,
    /// and merges what an earlier home of this device held into the member's home.
    ///
    /// Dropping this midway may leave the device enrolled there and not here; the same device may
    /// redeem the same ticket again.
    ///
    /// # Errors
    /// If the text is no ticket, the server cannot be reached, or it refuses.
    pub async fn join(&self, ticket: &str) -> Result<JoinReport, Error> {
        self.join_with(ticket, JoinOptions::default()).await
    }

    /// The same, with a choice of what becomes of what was made before. Once this device is enrolled,
    /// what moves goes on moving with the next open, whatever ends this one.
    ///
    /// # Errors
    /// As for [`Self::join`].
    pub async fn join_with(&self, ticket: &str, options: JoinOptions) -> Result<JoinReport, Error> {
        let ticket = Ticket::decode(ticket)?;
        self.check_ticket(&ticket).await?;
        let request = JoinRequest {
            request: request_id(),
            peer: ticket.peer,
            addresses: ticket.addresses.clone(),
            secret: ticket.secret,
            device_name: self.profile().name.clone(),
        };
        let enrolment = self.shared.driver.join(request).await?;
        if (enrolment.workspace, enrolment.home) != (ticket.workspace, ticket.home) {
            return Err(Error::BadInput(
                "the server answered with another workspace than the ticket names; ask for a new ticket"
                    .to_owned(),
            ));
        }
        let own = if options.adopt {
            self.own_workspaces().await?
        } else {
            Vec::new()
        };
        let joined = |id, name: &str, home| ProfileWorkspace {
            id,
            name: name.to_owned(),
            home,
            server: Some(ticket.peer),
        };
        // The profile first, and all of it at once: the next open enters in the store what it says.
        self.update_profile(|profile| {
            let old_home = profile.home;
            let synced = profile
                .workspace(&old_home)
                .is_some_and(|home| home.server.is_some());
            let mut moves = Vec::new();
            // A home that a server has is that member's; only one of this device alone moves.
            if old_home == enrolment.home || !synced {
                profile.member = enrolment.member;
                profile.member_name.clone_from(&enrolment.member_name);
                profile.home = enrolment.home;
                profile.put_workspace(joined(enrolment.home, "home", true));
                if old_home != enrolment.home {
                    let to = match options.adopt {
                        true => enrolment.workspace,
                        false => enrolment.home,
                    };
                    moves.push(ProfileMove { from: old_home, to });
                }
            }
            let to = enrolment.workspace;
            let others = own.iter().filter(|from| **from != old_home && **from != to);
            moves.extend(others.map(|from| ProfileMove { from: *from, to }));
            moves.retain(|next| !profile.moves.iter().any(|known| known.from == next.from));
            profile.moves.extend(moves);
            profile.put_workspace(joined(to, &enrolment.workspace_name, false));
            profile.current = Some(to);
            profile.put_server(ProfileServer {
                peer: ticket.peer,
                addresses: ticket.addresses.clone(),
            });
        })?;
        self.enter_joined(ticket.peer).await?;
        if self.keeps_links() {
            self.connect().await?;
        }
        let merged_documents = self.finish_moves().await?;
        Ok(JoinReport {
            workspace: enrolment.workspace,
            workspace_name: enrolment.workspace_name,
            member: enrolment.member,
            member_name: enrolment.member_name,
            home: self.profile().home,
            server: enrolment.peer,
            merged_documents,
        })
    }

    async fn check_ticket(&self, ticket: &Ticket) -> Result<(), Error> {
        if ticket.peer == self.shared.peer {
            return Err(Error::BadInput(
                "this store issued the ticket itself".to_owned(),
            ));
        }
        {
            let profile = self.profile();
            for workspace in [ticket.workspace, ticket.home] {
                let known = profile.workspace(&workspace);
                if known.is_some_and(|known| known.server != Some(ticket.peer)) {
                    return Err(Error::BadInput(format!(
                        "workspace {workspace} is on this device already, and not from this server"
                    )));
                }
            }
        }
        let (peer, opened) = (ticket.peer, [ticket.workspace, ticket.home]);
        self.blocking(move |shared| {
            let scan = Scan::ascending(KeyRange::shares_of(&peer), limits::LINK_WORKSPACES_MAX + 1);
            let rows = shared.reader.scan(&scan)?.rows;
            let others = rows.iter().filter_map(|(key, _)| key.workspace_id());
            let others = others.filter(|known| !opened.contains(known)).count();
            if others + opened.len() > limits::LINK_WORKSPACES_MAX {
                return Err(Error::TooManyWorkspaces { peer });
            }
            Ok(())
        })
        .await
    }

    /// Writes the rows of the workspaces that the profile has from a server.
    async fn enter_joined(&self, server: PeerId) -> Result<(), Error> {
        let (workspaces, profile) = {
            let profile = self.profile();
            let of_server = |known: &&ProfileWorkspace| known.server == Some(server);
            let joined: Vec<_> = profile
                .workspaces
                .iter()
                .filter(of_server)
                .cloned()
                .collect();
            (joined, profile.clone())
        };
        let puts = self
            .blocking(move |shared| {
                let mut puts = Vec::new();
                for workspace in workspaces {
                    if !shared.reader.contains(&Key::workspace(&workspace.id))? {
                        let home_of = workspace.home.then_some(profile.member);
                        puts.extend(workspace_rows(workspace.id, &workspace.name, home_of));
                    }
                    puts.push(share_rows(&server, &workspace.id, &profile));
                }
                Ok(puts)
            })
            .await?;
        self.write(puts).await
    }

    /// The workspaces that nobody shares with this device.
    async fn own_workspaces(&self) -> Result<Vec<WorkspaceId>, Error> {
        let local: Vec<_> = {
            let profile = self.profile();
            let local = profile
                .workspaces
                .iter()
                .filter(|known| known.server.is_none());
            local.map(|known| known.id).collect()
        };
        self.blocking(move |shared| {
            let scan = Scan::ascending(KeyRange::shares(), limits::ROSTER_MAX);
            let rows = shared.reader.scan(&scan)?.rows;
            let shared_ids: Vec<_> = rows
                .iter()
                .filter_map(|(key, _)| key.workspace_id())
                .collect();
            Ok(local
                .into_iter()
                .filter(|id| !shared_ids.contains(id))
                .collect())
        })
        .await
    }

    /// Finishes what is on its way from one workspace into another; yields how many documents moved.
    pub(crate) async fn finish_moves(&self) -> Result<usize, Error> {
        let mut moved = 0;
        loop {
            let next = self.profile().moves.first().copied();
            match next {
                Some(next) => moved += self.carry_over(next).await?,
                None => return Ok(moved),
            }
        }
    }

    async fn carry_over(&self, ProfileMove { from, to }: ProfileMove) -> Result<usize, Error> {
        // From here on nobody edits what moves; what was edited before is stored when this returns.
        let workspace = from;
        let removing = true;
        let leave = Command::Leave {
            workspace,
            removing,
        };
        self.shared.driver.send(leave).await?;
        self.write(Vec::new()).await?;
        let moved = self.copy_documents(from, to).await?;
        self.keep_name(to).await?;
        self.check_carried(from, to).await?;
        self.update_profile(|profile| {
            profile.moves.retain(|known| known.from != from);
            profile.drop_workspace(from);
            profile.removed.push(from);
        })?;
        self.finish_removals().await?;
        Ok(moved)
    }

    /// Copies every document, content and history whole. What is there already falls out.
    async fn copy_documents(&self, from: WorkspaceId, to: WorkspaceId) -> Result<usize, Error> {
        let mut copied = 0;
        let mut range = KeyRange::heads(&from);
        loop {
            let scan = Scan::ascending(range.clone(), CARRIED_DOCUMENTS);
            let (ids, last) = self.blocking(move |shared| read_ids(shared, &scan)).await?;
            let mut edit: Vec<EditedDocument> = Vec::new();
            let mut bytes = 0;
            for id in ids.clone() {
                copied += 1;
                let read = self.blocking(move |shared| read_whole(shared, from, id));
                let mut document = read.await?;
                let bodies = std::mem::take(&mut document.changes);
                for body in bodies {
                    if bytes >= CARRIED_BYTES {
                        if !document.changes.is_empty() {
                            let changes = std::mem::take(&mut document.changes);
                            edit.push(EditedDocument {
                                changes,
                                ..document.clone()
                            });
                        }
                        let whole = std::mem::take(&mut edit);
                        self.add_documents(to, whole, Vec::new()).await?;
                        bytes = 0;
                    }
                    bytes += body.len();
                    document.changes.push(body);
                }
                edit.push(document);
            }
            if !edit.is_empty() {
                self.add_documents(to, edit, Vec::new()).await?;
            }
            for id in ids {
                self.index_copy(to, id).await?;
            }
            match last {
                Some(last) => range = range.after(&last),
                None => return Ok(copied),
            }
        }
    }

    /// Writes the index row of a document that was copied: the indexer leaves to the author what was
    /// not received.
    async fn index_copy(&self, workspace: WorkspaceId, id: DocumentId) -> Result<(), Error> {
        // Opened before it was copied, it may lack what it has now.
        let mut lease = self.shared.documents.lease(workspace, id).await;
        lease.forget();
        let (lease, put, look) = self
            .blocking(move |shared| {
                let document = shared.documents.load(&mut lease, Purpose::Index)?;
                let kind = document.kind();
                let row = match is_indexed(kind) {
                    true => index_row(id, document)?,
                    false => None,
                };
                let key = Key::index(&workspace, kind, &id);
                let place = (workspace, id);
                let look = row.as_ref().map(|row| {
                    let (reader, document) = (&shared.reader, &*document);
                    shared.findings.look(reader, place, document, row)
                });
                let look = look.transpose()?.flatten();
                Ok((lease, row.map(|row| (key, row.encode().into())), look))
            })
            .await?;
        if let Some(put) = put {
            self.write(vec![put]).await?;
        }
        self.shared.findings.note(look);
        self.shared.documents.give_back(lease);
        Ok(())
    }

    /// A workspace keeps its name, whatever the one was called that moved into it.
    async fn keep_name(&self, workspace: WorkspaceId) -> Result<(), Error> {
        let named = self.profile().workspace(&workspace).cloned();
        let Some(named) = named.filter(|known| !known.home) else {
            return Ok(());
        };
        let has_document = self
            .blocking(move |shared| {
                let key = Key::head(&workspace, &WORKSPACE_DOCUMENT);
                Ok(shared.reader.contains(&key)?)
            })
            .await?;
        if !has_document {
            return Ok(());
        }
        self.edit_document(
            workspace,
            WORKSPACE_DOCUMENT,
            EditMode::default(),
            move |editor| editor.workspace()?.set_name(&named.name),
        )
        .await
    }

    /// Nothing is removed that is not held where it went.
    async fn check_carried(&self, from: WorkspaceId, to: WorkspaceId) -> Result<(), Error> {
        self.blocking(move |shared| {
            let mut range = KeyRange::heads(&from);
            loop {
                let scan = Scan::ascending(range.clone(), CARRIED_DOCUMENTS);
                let (ids, last) = read_ids(shared, &scan)?;
                for id in ids {
                    if !is_carried(shared, id, from, to)? {
                        return Err(Error::BadInput(format!(
                            "a change of document {id} is not in workspace {to} yet; nothing was removed"
                        )));
                    }
                }
                match last {
                    Some(last) => range = range.after(&last),
                    None => return Ok(()),
                }
            }
        })
        .await
    }
}

/// The documents of a part of a workspace, without those that were purged, and where the part ends if
/// more follows.
fn read_ids(shared: &Shared, scan: &Scan) -> Result<(Vec<DocumentId>, Option<Key>), Error> {
    let heads = shared.reader.scan(scan)?;
    let mut ids = Vec::with_capacity(heads.rows.len());
    for (key, value) in &heads.rows {
        let row: HeadRow = decode(key, value)?;
        ids.extend(key.document().filter(|_| row.purged_at.is_none()));
    }
    let last = heads.rows.last().filter(|_| heads.more);
    Ok((ids, last.map(|(key, _)| key.clone())))
}

/// Whether every change of a document in one workspace is in another, singly or in a snapshot.
fn is_carried(
    shared: &Shared,
    document: DocumentId,
    from: WorkspaceId,
    to: WorkspaceId,
) -> Result<bool, Error> {
    let whole = read_whole(shared, from, document)?;
    let mut hashes = Vec::with_capacity(whole.changes.len());
    for body in &whole.changes {
        let header = parse_change(body)
            .map_err(|error| Error::BadInput(format!("a stored change is damaged: {error}")))?;
        hashes.push(header.hash);
    }
    let chunks = stored::chunks(&shared.reader, &to, &document)?;
    let chunks = chunks.iter().map(|chunk| &chunk[..]);
    let held = snapshot::holds(whole.kind, chunks, &hashes, shared.documents.counter());
    let held =
        held.map_err(|error| Error::BadInput(format!("a stored snapshot is damaged: {error}")))?;
    Ok(held.into_iter().all(|held| held))
}

/// A document with all its changes in causal order.
fn read_whole(
    shared: &Shared,
    workspace: WorkspaceId,
    document: DocumentId,
) -> Result<EditedDocument, Error> {
    let head = head_row(&shared.reader, workspace, document)?;
    let kind = head.ok_or_else(|| not_found(document))?.kind;
    let chunks = stored::chunks(&shared.reader, &workspace, &document)?;
    let chunks = chunks.iter().map(|chunk| &chunk[..]);
    let changes = snapshot::beyond(kind, chunks, &[], shared.documents.counter())
        .map_err(|error| Error::BadInput(format!("a stored change is damaged: {error}")))?;
    Ok(EditedDocument {
        document,
        kind,
        changes: changes.into_iter().map(Bytes::from).collect(),
    })
}
