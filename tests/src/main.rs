//! The program under test: the `reconvene` command under a name of this package, so that the tests
//! can find it.

use std::process::ExitCode;

fn main() -> ExitCode {
    reconvene_cli::run()
}
