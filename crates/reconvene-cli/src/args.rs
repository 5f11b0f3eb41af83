//! The command line as clap reads it: words, no behaviour.
//!
//! Ids stay text here, so that a malformed one is the same typed error as an unknown one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{ArgAction, Parser, Subcommand};
use reconvene::{State, WallTime};

use crate::args::archive::ArchiveCommand;
use crate::args::outbox::{
    CommandsCommand, InboxCommand, IntegrationsCommand, IssueArgs, RunsCommand,
};
use crate::demo::MEETINGS_MAX;
use crate::exit;
use crate::request::TagEdit;
use crate::time::parse_moment;

pub(crate) mod archive;
pub(crate) mod outbox;

/// Most meetings that one page of `meeting list` can hold.
pub(crate) const MEETINGS_PER_PAGE_MAX: u64 = 1_000;

/// Meetings and projects that every device holds in full and that merge when devices meet.
#[derive(Debug, Parser)]
#[command(name = "reconvene", version, after_help = after_help(), max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Args {
    /// The directory of the store; else RECONVENE_DATA, else the platform's data directory.
    #[arg(long, global = true, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// One JSON document on stdout (JSON Lines for serve, events and --watch).
    #[arg(long, global = true)]
    pub json: bool,

    /// The workspace to use instead of the current one, by id or name: for project, meeting, commands,
    /// integrations, runs, import, export, archive and invite.
    #[arg(long = "workspace", global = true, value_name = "ID_OR_NAME")]
    pub within: Option<String>,

    /// Say more on stderr; twice for everything. RECONVENE_LOG takes a filter instead.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a store with a home workspace in the data directory.
    Init {
        /// What this device is called; else the machine's name.
        #[arg(long)]
        name: Option<String>,
    },
    /// Run the server peer that devices sync with, until it is told to stop.
    Serve(ServeArgs),
    /// Workspaces: what is shared, and with whom.
    #[command(subcommand)]
    Workspace(WorkspaceCommand),
    /// Print a ticket with which one device may join the current workspace.
    Invite {
        /// Whose device it is: a known member's further device, or a new member.
        #[arg(long)]
        member: Option<String>,
        /// How long the ticket can be used.
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
        expires: Duration,
    },
    /// Join the workspace of a ticket, and make it the current one.
    Join {
        /// The ticket as `reconvene invite` printed it.
        ticket: String,
        /// Move what was made on this device before into the joined workspace: everything in workspaces
        /// that are shared with nobody, its own home included.
        #[arg(long)]
        adopt: bool,
    },
    /// Projects of the current workspace.
    #[command(subcommand)]
    Project(ProjectCommand),
    /// Meetings of the current workspace.
    #[command(subcommand)]
    Meeting(MeetingCommand),
    /// Commands: what the server was asked to do, and what became of it.
    #[command(subcommand)]
    Commands(CommandsCommand),
    /// The inbox: what needs you, on whichever of your devices.
    #[command(subcommand)]
    Inbox(InboxCommand),
    /// Integrations of the current workspace: what it is joined with elsewhere.
    #[command(subcommand)]
    Integrations(IntegrationsCommand),
    /// Sync runs of integrations.
    #[command(subcommand)]
    Runs(RunsCommand),
    /// Bring in meetings from elsewhere.
    #[command(subcommand)]
    Import(ImportCommand),
    /// Exchange changes with the server until both hold what the other held; or with other devices.
    Sync {
        /// Sync with this device instead of the server; the address ends in /p2p/ and the device's id.
        /// Several addresses of one device are tried in their order.
        #[arg(long, value_name = "MULTIADDR")]
        with: Vec<String>,
        /// Let other devices of the same workspaces link to this one here, such as
        /// /ip4/0.0.0.0/tcp/4002, and say so first.
        #[arg(long, value_name = "MULTIADDR", requires = "watch")]
        listen: Vec<String>,
        /// Stay connected and print what happens, until told to stop.
        #[arg(long)]
        watch: bool,
        /// How long to go on while nothing moves.
        #[arg(
            long, value_name = "DURATION", default_value = "30s", value_parser = duration,
            conflicts_with = "watch"
        )]
        timeout: Duration,
    },
    /// Replace the changes of documents by proven snapshots, where no peer needs them one by one.
    Compact,
    /// Let go for good of meetings that were deleted long enough ago. A server does so by itself after 30
    /// days, and its devices follow.
    Purge {
        /// How long ago at least.
        #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = duration)]
        deleted_for: Duration,
    },
    /// Say what this store holds and how fresh it is.
    Status {
        /// Count its records by kind as well, which takes as long as the store is large.
        #[arg(long)]
        records: bool,
        /// Count the records of this document of the current workspace.
        #[arg(long, value_name = "ID")]
        document: Option<String>,
        /// Say it again whenever links, freshness or what is to be delivered change, until told to
        /// stop; stays connected meanwhile.
        #[arg(long, conflicts_with_all = ["records", "document"])]
        watch: bool,
    },
    /// Read everything in this store, and say exactly what is damaged.
    Verify,
    /// Keep what still reads of a damaged store, and set the damaged database aside; the next sync
    /// brings back what is missing.
    Repair,
    /// Print a workspace as canonical JSON, or its meetings as Markdown: the same bytes wherever the
    /// same is held.
    Export(ExportArgs),
    /// Archives: a whole store or one workspace in one file, whatever keeps the store, and back.
    #[command(subcommand)]
    Archive(ArchiveCommand),
    /// Print events as they happen, until told to stop; stays connected meanwhile.
    Events,
    /// Show the main job on real meetings: a server and two devices in a temporary directory, or in
    /// a new one named with --data.
    Demo {
        /// How many meetings; the five that come with it, again and again.
        #[arg(
            long, value_name = "N",
            value_parser = clap::value_parser!(u64).range(1..=MEETINGS_MAX)
        )]
        meetings: Option<u64>,
    },
}

/// How to serve.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// Listen here, such as /ip4/0.0.0.0/tcp/4001; else where it last did.
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Vec<String>,
    /// Put this address into tickets instead of those it listens on.
    #[arg(long, value_name = "MULTIADDR")]
    pub announce: Vec<String>,
    /// Another number than devices knew has them build everything anew that follows from documents.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub state_version: u32,
    /// How many documents of one workspace are taken from devices; further new ones are refused.
    #[arg(long, value_name = "NUMBER", default_value_t = reconvene::limits::WORKSPACE_DOCUMENTS_DEFAULT)]
    pub workspace_documents: u64,
    /// How long the result of a sync run is kept after its end.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub keep_runs: Duration,
    /// How often integrations are looked at by themselves.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub validate_every: Duration,
    /// How many commands of one member go on at a time that talk to the outside; further ones are refused.
    #[arg(long, value_name = "NUMBER", default_value_t = reconvene_server::limits::COMMANDS_PER_MEMBER_DEFAULT)]
    pub commands_per_member: usize,
    /// The directory whose files integrations may read as `file:NAME`; else `calendars` in the
    /// directory of the store.
    #[arg(long, value_name = "DIR")]
    pub calendars: Option<PathBuf>,
    /// A host that integrations may call besides this machine; may be given several times.
    #[arg(long, value_name = "HOST")]
    pub allow_host: Vec<String>,
    /// Offer the gRPC API for backends here, such as 127.0.0.1:4002; port 0 takes a free one.
    #[arg(long, value_name = "ADDR:PORT")]
    pub api: Option<SocketAddr>,
    /// Keep the token that calls of the API must show in this file, made if it is not there; else in
    /// api.token in the data directory.
    #[arg(long, value_name = "FILE", requires = "api")]
    pub api_token_file: Option<PathBuf>,
    /// How many calls of the API may be in flight, streams aside; further ones are refused.
    #[arg(long, value_name = "NUMBER", requires = "api", default_value_t = reconvene_server::limits::API_CALLS_DEFAULT)]
    pub api_calls: usize,
    /// Tell metrics, health and readiness over HTTP here; port 0 takes a free one.
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<SocketAddr>,
    /// Let --api and --metrics listen where other machines reach them, although nothing is encrypted.
    #[arg(long)]
    pub exposed: bool,
}

/// What to do with workspaces.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceCommand {
    /// Make a shared workspace.
    Add {
        /// Its name.
        name: String,
    },
    /// List the workspaces of this store.
    List,
    /// Make a workspace the current one.
    Use {
        /// Its id or name.
        #[arg(value_name = "ID_OR_NAME")]
        workspace: String,
    },
    /// Leave a workspace: it is synced with nobody any more. Its documents stay on this device unless
    /// --remove is given.
    Leave {
        /// Its id or name.
        #[arg(value_name = "ID_OR_NAME")]
        workspace: String,
        /// Leave although there are edits that nobody else holds.
        #[arg(long)]
        discard: bool,
        /// Remove its documents from this device.
        #[arg(long)]
        remove: bool,
    },
}

/// What to do with projects.
#[derive(Debug, Subcommand)]
pub(crate) enum ProjectCommand {
    /// Make a project.
    Add {
        /// Its name.
        name: String,
    },
    /// List the projects.
    List {
        /// Also those that were deleted.
        #[arg(long)]
        all: bool,
    },
    /// Rename a project.
    Rename {
        /// Its id or name.
        #[arg(value_name = "ID_OR_NAME")]
        project: String,
        /// The new name.
        name: String,
    },
    /// Take a project out of use; its meetings stay.
    Archive {
        /// Its id or name.
        #[arg(value_name = "ID_OR_NAME")]
        project: String,
        /// Take it back into use instead.
        #[arg(long)]
        undo: bool,
    },
    /// Delete a project that holds no meetings.
    Delete {
        /// Its id or name.
        #[arg(value_name = "ID_OR_NAME")]
        project: String,
    },
    /// Bring a deleted project back.
    Restore {
        /// Its id or name.
        #[arg(value_name = "ID_OR_NAME")]
        project: String,
    },
    /// Make a project the one that new meetings go to.
    Activate {
        /// Its id or name.
        #[arg(value_name = "ID_OR_NAME")]
        project: String,
    },
}

/// What to do with meetings.
#[derive(Debug, Subcommand)]
pub(crate) enum MeetingCommand {
    /// Make a meeting, and say which project it went to and why.
    Add {
        /// Its title.
        title: String,
        /// The project to file it under, by id or name; else the active one.
        #[arg(long, value_name = "ID_OR_NAME")]
        project: Option<String>,
    },
    /// List the meetings, a page at a time, or all with what changes about them.
    List(ListArgs),
    /// Show a meeting with its transcript.
    Show {
        /// Its id.
        id: String,
    },
    /// Change a meeting.
    Edit(EditArgs),
    /// Delete a meeting, as far as it is seen here; what others write meanwhile keeps it.
    Delete {
        /// Its id.
        id: String,
        /// Only if the meeting and its pages are what `meeting show` gave as this `version`.
        #[arg(long, value_name = "VERSION")]
        seen: Option<String>,
    },
    /// Bring a deleted meeting back.
    Restore {
        /// Its id.
        id: String,
    },
    /// Have the server stop its recording, on whatever device that runs.
    Stop {
        /// Its id.
        id: String,
        /// How to issue it.
        #[command(flatten)]
        issue: IssueArgs,
    },
}

/// Which meetings to list, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// How many to list.
    #[arg(
        long, default_value_t = 50,
        value_parser = clap::value_parser!(u64).range(1..=MEETINGS_PER_PAGE_MAX)
    )]
    pub limit: u64,
    /// Start after this one: the `next` of the page before.
    #[arg(long, value_name = "CURSOR")]
    pub after: Option<String>,
    /// List all, then go on with what is added (+), changed (~) and gone (-), until told to stop.
    #[arg(long, conflicts_with_all = ["limit", "after"])]
    pub watch: bool,
    /// Which meetings.
    #[command(flatten)]
    pub filter: FilterArgs,
}

/// Which meetings are wanted: those that every option given lets through.
#[derive(Debug, clap::Args)]
pub(crate) struct FilterArgs {
    /// Filed under this project.
    #[arg(long, value_name = "ID_OR_NAME")]
    pub project: Option<String>,
    /// In this state; may be given several times, for any of them.
    #[arg(long, value_parser = state)]
    pub state: Vec<State>,
    /// Created at this moment or later: 2026-01-31, 2026-01-31T09:30:00Z, or 7d for so long ago.
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    pub since: Option<WallTime>,
    /// Created before this moment.
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    pub until: Option<WallTime>,
    /// With this text in its title, in whatever case.
    #[arg(long)]
    pub text: Option<String>,
    /// With this tag; may be given several times, for all of them.
    #[arg(long)]
    pub tag: Vec<String>,
    /// Deleted, instead of not deleted.
    #[arg(long)]
    pub deleted: bool,
}

/// Which meeting to change, and what of it.
#[derive(Debug, clap::Args)]
pub(crate) struct EditArgs {
    /// Its id.
    pub id: String,
    /// At least one change.
    #[command(flatten)]
    pub changes: ChangeArgs,
}

/// What to change of a meeting.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(crate) struct ChangeArgs {
    /// What it is called from now on.
    #[arg(long, allow_hyphen_values = true)]
    pub title: Option<String>,
    /// A note, added as a line at the end.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub append_note: Option<String>,
    /// A state it has reached: created, recording, stopping, stopped or completed.
    #[arg(long, value_parser = state)]
    pub state: Option<State>,
    /// A tag to add (+x) or to take away (-x); may be given several times.
    #[arg(long, value_name = "+TAG|-TAG", allow_hyphen_values = true, value_parser = tag)]
    pub tag: Vec<TagEdit>,
}

/// What to export, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// As Markdown, for people: every meeting that is not deleted, with its transcript.
    #[arg(long)]
    pub markdown: bool,
    /// This meeting alone.
    #[arg(long, value_name = "ID", requires = "markdown")]
    pub meeting: Option<String>,
}

/// What to import.
#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// Meetings of the QMSum corpus, one JSON file each.
    Qmsum {
        /// The files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Captions in WebVTT, a meeting for each file; who speaks is told by voice tags (`<v Name>`), or by
    /// names before colons.
    Vtt {
        /// The files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Captions in SubRip, a meeting for each file; who speaks is told by names before colons.
    Srt {
        /// The files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

fn after_help() -> String {
    format!(
        "{}\nCommands also work while `serve` or `sync --watch` has the store open, over a local \
         socket.",
        exit::describe()
    )
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write it like 90s, 30m or 1h"))?;
    if duration.is_zero() {
        return Err("it must be longer than nothing".to_owned());
    }
    Ok(duration)
}

fn moment(text: &str) -> Result<WallTime, String> {
    parse_moment(text, SystemTime::now())
}

fn state(text: &str) -> Result<State, String> {
    State::from_name(text)
        .ok_or_else(|| "one of created, recording, stopping, stopped, completed".to_owned())
}

fn tag(text: &str) -> Result<TagEdit, String> {
    let (edit, name): (fn(String) -> TagEdit, _) = match text.split_at_checked(1) {
        // Most likely an option that was meant as such, after a forgotten value.
        Some(("-", name)) if name.starts_with('-') => return Err("a tag is missing".to_owned()),
        Some(("+", name)) => (TagEdit::Add, name),
        Some(("-", name)) => (TagEdit::Remove, name),
        _ => {
            return Err(format!(
                "write +{text} to add it or -{text} to take it away"
            ));
        }
    };
    if name.is_empty() {
        return Err("a tag must not be empty".to_owned());
    }
    Ok(edit(name.to_owned()))
}

#[cfg(test)]
mod tests;
