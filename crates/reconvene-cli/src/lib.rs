//! The `reconvene` command: everything a person does by hand, and `serve`.
//!
//! It decides nothing about documents or synchronisation. It reads the command line, has requests
//! carried out on an open store or by the process that has it open, and tells the answer. The
//! crate's README documents the commands, their JSON and the exit codes.

mod args;
mod exit;
mod failure;

mod beside;
mod commands;
mod control;
mod demo;
mod session;

mod execute;
mod import;
mod request;

mod human;
mod output;
mod progress;
mod time;

mod logs;
mod place;
mod signals;

use std::env;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::Args;
use crate::failure::Failure;
use crate::output::Output;

/// Runs the command line of this process, from its arguments to its exit code.
pub fn run() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return not_understood(&error),
    };
    let output = Output::new(args.json);
    logs::start(args.verbose, commands::is_chatty(&args.command));
    match commands::run(args, output) {
        Ok(code) => code.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit_code().into()
        }
    }
}

/// Every command of the command line by its words, and for those that cannot run beside a process that
/// has the store open, the code of the error they then end with.
pub fn commands() -> Vec<(String, Option<&'static str>)> {
    let alone = |command: &str| beside::ALONE.iter().find(|(name, _)| *name == command);
    let commands = beside::commands().into_iter();
    commands
        .map(|command| {
            let code = alone(&command).map(|(_, code)| *code);
            (command, code)
        })
        .collect()
}

/// Help and the version are answers; anything else that clap reports is a usage error.
fn not_understood(error: &clap::Error) -> ExitCode {
    let asked_for = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    let json = env::args_os()
        .skip(1)
        .take_while(|arg| arg != "--")
        .any(|arg| arg == "--json");
    if asked_for || !json {
        // It knows which of stdout and stderr is right. A reader that is gone has what it wanted.
        drop(error.print());
    } else {
        let text = error.to_string();
        let message = text.split("\n\nUsage:").next().unwrap_or_default();
        let message = message.trim_start_matches("error: ").trim();
        Output::new(true).failure(&Failure::new("usage", message));
    }
    if asked_for { exit::OK } else { exit::USAGE }.into()
}
