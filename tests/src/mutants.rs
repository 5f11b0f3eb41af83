//! The tests of what is promised, run against programs in which one promise is not kept: each must
//! fail.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use reconvene::mutants::Mutant;
use reconvene_sled::mutants::Mutant as StoreMutant;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::harness::deadline;
use crate::power;

/// A mutant, and a test that must notice it. The first is one of [`Mutant`] or of the engine's.
const NOTICED: [(&str, &str); 17] = [
    ("TellsNoQuery", "backend::meeting_modified_by_server"),
    ("PassesNothingOn", "truth::meeting_modified_by_other_client"),
    ("CallsItHeld", "truth::server_restart_keeps_state_true"),
    ("KeepsRuns", "outbox::sync_run_expires"),
    ("TakesAnyRun", "outbox::sync_run_never_existed"),
    ("MintsKeyAnew", "outbox::sync_run_status_survives_restart"),
    ("ForgetsWhoWasAway", "truth::reconnection"),
    ("CountsNothing", "truth::reconnection"),
    ("ChoosesProject", "truth::active_project_resolved"),
    ("SettlesProjects", "truth::active_project_conflict"),
    ("IgnoresStateVersion", "truth::state_version_bump"),
    ("ForgetsEnrolments", "truth::server_wiped"),
    ("SwallowsFailures", "outbox::invalid_integration_surfaces"),
    ("KeysEachTry", "outbox::in_flight_command_once"),
    ("ForgetsWhoWasAway", "truth::live_transcript_survives_cut"),
    ("CallsItFresh", "truth::staleness_bound_holds"),
    ("ForgetsWhoWasAway", "truth::multi_client_consistency"),
];

/// Mutants of the store, which only a cut of the power shows.
const NOTICED_BY_CUTS: [StoreMutant; 2] = [StoreMutant::SyncsNoJournal, StoreMutant::SyncsNoSled];

/// How long a test waits for each thing then, in seconds: it waits in vain for most.
const PATIENCE: &str = "10";

#[test]
fn the_tests_of_promises_fail_where_they_are_not_kept() {
    for mutant in Mutant::ALL {
        let name = format!("{mutant:?}");
        assert!(
            NOTICED.iter().any(|(known, _)| *known == name),
            "no test is shown to notice {name}"
        );
    }
    let unnoticed = NOTICED.iter().filter(|(mutant, test)| {
        let began = Instant::now();
        let said = run_with(mutant, test);
        let is_noticed = said.contains(&format!("test {test} ... FAILED"));
        println!("{mutant}, {test}: {is_noticed} in {:?}", began.elapsed());
        if !is_noticed {
            println!("{said}");
        }
        !is_noticed
    });
    let unnoticed: Vec<_> = unnoticed.collect();
    assert!(unnoticed.is_empty(), "{unnoticed:?}");
}

#[test]
fn cuts_of_the_power_take_what_is_not_synced() {
    if !power::can_be_cut("cuts_of_the_power_take_what_is_not_synced") {
        return;
    }
    for mutant in NOTICED_BY_CUTS {
        let said = run_with(&format!("{mutant:?}"), power::CUTS_TEST);
        let is_noticed = said.contains("acknowledged edits are lost");
        assert!(is_noticed, "{mutant:?}: {said}");
    }
}

/// Runs one test of this program on its own, and yields what it printed.
fn run_with(mutant: &str, test: &str) -> String {
    let files = tempfile::tempdir().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env("RECONVENE_MUTANTS", mutant)
        .env("RECONVENE_TEST_PATIENCE", PATIENCE)
        .env("TMPDIR", files.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let (ended, waiting) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let output = child.wait_with_output().unwrap();
        // Nobody waits any more if it took too long.
        ended.send(()).unwrap_or_default();
        output
    });
    let is_over = waiting.recv_timeout(2 * deadline()).is_ok();
    // Whatever it started, and a test that hangs: that is no failure which says what is wrong.
    kill_process_group(group, Signal::KILL).unwrap_or_default();
    let output = reader.join().unwrap();
    assert!(is_over, "{test} did not end with {mutant}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
