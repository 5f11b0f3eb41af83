//! Logs, on stderr only: stdout belongs to the command's answer.

use std::env;
use std::io;

use tracing_subscriber::EnvFilter;

/// The environment variable that holds a log filter.
const FILTER_VARIABLE: &str = "RECONVENE_LOG";

/// Starts logging for the process: by RECONVENE_LOG, else by how often `-v` was given. A `chatty`
/// command tells what a user would notice without being asked.
pub(crate) fn start(verbose: u8, chatty: bool) {
    let filter = match (verbose, chatty) {
        (0, false) => "warn",
        (0, true) => "warn,reconvene=info",
        (1, _) => "info,reconvene=debug",
        (_, _) => "debug,reconvene=trace",
    };
    let wanted = env::var(FILTER_VARIABLE)
        .ok()
        .filter(|text| !text.is_empty());
    let parsed = wanted.as_deref().map(EnvFilter::try_new);
    let unreadable = matches!(parsed, Some(Err(_)));
    let filter = match parsed {
        Some(Ok(filter)) => filter,
        Some(Err(_)) | None => EnvFilter::new(filter),
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
    // Fails only where a program that calls this library has set up its own logs; those stand.
    if subscriber.try_init().is_ok() && unreadable {
        tracing::warn!("{FILTER_VARIABLE} is not a log filter and was ignored");
    }
}
