//! Workspaces: which there are, which is used, and who is let in. Also what a server needs of it all:
//! listening, and tickets.

use std::time::Duration;

use reconvene_core::ids::{DocumentId, DocumentKind, MemberId, WorkspaceId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::records::{HeadRow, InviteRow, MemberRow, Record as _, WorkspaceRow};
use reconvene_core::storage::{Scan, StoreRead as _};
use reconvene_core::ticket::Ticket;
use reconvene_core::time::WallTime;
use reconvene_libp2p::{parse_address, split_peer, with_peer};
use reconvene_model::export::{canonical_json, export_workspace};
use reconvene_model::{Purpose, WORKSPACE, WORKSPACE_DOCUMENT};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::clock::wall_now;
use crate::documents::{decode, read_document_of_kind};
use crate::profile::ProfileWorkspace;
use crate::replica::{EditMode, Shared, check_name, new_workspace_id, random, workspace_rows};
use crate::{Error, Replica};

/// Longest life of a ticket.
pub const TICKET_LIFE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// What the first shared workspace of a server is called.
const FIRST_WORKSPACE_NAME: &str = "shared";

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
            EditMode::creating(WORKSPACE),
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
        self.update_profile(|profile| {
            profile.put_workspace(workspace);
            if current {
                profile.current = Some(id);
            }
        })?;
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
        if let Some(scope) = self.scope() {
            let chosen = shared.into_iter().find(|workspace| workspace.id == scope);
            return match chosen.filter(|workspace| !workspace.home) {
                Some(chosen) => Ok(chosen),
                None => Err(Error::BadInput("a home is for its member alone".to_owned())),
            };
        }
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

/// The documents of a workspace with their kinds, in the order of their ids, without purged ones.
pub(crate) fn stored_documents(
    shared: &Shared,
    workspace: WorkspaceId,
) -> Result<Vec<(DocumentId, DocumentKind)>, Error> {
    let mut documents = Vec::new();
    let mut range = KeyRange::heads(&workspace);
    loop {
        let heads = shared
            .reader
            .scan(&Scan::ascending(range.clone(), 1024))
            .map_err(Error::Store);
        let heads = shared.noting_damage(workspace, heads)?;
        for (key, value) in &heads.rows {
            let row = shared.noting_damage(workspace, decode::<HeadRow>(key, value))?;
            if let Some(document) = key.document().filter(|_| row.purged_at.is_none()) {
                documents.push((document, row.kind));
            }
        }
        match heads.rows.last().filter(|_| heads.more) {
            Some((last, _)) => range = range.after(last),
            None => return Ok(documents),
        }
    }
}

fn export(shared: &Shared, workspace: WorkspaceId) -> Result<String, Error> {
    let mut failed = None;
    let documents = stored_documents(shared, workspace)?;
    let loaded = documents.into_iter().map_while(|(id, kind)| {
        let counter = shared.documents.counter();
        let read = read_document_of_kind(
            &shared.reader,
            counter,
            workspace,
            id,
            kind,
            Purpose::Export,
        );
        shared.documents.note_damage((workspace, id), &read);
        match read {
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
