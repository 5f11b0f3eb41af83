//! The words about commands, the inbox, integrations and sync runs.

use std::time::Duration;

use clap::Subcommand;
use reconvene::Choice;

use super::duration;

/// What to do with commands.
#[derive(Debug, Subcommand)]
pub(crate) enum CommandsCommand {
    /// List those that the server has not carried out yet.
    List {
        /// Also those that have ended.
        #[arg(long)]
        all: bool,
        /// Go on with what changes, until told to stop.
        #[arg(long)]
        watch: bool,
    },
    /// Show what became of one.
    Show {
        /// Its id.
        id: String,
        /// Wait for its outcome for so long.
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        wait: Option<Duration>,
    },
    /// Want one no more; nothing is done if the server has not taken it up.
    Cancel {
        /// Its id.
        id: String,
    },
}

/// What to do with the inbox.
#[derive(Debug, Subcommand)]
pub(crate) enum InboxCommand {
    /// List what needs you.
    List {
        /// Also what was seen to.
        #[arg(long)]
        all: bool,
        /// Go on with what changes, until told to stop.
        #[arg(long)]
        watch: bool,
    },
    /// Show one: of a conflict also what was before, and the values with their numbers.
    Show {
        /// The entry's id.
        id: String,
    },
    /// Settle a conflict by one of its values, or a deletion that others' edits outlived.
    Settle {
        /// The entry's id.
        id: String,
        /// The number of a value, as `inbox show` tells it; of a deletion `keep` or `delete`.
        #[arg(value_parser = choice)]
        choice: Choice,
    },
    /// Try again what an entry is about.
    Retry {
        /// The entry's id.
        id: String,
        /// Wait for the outcome for so long.
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        wait: Option<Duration>,
    },
    /// Try again with other arguments.
    Amend {
        /// The entry's id.
        id: String,
        /// An argument of the command; may be given several times.
        #[arg(long = "set", required = true, value_name = "NAME=VALUE", value_parser = setting)]
        arguments: Vec<(String, String)>,
        /// Wait for the outcome for so long.
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        wait: Option<Duration>,
    },
    /// Do nothing about an entry.
    Discard {
        /// The entry's id.
        id: String,
    },
    /// Say that an entry was seen to.
    Resolve {
        /// The entry's id.
        id: String,
    },
}

/// What to do with integrations.
#[derive(Debug, Subcommand)]
pub(crate) enum IntegrationsCommand {
    /// Add one: `ical` with `file:NAME` or a URL makes meetings of events, `webhook` with a URL tells of
    /// meetings that changed.
    Add {
        /// What carries it out.
        adapter: String,
        /// What it is elsewhere.
        place: String,
        /// Under which account there.
        #[arg(long)]
        account: Option<String>,
        /// What else is needed; a value @FILE is read from the file. A webhook signs with `secret`.
        #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
        settings: Vec<(String, String)>,
    },
    /// Change one.
    Edit {
        /// Its id.
        id: String,
        /// What it is elsewhere.
        #[arg(long)]
        place: Option<String>,
        /// Under which account there.
        #[arg(long)]
        account: Option<String>,
        /// A setting to write; a value @FILE is read from the file.
        #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
        settings: Vec<(String, String)>,
        /// A setting to remove.
        #[arg(long, value_name = "NAME")]
        unset: Vec<String>,
    },
    /// Remove one; what it made stays.
    Remove {
        /// Its id.
        id: String,
    },
    /// List them, and whether they work.
    List {
        /// Go on with what changes, until told to stop.
        #[arg(long)]
        watch: bool,
    },
    /// Have the server look whether one works, or all.
    Validate {
        /// Its id.
        id: Option<String>,
        /// How to issue it.
        #[command(flatten)]
        issue: IssueArgs,
    },
    /// Have the server begin a sync run.
    Sync {
        /// Its id.
        id: String,
        /// How to issue it.
        #[command(flatten)]
        issue: IssueArgs,
    },
}

/// What to do with sync runs.
#[derive(Debug, Subcommand)]
pub(crate) enum RunsCommand {
    /// List those whose results are kept.
    List,
    /// Say where one stands.
    Show {
        /// Its id.
        id: String,
        /// Go on until its result has expired, or until told to stop.
        #[arg(long)]
        watch: bool,
        /// How long the server has to answer where this device does not know.
        #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
        timeout: Duration,
    },
    /// Have the server end one.
    Cancel {
        /// Its id.
        id: String,
        /// How to issue it.
        #[command(flatten)]
        issue: IssueArgs,
    },
}

/// How to issue a command.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct IssueArgs {
    /// Issue it under this id (a UUID): again under the same it is the same command.
    #[arg(long, value_name = "UUID")]
    pub command_id: Option<String>,
    /// Wait for its outcome for so long; without, it goes with the next sync.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub wait: Option<Duration>,
}

fn choice(text: &str) -> Result<Choice, String> {
    match text {
        "keep" => Ok(Choice::Keep),
        "delete" => Ok(Choice::Delete),
        number => match number.parse::<usize>() {
            Ok(number) if number > 0 => Ok(Choice::Value(number)),
            _ => Err("write the number of a value, `keep` or `delete`".to_owned()),
        },
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}
