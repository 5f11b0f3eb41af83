//! A store that is made for an archive: for its member, as a device of its own; or, with the identity
//! that the archive holds, as the device that the archive is of.

use std::collections::BTreeMap;
use std::path::Path;

use reconvene_core::archive::About;
use reconvene_core::ids::MemberId;
use reconvene_libp2p::load_or_create_identity;
use reconvene_sled::open_data_dir;

use super::restore::Contents;
use crate::profile::{Profile, ProfileFile, ProfileServer, ProfileWorkspace, parse_profile};
use crate::replica::{check_name, new_workspace_id};
use crate::{Error, OpenOptions, Role, kept};

const IDENTITY: &str = "identity.key";
const PROFILE: &str = "profile.json";

/// The files that make a store a certain device. The token of the API is not among them: a new one is
/// made. Nor are tickets, which could be redeemed twice.
pub(super) const FILES: [&str; 4] = [IDENTITY, crate::runs::key::FILE, "enrolled.json", PROFILE];

/// Makes a store where there is none; whether it did. Its profile comes last: without it there is no store, and this
/// can be done again.
pub(super) fn prepare(
    options: &OpenOptions,
    contents: &mut Contents,
    with_identity: bool,
) -> Result<bool, Error> {
    let (path, name, role) = options.to_be_made();
    let files = std::mem::take(&mut contents.files);
    let is_there = path.join(PROFILE).try_exists().unwrap_or(true);
    if is_there && with_identity {
        return Err(Error::AlreadyInitialised(path.to_owned()));
    }
    if is_there {
        return Ok(false);
    }
    if let Some(name) = name {
        check_name(name)?;
    }
    let profile = match with_identity {
        true => identified(&files)?,
        false => of_its_own(contents, name, role),
    };
    let directory = open_data_dir(path)?;
    // Whoever was first meanwhile has made a store.
    if path.join(PROFILE).try_exists().unwrap_or(true) {
        return Err(Error::AlreadyInitialised(path.to_owned()));
    }
    if with_identity {
        place_files(path, &files)?;
        let peer = load_or_create_identity(&path.join(IDENTITY))?.peer_id();
        let archived = contents.about.as_ref().map(|about| about.peer);
        if archived.is_some_and(|archived| archived != peer) {
            let what = format!(
                "the directory {} holds the identity of another device, {peer}",
                path.display()
            );
            return Err(Error::BadInput(what));
        }
    }
    ProfileFile::in_dir(path).save(&profile)?;
    drop(directory);
    Ok(true)
}

/// The profile of the device that the archive is of.
fn identified(files: &BTreeMap<String, Vec<u8>>) -> Result<Profile, Error> {
    match (files.get(IDENTITY), files.get(PROFILE)) {
        (Some(_), Some(profile)) => parse_profile(profile),
        _ => {
            let what = "the archive holds no identity; restore it without, or make one that does \
                        (`archive create --with-identity`)";
            Err(Error::BadInput(what.to_owned()))
        }
    }
}

fn place_files(path: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<(), Error> {
    for name in FILES.iter().filter(|name| **name != PROFILE) {
        let file = path.join(name);
        // One that is there came with this archive before, or belongs to someone.
        let is_there = file.try_exists().unwrap_or(true);
        if let Some(bytes) = files.get(*name).filter(|_| !is_there) {
            kept::write(&file, bytes).map_err(|source| Error::Io {
                what: format!("{} could not be written", file.display()),
                source,
            })?;
        }
    }
    Ok(())
}

/// The profile of a new device of the archive's member.
fn of_its_own(contents: &Contents, name: Option<&str>, role: Option<Role>) -> Profile {
    let about = contents.about.as_ref();
    let archived_role = match about {
        Some(About {
            is_server: true, ..
        }) => Role::Server,
        _ => Role::Device,
    };
    let role = role.unwrap_or(archived_role);
    let archived_name = about.map(|about| about.device_name.as_str());
    let name = name.or(archived_name.filter(|name| check_name(name).is_ok()));
    let name = name.unwrap_or("device").to_owned();
    // The member's, if their home is in it.
    let home = about.filter(|about| contents.workspaces.contains_key(&about.home));
    let mut profile = match home {
        Some(about) => Profile::new(name, role, about.member, about.home),
        None => {
            let member = MemberId::from_bytes(*uuid::Uuid::new_v4().as_bytes());
            Profile::new(name, role, member, new_workspace_id())
        }
    };
    if let Some(about) = home {
        profile.member_name.clone_from(&about.member_name);
    }
    for (id, archived) in &contents.workspaces {
        let archived = archived.as_ref();
        let is_home = *id == profile.home;
        // The home of another member.
        let is_foreign = archived.is_some_and(|archived| archived.home_of.is_some()) && !is_home;
        if is_foreign {
            continue;
        }
        profile.put_workspace(ProfileWorkspace {
            id: *id,
            name: match is_home {
                true => "home".to_owned(),
                false => contents.name_of(id),
            },
            home: is_home,
            server: archived.and_then(|archived| archived.server),
        });
    }
    let used: Vec<_> = profile
        .workspaces
        .iter()
        .filter_map(|known| known.server)
        .collect();
    for server in about.into_iter().flat_map(|about| &about.servers) {
        if used.contains(&server.peer) {
            profile.put_server(ProfileServer {
                peer: server.peer,
                addresses: server.addresses.clone(),
            });
        }
    }
    let current = about.and_then(|about| about.current);
    let current = current.filter(|id| profile.workspace(id).is_some());
    profile.current = current.or(profile.current);
    profile
}
