//! Small files beside the store that nothing could make anew. A copy lies beside each of them, so that one
//! that is damaged is found out and comes back.
//!
//! What makes a file whole is for those to say who know what is in it: a checksum in most. What a damaged
//! one held is kept in `quarantine/`.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Most damaged versions of one file that are kept; of further ones the first are worth more.
const KEPT_MAX: u32 = 64;

/// Reads a file, or its copy where it is not whole; `None` if there is no file. Where the copy is not whole
/// either, what the file holds.
pub(crate) fn load(path: &Path, is_whole: impl Fn(&[u8]) -> bool) -> io::Result<Option<Vec<u8>>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let copy = with_suffix(path, ".copy");
    let copied = fs::read(&copy).ok();
    if is_whole(&bytes) {
        if copied.as_ref() != Some(&bytes) {
            write(&copy, &bytes).unwrap_or_else(|error| not_written(&copy, &error));
        }
        return Ok(Some(bytes));
    }
    let Some(whole) = copied.filter(|copied| is_whole(copied)) else {
        return Ok(Some(bytes));
    };
    tracing::error!(file = %path.display(), "a damaged file is set aside; its copy takes its place");
    keep(path, &bytes).unwrap_or_else(|error| not_written(path, &error));
    // At no moment is there none.
    write(path, &whole).unwrap_or_else(|error| not_written(path, &error));
    Ok(Some(whole))
}

/// Keeps what a damaged file held, under a name of its own.
fn keep(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let quarantine = dir.join("quarantine");
    fs::create_dir_all(&quarantine)?;
    for number in 0..KEPT_MAX {
        let kept = with_suffix(&quarantine.join(name), &format!(".{number}"));
        if !kept.exists() {
            return write(&kept, bytes);
        }
    }
    Ok(())
}

/// Replaces a file and its copy; after a crash each is the old or the new one, whole.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write(path, bytes)?;
    write(&with_suffix(path, ".copy"), bytes)
}

/// Writes a file that only its owner may read; whole or not at all.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = with_suffix(path, ".tmp");
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    #[cfg(unix)]
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

fn not_written(path: &Path, error: &io::Error) {
    tracing::warn!(%error, file = %path.display(), "it could not be written or set aside");
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    PathBuf::from(text)
}

#[cfg(test)]
mod tests;
