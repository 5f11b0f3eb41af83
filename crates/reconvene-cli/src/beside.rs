//! What runs beside a process that has the store open: every command, save those of this one table.
//!
//! The end-to-end tests run each command of the command line beside a serving process, and read this.

use clap::{Command, CommandFactory as _};

use crate::args::Args;
use crate::failure::Failure;
use crate::session::LOCKED;

/// Commands that need the store for themselves, and the code of the error they end with beside a
/// process that has it open.
pub(crate) const ALONE: &[(&str, &str)] = &[
    // There is a store, or nobody could have it open.
    ("init", "already_initialised"),
    // It is the process that others run beside.
    ("serve", LOCKED),
    // It puts another database in the place of the one that is open.
    ("repair", LOCKED),
];

/// Every command by its words, such as `meeting list`.
pub(crate) fn commands() -> Vec<String> {
    let mut found = Vec::new();
    collect(&Args::command(), "", &mut found);
    found
}

fn collect(command: &Command, words: &str, found: &mut Vec<String>) {
    for sub in command.get_subcommands() {
        let words = format!("{words} {}", sub.get_name());
        match sub.has_subcommands() {
            true => collect(sub, &words, found),
            false => found.push(words.trim_start().to_owned()),
        }
    }
}

/// A locked store's failure as what it means to a command that needs the store for itself.
pub(crate) fn in_use(command: &str, failure: Failure) -> Failure {
    let alone = ALONE.iter().find(|(name, _)| *name == command);
    match alone {
        Some((_, code)) if failure.code == LOCKED && *code != LOCKED => {
            let message = "another process has the store open, so there is one already";
            Failure::new(code, message)
                .with_hint("use it as it is, or choose another directory with --data")
        }
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::{ALONE, commands, in_use};
    use crate::failure::Failure;

    #[test]
    fn the_table_names_commands_that_there_are() {
        let commands = commands();
        assert!(
            commands.contains(&"meeting list".to_owned()),
            "{commands:?}"
        );
        for (command, _) in ALONE {
            assert!(commands.iter().any(|known| known == command), "{command}");
        }
    }

    #[test]
    fn only_a_locked_store_says_that_there_is_one() {
        let locked = Failure::new("store_locked", "held");
        assert_eq!(in_use("init", locked.clone()).code, "already_initialised");
        assert_eq!(in_use("serve", locked.clone()), locked);
        let other = Failure::new("permission", "denied");
        assert_eq!(in_use("init", other.clone()), other);
    }
}
