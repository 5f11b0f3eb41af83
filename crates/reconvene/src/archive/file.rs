//! An archive on the disk: one that is written appears whole or not at all, one that is read is read
//! in portions.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use reconvene_core::archive::{Decoder, Encoder, End, Found, Piece};

use crate::Error;
use crate::replica::random;

/// Bytes read at a time, and those that are gathered before they are written.
const PORTION_BYTES: usize = 256 * 1024;
/// How the name of a file ends that is still written.
const PARTIAL: &str = ".partial";

/// An archive that is written.
pub(super) struct NewArchive {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
    overwrite: bool,
    encoder: Option<Encoder>,
    buffer: Vec<u8>,
    bytes: u64,
    is_placed: bool,
}

impl NewArchive {
    /// Begins one beside the name that it will have.
    pub(super) fn begin(path: &Path, overwrite: bool) -> Result<Self, Error> {
        let Some(name) = path.file_name() else {
            let what = format!("{} does not name a file", path.display());
            return Err(Error::BadInput(what));
        };
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            let what = format!("{} is there and no file", path.display());
            return Err(Error::BadInput(what));
        }
        if !overwrite && path.try_exists().map_err(|error| failed(path, error))? {
            return Err(Error::FileExists(path.to_owned()));
        }
        remove_left_behind(path, name);
        let [a, b, c, d] = random::<4>()?;
        let mut hidden = prefix(name);
        hidden.push(format!("{a:02x}{b:02x}{c:02x}{d:02x}{PARTIAL}"));
        let temporary = path.with_file_name(hidden);
        let mut options = File::options();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&temporary);
        let file = file.map_err(|error| failed(path, error))?;
        let mut buffer = Vec::with_capacity(PORTION_BYTES);
        let encoder = Encoder::begin(random()?, &mut buffer);
        let new = Self {
            path: path.to_owned(),
            temporary,
            file,
            overwrite,
            encoder: Some(encoder),
            buffer,
            bytes: 0,
            is_placed: false,
        };
        // As long as it is held nobody takes it for one that was left behind.
        new.file
            .try_lock()
            .map_err(|error| failed(path, error.into()))?;
        Ok(new)
    }

    /// Adds a piece.
    pub(super) fn put(&mut self, piece: &Piece) -> Result<(), Error> {
        let encoder = self.encoder.as_mut();
        let encoder = encoder.expect("an archive takes pieces until it is ended");
        let put = encoder.put(piece, &mut self.buffer);
        put.map_err(|source| Error::Archive {
            path: self.path.clone(),
            source,
        })?;
        match self.buffer.len() < PORTION_BYTES {
            true => Ok(()),
            false => self.write(),
        }
    }

    fn write(&mut self) -> Result<(), Error> {
        let written = self.file.write_all(&self.buffer);
        written.map_err(|error| failed(&self.path, error))?;
        self.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Ends it, and puts it under its name, durably. What is in it, and its size.
    pub(super) fn finish(mut self) -> Result<(End, u64), Error> {
        let encoder = self.encoder.take();
        let encoder = encoder.expect("an archive is ended once");
        let end = encoder.end(&mut self.buffer);
        self.write()?;
        let place = || -> io::Result<()> {
            self.file.sync_all()?;
            match self.overwrite {
                true => fs::rename(&self.temporary, &self.path)?,
                false => place_new(&self.temporary, &self.path)?,
            }
            #[cfg(unix)]
            File::open(directory(&self.path))?.sync_all()?;
            Ok(())
        };
        let placed = place();
        placed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::FileExists(self.path.clone()),
            _ => failed(&self.path, error),
        })?;
        self.is_placed = true;
        Ok((end, self.bytes))
    }
}

impl Drop for NewArchive {
    fn drop(&mut self) {
        if !self.is_placed
            && let Err(error) = fs::remove_file(&self.temporary)
        {
            let file = self.temporary.display();
            tracing::warn!(%file, %error, "what was begun of an archive is left behind");
        }
    }
}

/// Gives a file its name unless there is one of that name by now.
fn place_new(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // Not every file system has links.
        Err(_) if to.try_exists()? => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to),
    }
}

/// Removes what others began to write under this name before they were killed.
fn remove_left_behind(path: &Path, name: &OsStr) {
    let prefix = prefix(name);
    let entries = fs::read_dir(directory(path)).into_iter().flatten();
    for entry in entries.flatten() {
        let found = entry.file_name();
        let found = found.as_encoded_bytes();
        let is_partial = found.starts_with(prefix.as_encoded_bytes())
            && found.ends_with(PARTIAL.as_bytes())
            && found.len() == prefix.len() + 8 + PARTIAL.len();
        let is_left = is_partial
            && File::options()
                .write(true)
                .open(entry.path())
                .is_ok_and(|file| file.try_lock().is_ok());
        if is_left && let Err(error) = fs::remove_file(entry.path()) {
            tracing::debug!(%error, "an archive that was begun stays");
        }
    }
}

fn prefix(name: &OsStr) -> std::ffi::OsString {
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    prefix
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Io {
        what: format!("the archive {} could not be written", path.display()),
        source,
    }
}

/// An archive that is read.
pub(super) struct ArchiveFile {
    path: PathBuf,
    file: File,
}

impl ArchiveFile {
    pub(super) fn open(path: PathBuf) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::Io {
            what: format!("the archive {} could not be read", path.display()),
            source,
        };
        // Before it is opened: opening a pipe would wait for its writer.
        if !fs::metadata(&path).map_err(failed)?.is_file() {
            let what = format!("{} is not a file", path.display());
            return Err(Error::BadInput(what));
        }
        let file = File::open(&path).map_err(failed)?;
        Ok(Self { path, file })
    }

    /// Reads it from its beginning, and shows everything that is found.
    pub(super) fn each(
        &mut self,
        mut decoder: Decoder,
        mut visit: impl FnMut(Found) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let path = self.path.clone();
        let failed = |source| Error::Io {
            what: format!("the archive {} could not be read", path.display()),
            source,
        };
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut portion = vec![0; PORTION_BYTES];
        loop {
            let found = decoder.next_found();
            let found = found.map_err(|source| self.refused(source))?;
            match found {
                Some(found) => visit(found)?,
                None if decoder.is_complete() => return Ok(()),
                None => match self.file.read(&mut portion) {
                    Ok(0) => decoder.finish(),
                    Ok(bytes) => decoder.feed(&portion[..bytes]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(failed(error)),
                },
            }
        }
    }

    /// The error of an archive that is not taken.
    pub(super) fn refused(&self, source: reconvene_core::archive::ArchiveError) -> Error {
        Error::Archive {
            path: self.path.clone(),
            source,
        }
    }
}
