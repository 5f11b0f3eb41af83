//! Which request a command about the outbox, the inbox, integrations or sync runs is.

use std::fs;
use std::path::Path;
use std::time::Duration;

use reconvene::{CommandFilter, EntryFilter, IntegrationChanges};

use super::{Human, millis};
use crate::args::outbox::{
    CommandsCommand, InboxCommand, IntegrationsCommand, IssueArgs, RunsCommand,
};
use crate::failure::Failure;
use crate::human::outbox as human;
use crate::request::Request;
use crate::request::outbox::{
    CommandsRequest, InboxRequest, IntegrationsRequest, Issue, RunsRequest,
};

/// Largest file that a setting is read from, in bytes.
const SETTING_BYTES_MAX: u64 = 16 * 1024;

pub(super) fn commands(command: CommandsCommand) -> (Request, Human) {
    let filter = |all| match all {
        true => CommandFilter::All,
        false => CommandFilter::Pending,
    };
    let (request, human): (_, Human) = match command {
        CommandsCommand::List { all, watch: true } => {
            let filter = filter(all);
            (CommandsRequest::Watch { filter }, human::change)
        }
        CommandsCommand::List { all, .. } => {
            let filter = filter(all);
            (CommandsRequest::List { filter }, human::commands)
        }
        CommandsCommand::Show { id, wait } => {
            let wait_ms = wait.map(millis);
            (CommandsRequest::Show { id, wait_ms }, human::command)
        }
        CommandsCommand::Cancel { id } => (CommandsRequest::Cancel { id }, human::command),
    };
    (Request::Commands(request), human)
}

pub(super) fn inbox(command: InboxCommand) -> (Request, Human) {
    let filter = |all| match all {
        true => EntryFilter::All,
        false => EntryFilter::Open,
    };
    let (request, human): (_, Human) = match command {
        InboxCommand::List { all, watch: true } => {
            let filter = filter(all);
            (InboxRequest::Watch { filter }, human::change)
        }
        InboxCommand::List { all, .. } => {
            let filter = filter(all);
            (InboxRequest::List { filter }, human::entries)
        }
        InboxCommand::Show { id } => (InboxRequest::Show { id }, human::shown_entry),
        InboxCommand::Settle { id, choice } => (InboxRequest::Settle { id, choice }, human::entry),
        InboxCommand::Retry { id, wait } => {
            let wait_ms = wait.map(millis);
            (InboxRequest::Retry { id, wait_ms }, human::retried)
        }
        InboxCommand::Amend {
            id,
            arguments,
            wait,
        } => {
            let wait_ms = wait.map(millis);
            let amend = InboxRequest::Amend {
                id,
                arguments,
                wait_ms,
            };
            (amend, human::retried)
        }
        InboxCommand::Discard { id } => (InboxRequest::Discard { id }, human::entry),
        InboxCommand::Resolve { id } => (InboxRequest::Resolve { id }, human::entry),
    };
    (Request::Inbox(request), human)
}

pub(super) fn integrations(command: IntegrationsCommand) -> Result<(Request, Human), Failure> {
    let (request, human): (_, Human) = match command {
        IntegrationsCommand::Add {
            adapter,
            place,
            account,
            settings,
        } => {
            let add = IntegrationsRequest::Add {
                adapter,
                external_id: place,
                account,
                settings: read_settings(settings)?,
            };
            (add, human::integration)
        }
        IntegrationsCommand::Edit {
            id,
            place,
            account,
            settings,
            unset,
        } => {
            let written = read_settings(settings)?.into_iter();
            let written = written.map(|(name, value)| (name, Some(value)));
            let changes = IntegrationChanges {
                external_id: place,
                account: account.map(Some),
                settings: written
                    .chain(unset.into_iter().map(|name| (name, None)))
                    .collect(),
            };
            if changes == IntegrationChanges::default() {
                let message = "say what to change: --place, --account, --set or --unset";
                return Err(Failure::new("usage", message));
            }
            (
                IntegrationsRequest::Edit { id, changes },
                human::integration,
            )
        }
        IntegrationsCommand::Remove { id } => {
            (IntegrationsRequest::Remove { id }, human::integration)
        }
        IntegrationsCommand::List { watch: true } => (IntegrationsRequest::Watch, human::change),
        IntegrationsCommand::List { .. } => (IntegrationsRequest::List, human::integrations),
        IntegrationsCommand::Validate { id, issue: args } => {
            let issue = issue(args);
            (IntegrationsRequest::Validate { id, issue }, human::command)
        }
        IntegrationsCommand::Sync { id, issue: args } => {
            let issue = issue(args);
            (IntegrationsRequest::Sync { id, issue }, human::command)
        }
    };
    Ok((Request::Integrations(request), human))
}

pub(super) fn runs(command: RunsCommand) -> (Request, Human) {
    let (request, human): (_, Human) = match command {
        RunsCommand::List => (RunsRequest::List, human::runs),
        RunsCommand::Show {
            id,
            watch: true,
            timeout,
        } => {
            let timeout_ms = millis(timeout);
            (RunsRequest::Watch { id, timeout_ms }, human::run)
        }
        RunsCommand::Show { id, timeout, .. } => {
            let timeout_ms = millis(timeout);
            (RunsRequest::Show { id, timeout_ms }, human::run)
        }
        RunsCommand::Cancel { id, issue: args } => {
            let issue = issue(args);
            (RunsRequest::Cancel { id, issue }, human::command)
        }
    };
    (Request::Runs(request), human)
}

pub(super) fn issue(args: IssueArgs) -> Issue {
    Issue {
        id: args.command_id,
        wait_ms: args.wait.map(|wait: Duration| millis(wait)),
    }
}

/// Values of the form `@FILE` are read from files, so that a secret need not stand on a command line.
fn read_settings(settings: Vec<(String, String)>) -> Result<Vec<(String, String)>, Failure> {
    let settings = settings.into_iter().map(|(name, value)| {
        let Some(path) = value.strip_prefix('@').map(Path::new) else {
            return Ok((name, value));
        };
        let failed = |what: String| {
            Failure::new(
                "bad_input",
                format!("{} could not be read: {what}", path.display()),
            )
        };
        let length = fs::metadata(path)
            .map_err(|error| failed(error.to_string()))?
            .len();
        if length > SETTING_BYTES_MAX {
            return Err(failed(format!(
                "it has more than {SETTING_BYTES_MAX} bytes"
            )));
        }
        let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        Ok((name, text.trim_end_matches(['\r', '\n']).to_owned()))
    });
    settings.collect()
}
