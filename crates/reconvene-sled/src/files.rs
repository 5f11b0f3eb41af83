//! The few file operations whose order matters for what survives a power cut.
//!
//! A file's content is synced before its name, and a name before anyone relies on it. Nothing here
//! knows what the files are.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Makes the names in a directory survive a power cut.
#[cfg(unix)]
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Directories cannot be synced here; the file system orders its own metadata.
#[cfg(not(unix))]
pub(crate) fn sync_dir(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Creates a directory only its owner can enter, and syncs its name; `false` if it existed.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<bool> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    sync_dir(parent_of(path))?;
    Ok(true)
}

/// Replaces a file whole: after a crash its content is the old or the new one.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = with_suffix(path, ".tmp");
    write_synced(&temporary, content)?;
    fs::rename(&temporary, path)?;
    sync_dir(parent_of(path))
}

/// Writes a file and syncs its content, but not its name.
pub(crate) fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Moves a file or directory and syncs both directories.
pub(crate) fn move_synced(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_dir(parent_of(to))?;
    sync_dir(parent_of(from))
}

/// The path with `suffix` after its last character.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    PathBuf::from(text)
}

/// The first of `<prefix>1`, `<prefix>2`, ... that does not exist in `dir`.
pub(crate) fn unused_name(dir: &Path, prefix: &str) -> PathBuf {
    (1_u64..)
        .map(|number| dir.join(format!("{prefix}{number}")))
        .find(|path| fs::symlink_metadata(path).is_err())
        .expect("a directory holds fewer than 2^64 names")
}

/// The names in a directory, sorted; none if the directory does not exist.
pub(crate) fn names_in(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

/// The sum of the sizes of all files under a path; what vanishes meanwhile counts nothing.
pub(crate) fn bytes_under(path: &Path) -> io::Result<u64> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    names_in(path)?
        .iter()
        .map(|name| bytes_under(&path.join(name)))
        .sum()
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str() != OsStr::new("") => parent,
        _ => Path::new("."),
    }
}
