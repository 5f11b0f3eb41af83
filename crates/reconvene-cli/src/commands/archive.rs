//! `archive`: a store into a file, and a file into a store.

use std::path::PathBuf;

use reconvene::RestoreOptions;
use serde_json::Value;

use super::{At, absolute};
use crate::args::archive::ArchiveCommand;
use crate::exit;
use crate::failure::Failure;
use crate::output::to_value;
use crate::progress::{self, Indicator};
use crate::request::Request;
use crate::{human, session};

impl At<'_> {
    pub(super) async fn archive(&self, command: ArchiveCommand) -> Result<u8, Failure> {
        match command {
            ArchiveCommand::Create {
                file,
                with_identity,
                overwrite,
            } => {
                let request = Request::ArchiveCreate {
                    file: absolute(file)?.path,
                    with_identity,
                    overwrite,
                };
                let answer = self.perform(self.existing(), request).await?;
                self.output.answer(&answer, human::archive::created)?;
                Ok(code_of_damage(&answer).unwrap_or(exit::OK))
            }
            ArchiveCommand::Restore {
                file,
                partial,
                with_identity,
            } => {
                let file = absolute(file)?.path;
                let is_there = self.data.join("profile.json").try_exists().unwrap_or(true);
                let answer = match is_there && !with_identity {
                    true => {
                        let request = Request::ArchiveRestore { file, partial };
                        self.perform(self.existing(), request).await?
                    }
                    false => self.restore_new(file, partial, with_identity).await?,
                };
                self.output.answer(&answer, human::archive::restored)?;
                Ok(match answer["complete"].as_bool() {
                    Some(true) => exit::OK,
                    _ => code_of_damage(&answer).unwrap_or(exit::INCOMPLETE),
                })
            }
        }
    }

    /// Makes a store for an archive: nobody can have it open.
    async fn restore_new(
        &self,
        file: PathBuf,
        partial: bool,
        with_identity: bool,
    ) -> Result<Value, Failure> {
        if self.within.is_some() {
            let message = "there is no store yet, so --workspace means nothing to it";
            return Err(Failure::new("usage", message));
        }
        let indicator = Indicator::start("restoring");
        let options = RestoreOptions {
            partial,
            with_identity,
            progress: Some(progress::of_archive("restoring", &indicator.sink())),
        };
        let (replica, report) = self.named(None).restore(file, options).await?;
        session::close(replica).await;
        to_value(&report)
    }
}

/// The code of an archive that was not whole, or is not.
fn code_of_damage(answer: &Value) -> Option<u8> {
    let is_damaged = ["losses", "damages"]
        .iter()
        .any(|count| answer[count].as_u64().is_some_and(|count| count > 0));
    is_damaged.then(|| exit::code_of("archive_damaged"))
}
