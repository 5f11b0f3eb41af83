//! The words of `archive`.

use std::path::PathBuf;

use clap::Subcommand;

/// Archives.
#[derive(Debug, Subcommand)]
pub(crate) enum ArchiveCommand {
    /// Write everything in this store into one file, or with --workspace everything in that workspace;
    /// what does not read is passed over and named.
    Create {
        /// The file, which appears whole or not at all.
        file: PathBuf,
        /// Put in what makes the store this very device, its private key among it: whoever has the file
        /// can then pass for this device.
        #[arg(long)]
        with_identity: bool,
        /// Replace the file if there is one.
        #[arg(long)]
        overwrite: bool,
    },
    /// Take in what an archive has and this store has not; where there is no store one is made.
    Restore {
        /// The file.
        file: PathBuf,
        /// Of a damaged archive take what still reads, and name the rest.
        #[arg(long)]
        partial: bool,
        /// Make the store the device that the archive is of. Only where there is no store, and only if
        /// that device is no more.
        #[arg(long)]
        with_identity: bool,
    },
}
