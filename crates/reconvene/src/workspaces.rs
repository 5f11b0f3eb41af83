//! Workspaces: which there are, which is used, who is let in, and joining those of others. Also what
//! a server needs of it all: listening, and tickets.

use std::time::Duration;

use bytes::Bytes;
use reconvene_core::engine::{EditedDocument, JoinRequest};
use reconvene_core::ids::{MemberId, PeerId, WorkspaceId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::records::{HeadRow, InviteRow, MemberRow, Record as _, WorkspaceRow};
use reconvene_core::storage::{Scan, StoreRead as _};
use reconvene_core::stored;
use reconvene_core::ticket::Ticket;
use reconvene_core::time::WallTime;
use reconvene_libp2p::{parse_address, split_peer, with_peer};
use reconvene_model::export::{canonical_json, export_workspace};
use reconvene_model::{Purpose, WORKSPACE, WORKSPACE_DOCUMENT, snapshot};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::clock::wall_now;
use crate::documents::{decode, read_document_of_kind};
use crate::profile::{ProfileServer, ProfileWorkspace};
use crate::replica::{
    Shared, check_name, new_workspace_id, random, request_id, share_rows, workspace_rows,
};
use crate::{Error, Replica};

/// Longest life of a ticket.
pub const TICKET_LIFE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// What the first shared workspace of a server is called.
const FIRST_WORKSPACE_NAME: &str = "shared";
/// Documents copied at a time when a home merges into another.
const MERGE_DOCUMENTS: usize = 32;

/// A workspace of this store.
#[derive(Clone, Debug, Serialize)]
pub struct WorkspaceInfo {
    /// The workspace.
    pub id: WorkspaceId,
    /// Its name.
    pub name: String,
    /// Whether it is a member's home.
    pub home: bool,
    /// Whether it is the current one.
    pub current: bool,
}

/// How to invite.
#[derive(Clone, Debug)]
pub struct InviteOptions {
    /// Whose device will join: a name that was invited before adds a device of theirs. A new member
    /// without it.
    pub member: Option<String>,
    /// How long the ticket lives; at most [`TICKET_LIFE_MAX`].
    pub expires_in: Duration,
}

/// A ticket that was issued.
#[derive(Clone, Debug, Serialize)]
pub struct Invitation {
    /// The ticket, as text.
    pub ticket: String,
    /// When it ends.
    pub expires_at: WallTime,
    /// The workspace it opens.
    pub workspace: WorkspaceId,
    /// Whose device will join.
    pub member: MemberId,
    /// What they are called.
    pub member_name: String,
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
    /// Documents of an earlier home that were merged into it.
    pub merged_documents: usize,
}

impl Replica {
    /// Lists the workspaces of this store.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn workspaces(&self) -> Result<Vec<WorkspaceInfo>, Error> {
        let current = self.profile().current;
        self.blocking(move |shared| list(shared, current)).await
    }

    /// Finds a workspace by id or exact name.
    pub(crate) async fn find_workspace(&self, id_or_name: &str) -> Result<WorkspaceInfo, Error> {
        let id = id_or_name.parse::<WorkspaceId>().ok();
        let mut found = self.workspaces().await?;
        found.retain(|known| Some(known.id) == id || known.name == id_or_name);
        match (found.pop(), found.is_empty()) {
            (Some(workspace), true) => Ok(workspace),
            (Some(_), false) => Err(Error::BadInput(format!(
                "several workspaces are called `{id_or_name}`; name one by its id"
            ))),
            (None, _) => Err(Error::NotFound {
                what: "workspace",
                id: id_or_name.to_owned(),
            }),
        }
    }

    /// Makes a new shared workspace on this store; resolves when it is durable.
    ///
    /// # Errors
    /// If the name is empty or too long, or the store fails.
    pub async fn add_workspace(&self, name: &str) -> Result<WorkspaceInfo, Error> {
        check_name(name)?;
        let id = new_workspace_id();
        self.write(workspace_rows(id, name, None)).await?;
        let owned = name.to_owned();
        self.edit_document(
            id,
            WORKSPACE_DOCUMENT,
            Some(WORKSPACE),
            false,
            move |editor| editor.workspace()?.set_name(&owned),
        )
        .await?;
        let workspace = ProfileWorkspace {
            id,
            name: name.to_owned(),
            home: false,
            server: None,
        };
        let current = self.profile().current.is_none();
        self.add_to_profile(workspace, None, current)?;
        Ok(WorkspaceInfo {
            id,
            name: name.to_owned(),
            home: false,
            current,
        })
    }

    /// Makes a workspace the current one.
    ///
    /// # Errors
    /// If no workspace has this id or exact name, or several have the name.
    pub async fn use_workspace(&self, id_or_name: &str) -> Result<WorkspaceInfo, Error> {
        let found = self.find_workspace(id_or_name).await?;
        self.update_profile(|profile| profile.current = Some(found.id))?;
        Ok(WorkspaceInfo {
            current: true,
            ..found
        })
    }

    /// The current workspace if it is shared, else the first shared one of this store, which becomes
    /// current; made if there is none.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn ensure_shared_workspace(&self) -> Result<WorkspaceInfo, Error> {
        let mut shared: Vec<_> = self.workspaces().await?;
        shared.retain(|workspace| !workspace.home);
        if let Some(current) = shared.iter().find(|workspace| workspace.current) {
            return Ok(current.clone());
        }
        let first = match shared.into_iter().next() {
            Some(first) => first,
            None => self.add_workspace(FIRST_WORKSPACE_NAME).await?,
        };
        self.update_profile(|profile| profile.current = Some(first.id))?;
        Ok(WorkspaceInfo {
            current: true,
            ..first
        })
    }

    /// Issues a single-use ticket for the current shared workspace.
    ///
    /// # Errors
    /// If the life is zero or too long, this store never listened, or the store fails.
    pub async fn invite(&self, options: InviteOptions) -> Result<Invitation, Error> {
        let InviteOptions { member, expires_in } = options;
        if expires_in.is_zero() || expires_in > TICKET_LIFE_MAX {
            let days = TICKET_LIFE_MAX.as_secs() / 86_400;
            return Err(Error::BadInput(format!(
                "a ticket lives more than 0 s and at most {days} days"
            )));
        }
        if let Some(name) = &member {
            check_name(name)?;
        }
        let workspace = self.ensure_shared_workspace().await?;
        let addresses = {
            let profile = self.profile();
            let chosen = if profile.announce.is_empty() {
                &profile.listen
            } else {
                &profile.announce
            };
            chosen.clone()
        };
        if addresses.is_empty() {
            return Err(Error::BadInput(
                "this store has never listened, so a ticket could not say where to connect: run `serve` first, or `serve --announce`"
                    .to_owned(),
            ));
        }
        let (member, mut puts) = self.member(member).await?;
        let secret: [u8; 32] = random()?;
        let life_ms = i64::try_from(expires_in.as_millis()).unwrap_or(i64::MAX);
        let expires_at = WallTime::from_millis(wall_now().as_millis().saturating_add(life_ms));
        let invite = InviteRow {
            workspace: workspace.id,
            workspace_name: workspace.name.clone(),
            member: member.member,
            member_name: member.name.clone(),
            home: member.home,
            expires_at,
            redeemed_by: None,
        };
        puts.push((Key::invite(&Ticket::secret_hash(&secret)), invite.encode()));
        self.write(puts).await?;
        let ticket = Ticket {
            addresses,
            peer: self.shared.peer,
            workspace: workspace.id,
            workspace_name: workspace.name,
            member: member.member,
            member_name: member.name.clone(),
            home: member.home,
            secret,
            expires_at,
        };
        Ok(Invitation {
            ticket: ticket.encode(),
            expires_at,
            workspace: workspace.id,
            member: member.member,
            member_name: member.name,
        })
    }

    /// The member of this name, or a new one, with the rows that make them.
    async fn member(
        &self,
        name: Option<String>,
    ) -> Result<(MemberRow, Vec<(Key, bytes::Bytes)>), Error> {
        let member = MemberId::from_bytes(*uuid::Uuid::new_v4().as_bytes());
        let name = name.unwrap_or_else(|| format!("member-{}", &member.to_string()[..8]));
        let key = Key::member(&Sha256::digest(&name).into());
        let lookup = key.clone();
        let known = self
            .blocking(move |shared| {
                let value = shared.reader.read(&lookup)?;
                value
                    .map(|value| decode::<MemberRow>(&lookup, &value))
                    .transpose()
            })
            .await?;
        if let Some(known) = known {
            return Ok((known, Vec::new()));
        }
        let row = MemberRow {
            member,
            name,
            home: new_workspace_id(),
        };
        let home_name = format!("home of {}", row.name);
        let mut puts = workspace_rows(row.home, &home_name, Some(member));
        puts.push((key, row.encode()));
        Ok((row, puts))
    }

    /// Redeems a ticket: enrols this device with the server, makes the ticket's workspace current,
    /// and merges what an earlier home of this device held into the member's home.
    ///
    /// Dropping this midway may leave the device enrolled there and not here; the same device may
    /// redeem the same ticket again.
    ///
    /// # Errors
    /// If the text is no ticket, the server cannot be reached, or it refuses.
    pub async fn join(&self, ticket: &str) -> Result<JoinReport, Error> {
        let ticket = Ticket::decode(ticket)?;
        if ticket.peer == self.shared.peer {
            return Err(Error::BadInput(
                "this store issued the ticket itself".to_owned(),
            ));
        }
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
        // A home that a server has is that member's; only one of this device alone is merged away.
        let (old_home, keeps_home) = {
            let profile = self.profile();
            for workspace in [enrolment.workspace, enrolment.home] {
                let known = profile.workspace(&workspace);
                if known.is_some_and(|known| known.server != Some(ticket.peer)) {
                    return Err(Error::BadInput(format!(
                        "workspace {workspace} is on this device already, and not from this server"
                    )));
                }
            }
            let home = profile.workspace(&profile.home);
            let synced = home.is_some_and(|home| home.server.is_some());
            let differs = profile.home != enrolment.home;
            (
                (differs && !synced).then_some(profile.home),
                differs && synced,
            )
        };
        let server = ProfileServer {
            peer: ticket.peer,
            addresses: ticket.addresses,
        };
        let mut opened = vec![(
            enrolment.workspace,
            enrolment.workspace_name.as_str(),
            false,
        )];
        if !keeps_home {
            opened.push((enrolment.home, "home", true));
            self.update_profile(|profile| {
                profile.member = enrolment.member;
                profile.member_name.clone_from(&enrolment.member_name);
            })?;
        }
        let mut puts = Vec::new();
        {
            let profile = self.profile();
            for (workspace, name, home) in opened {
                if profile.workspace(&workspace).is_none() {
                    puts.extend(workspace_rows(
                        workspace,
                        name,
                        home.then_some(enrolment.member),
                    ));
                }
                puts.push(share_rows(&ticket.peer, &workspace, &profile));
            }
        }
        self.write(puts).await?;
        let joined = |id, name: &str, home| ProfileWorkspace {
            id,
            name: name.to_owned(),
            home,
            server: Some(enrolment.peer),
        };
        if !keeps_home {
            self.add_to_profile(joined(enrolment.home, "home", true), None, false)?;
        }
        let workspace = joined(enrolment.workspace, &enrolment.workspace_name, false);
        self.add_to_profile(workspace, Some(server), true)?;
        let merged_documents = match old_home {
            Some(old_home) => self.merge_home(old_home, enrolment.home).await?,
            None => 0,
        };
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

    /// Copies every document of an earlier home, content and history whole, into the member's home.
    /// Ids and bytes do not name their workspace, so the copies are the same documents.
    async fn merge_home(&self, from: WorkspaceId, to: WorkspaceId) -> Result<usize, Error> {
        let mut merged = 0;
        let mut range = KeyRange::heads(&from);
        loop {
            let scan = Scan::ascending(range.clone(), MERGE_DOCUMENTS);
            let (documents, last) = self
                .blocking(move |shared| read_for_merge(shared, from, &scan))
                .await?;
            for document in documents {
                self.add_documents(to, vec![document], Vec::new()).await?;
                merged += 1;
            }
            match last {
                Some(last) => range = range.after(&last),
                None => break,
            }
        }
        let delete = reconvene_core::engine::Write {
            request: request_id(),
            puts: Vec::new(),
            deletes: vec![Key::workspace(&from), Key::index_state(&to)],
        };
        // The copies' rows are built by the indexer, from the start of the home's feed.
        self.shared.driver.write(delete).await?;
        // Last, so that joining again after a crash merges again.
        self.update_profile(|profile| {
            profile.home = to;
            profile.workspaces.retain(|workspace| workspace.id != from);
        })?;
        self.shared.driver.look_again(to);
        Ok(merged)
    }

    /// Accepts links at these addresses, and remembers them; without any, at those last bound, and
    /// the first time at a free port of 127.0.0.1. Yields the bound addresses with this peer's id.
    ///
    /// # Errors
    /// If a text is not an address or cannot be listened on.
    pub async fn listen(&self, addresses: &[String]) -> Result<Vec<String>, Error> {
        let wanted = if addresses.is_empty() {
            self.profile().listen.clone()
        } else {
            addresses.to_vec()
        };
        let wanted = if wanted.is_empty() {
            vec!["/ip4/127.0.0.1/tcp/0".to_owned()]
        } else {
            wanted
        };
        let mut bound = Vec::with_capacity(wanted.len());
        for address in wanted {
            let (address, peer) = split_peer(&address)?;
            if peer.is_some_and(|peer| peer != self.shared.peer) {
                return Err(Error::Listen {
                    address,
                    why: "it names another peer".to_owned(),
                });
            }
            bound.push(self.shared.driver.listen(address).await?);
        }
        self.update_profile(|profile| profile.listen.clone_from(&bound))?;
        bound
            .iter()
            .map(|address| Ok(with_peer(address, self.shared.peer)?))
            .collect()
    }

    /// Sets the addresses that tickets carry, for when others reach this server elsewhere than where
    /// it listens. None: those it listens on.
    ///
    /// # Errors
    /// If a text is not an address.
    pub async fn set_announce(&self, addresses: &[String]) -> Result<(), Error> {
        let parsed = addresses.iter().map(|address| {
            let address = parse_address(address)?;
            Ok(split_peer(&address)?.0)
        });
        let parsed: Vec<_> = parsed.collect::<Result<_, Error>>()?;
        self.update_profile(|profile| profile.announce = parsed)
    }

    /// Exports a workspace, by id or exact name, or the current one: canonical JSON, the same bytes
    /// on any two replicas that hold the same view.
    ///
    /// # Errors
    /// If there is no such workspace, or a document cannot be loaded.
    pub async fn export(&self, workspace: Option<&str>) -> Result<String, Error> {
        let workspace = match workspace {
            Some(named) => self.find_workspace(named).await?.id,
            None => self.current_workspace()?,
        };
        self.blocking(move |shared| export(shared, workspace)).await
    }
}

fn list(shared: &Shared, current: Option<WorkspaceId>) -> Result<Vec<WorkspaceInfo>, Error> {
    let rows = shared
        .reader
        .scan(&Scan::ascending(KeyRange::workspaces(), 100_000))?;
    let mut workspaces = Vec::with_capacity(rows.rows.len());
    for (key, value) in &rows.rows {
        if let Some(id) = key.workspace_id() {
            let row: WorkspaceRow = decode(key, value)?;
            let home = row.home_of.is_some();
            workspaces.push((
                row.created_at,
                WorkspaceInfo {
                    id,
                    name: row.name,
                    home,
                    current: current == Some(id),
                },
            ));
        }
    }
    workspaces.sort_by_key(|(created_at, workspace)| (*created_at, workspace.id));
    Ok(workspaces
        .into_iter()
        .map(|(_, workspace)| workspace)
        .collect())
}

/// The next documents of a workspace with all their changes in causal order, and where they end.
fn read_for_merge(
    shared: &Shared,
    workspace: WorkspaceId,
    scan: &Scan,
) -> Result<(Vec<EditedDocument>, Option<Key>), Error> {
    let heads = shared.reader.scan(scan)?;
    let mut documents = Vec::with_capacity(heads.rows.len());
    for (key, value) in &heads.rows {
        let Some(document) = key.document() else {
            continue;
        };
        let row: HeadRow = decode(key, value)?;
        let chunks = stored::chunks(&shared.reader, &workspace, &document)?;
        let chunks = chunks.iter().map(|chunk| &chunk[..]);
        let changes = snapshot::beyond(row.kind, chunks, &[], shared.documents.counter())
            .map_err(|error| Error::BadInput(format!("a stored change is damaged: {error}")))?;
        let changes = changes.into_iter().map(Bytes::from).collect();
        documents.push(EditedDocument {
            document,
            kind: row.kind,
            changes,
        });
    }
    let last = heads
        .rows
        .last()
        .map(|(key, _)| key.clone())
        .filter(|_| heads.more);
    Ok((documents, last))
}

fn export(shared: &Shared, workspace: WorkspaceId) -> Result<String, Error> {
    let mut documents = Vec::new();
    let mut range = KeyRange::heads(&workspace);
    loop {
        let heads = shared.reader.scan(&Scan::ascending(range.clone(), 1024))?;
        for (key, value) in &heads.rows {
            if let Some(document) = key.document() {
                documents.push((document, decode::<HeadRow>(key, value)?.kind));
            }
        }
        match heads.rows.last().filter(|_| heads.more) {
            Some((last, _)) => range = range.after(last),
            None => break,
        }
    }
    let mut failed = None;
    let loaded = documents.into_iter().map_while(|(id, kind)| {
        let counter = shared.documents.counter();
        match read_document_of_kind(
            &shared.reader,
            counter,
            workspace,
            id,
            kind,
            Purpose::Export,
        ) {
            Ok(document) => Some((id, document)),
            Err(error) => {
                failed = Some(error);
                None
            }
        }
    });
    let value = export_workspace(loaded);
    match failed {
        Some(error) => Err(error),
        None => Ok(canonical_json(&value)),
    }
}
