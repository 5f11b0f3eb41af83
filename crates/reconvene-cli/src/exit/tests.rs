//! The table agrees with itself, with the README and with `--help`.

use std::collections::BTreeSet;

use clap::CommandFactory;

use super::{FAILURE, TABLE, code_of};
use crate::args::Args;

#[test]
fn codes_are_distinct_and_in_order() {
    assert!(TABLE.windows(2).all(|pair| pair[0].code < pair[1].code));
}

#[test]
fn an_error_code_leads_to_one_exit_code() {
    let mut seen = BTreeSet::new();
    for exit in TABLE {
        for error in exit.errors {
            assert!(seen.insert(*error), "{error} stands twice");
            assert_eq!(code_of(error), exit.code);
        }
    }
    assert_eq!(code_of("a code of the future"), FAILURE);
}

#[test]
fn help_and_readme_carry_the_table() {
    let help = Args::command().render_long_help().to_string();
    let readme = include_str!("../../README.md");
    for exit in TABLE {
        let line = format!("  {}  {}", exit.code, exit.meaning);
        assert!(help.contains(&line), "--help lacks `{line}`");
        let errors: Vec<_> = exit.errors.iter().map(|e| format!("`{e}`")).collect();
        let row = format!(
            "| {} | {} | {} |",
            exit.code,
            exit.meaning,
            errors.join(" ")
        );
        assert!(readme.contains(&row), "the README lacks `{row}`");
    }
    let rows = readme.lines().filter(|line| {
        let first = line
            .strip_prefix("| ")
            .and_then(|rest| rest.split(' ').next());
        first.is_some_and(|cell| cell.parse::<u8>().is_ok())
    });
    assert_eq!(rows.count(), TABLE.len(), "the README has other rows");
}
