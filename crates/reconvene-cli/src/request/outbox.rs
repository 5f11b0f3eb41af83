//! What can be asked about commands, the inbox, integrations and sync runs.

use reconvene::{Choice, CommandFilter, EntryFilter, IntegrationChanges};
use serde::{Deserialize, Serialize};

/// About commands.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(rename_all = "snake_case")]
pub(crate) enum CommandsRequest {
    /// List them.
    List {
        /// Which.
        filter: CommandFilter,
    },
    /// All of them, and what changes about them: a stream.
    Watch {
        /// Which.
        filter: CommandFilter,
    },
    /// Show one.
    Show {
        /// Its id.
        id: String,
        /// How long to wait for its outcome.
        wait_ms: Option<u64>,
    },
    /// Want one no more.
    Cancel {
        /// Its id.
        id: String,
    },
}

/// About the inbox.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(rename_all = "snake_case")]
pub(crate) enum InboxRequest {
    /// List its entries.
    List {
        /// Which.
        filter: EntryFilter,
    },
    /// All of them, and what changes about them: a stream.
    Watch {
        /// Which.
        filter: EntryFilter,
    },
    /// Show one, with the conflict that it is about.
    Show {
        /// Its id.
        id: String,
    },
    /// Settle what it is about.
    Settle {
        /// Its id.
        id: String,
        /// How.
        choice: Choice,
    },
    /// Try again what an entry is about.
    Retry {
        /// Its id.
        id: String,
        /// How long to wait for the outcome.
        wait_ms: Option<u64>,
    },
    /// Try again with other arguments.
    Amend {
        /// Its id.
        id: String,
        /// The arguments.
        arguments: Vec<(String, String)>,
        /// How long to wait for the outcome.
        wait_ms: Option<u64>,
    },
    /// Do nothing about an entry.
    Discard {
        /// Its id.
        id: String,
    },
    /// Say that an entry was seen to.
    Resolve {
        /// Its id.
        id: String,
    },
}

/// About integrations. It may hold secrets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum IntegrationsRequest {
    /// Add one.
    Add {
        /// What carries it out.
        adapter: String,
        /// What it is elsewhere.
        external_id: String,
        /// Under which account.
        account: Option<String>,
        /// What else the adapter needs.
        settings: Vec<(String, String)>,
    },
    /// Change one.
    Edit {
        /// Its id.
        id: String,
        /// What.
        changes: IntegrationChanges,
    },
    /// Remove one.
    Remove {
        /// Its id.
        id: String,
    },
    /// List them.
    List,
    /// All of them, and what changes about them: a stream.
    Watch,
    /// Have the server look whether one works, or all.
    Validate {
        /// Its id.
        id: Option<String>,
        /// How it is issued.
        issue: Issue,
    },
    /// Have the server begin a sync run.
    Sync {
        /// Its id.
        id: String,
        /// How it is issued.
        issue: Issue,
    },
}

#[cfg(test)]
impl std::fmt::Debug for IntegrationsRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IntegrationsRequest")
    }
}

/// About sync runs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(rename_all = "snake_case")]
pub(crate) enum RunsRequest {
    /// List them.
    List,
    /// Where one stands; the server is asked if it is not here.
    Show {
        /// Its id.
        id: String,
        /// How long the server has to answer.
        timeout_ms: u64,
    },
    /// Where one stands, until it has expired: a stream.
    Watch {
        /// Its id.
        id: String,
        /// How long the server has to answer.
        timeout_ms: u64,
    },
    /// Have the server end one.
    Cancel {
        /// Its id.
        id: String,
        /// How it is issued.
        issue: Issue,
    },
}

/// How a command is issued.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Issue {
    /// Under which id; else a new one.
    pub id: Option<String>,
    /// How long to wait for its outcome.
    pub wait_ms: Option<u64>,
}
