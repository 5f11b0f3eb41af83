//! Importing files: reads them under a size cap, and imports each as a whole or not at all.
//!
//! A file that cannot be imported does not keep the others from it; a store that fails does.

use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use reconvene::{DocumentId, ImportedMeeting, Replica, captions, qmsum};
use serde::Serialize;
use serde_json::{Value, json};

use crate::exit;
use crate::failure::Failure;
use crate::output::to_value;
use crate::request::{ImportFile, ImportFormat, Progress, ProgressSink};

/// Largest file that is read. The largest of the QMSum corpus is below half a megabyte.
pub(crate) const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A file that was imported.
#[derive(Debug, Serialize)]
struct Taken {
    /// The file as it was named.
    file: String,
    /// The meeting that it became.
    meeting: DocumentId,
}

/// A file that was not imported, and why.
#[derive(Debug, Serialize)]
struct Failed {
    /// The file as it was named.
    file: String,
    /// The place in it; empty for the whole.
    place: String,
    /// What is wrong there.
    message: String,
}

/// Imports files of one format, each a meeting. What is done stays done if this is dropped midway.
pub(crate) async fn files(
    replica: &Replica,
    format: ImportFormat,
    files: Vec<ImportFile>,
    progress: &ProgressSink,
) -> Result<Value, Failure> {
    let total = u64::try_from(files.len()).ok();
    let mut taken: Vec<Taken> = Vec::new();
    let mut failed = Vec::new();
    let mut stopped: Option<Failure> = None;
    for (done, file) in (0..).zip(files) {
        progress(Progress {
            what: "importing".to_owned(),
            done,
            total,
        });
        if let Some(why) = &stopped {
            failed.push(whole(file.given, format!("not tried: {}", why.message)));
            continue;
        }
        let given = file.given.clone();
        let read = tokio::task::spawn_blocking(move || read(format, file)).await;
        let imported = match read {
            Ok(Ok(imported)) => imported,
            Ok(Err(failure)) => {
                failed.push(failure);
                continue;
            }
            Err(error) => {
                failed.push(whole(given, format!("reading it broke off: {error}")));
                continue;
            }
        };
        match replica.meetings().import(imported).await {
            Ok(meeting) => taken.push(Taken {
                file: given,
                meeting,
            }),
            Err(error) => {
                let failure = Failure::from(error);
                // Of the file if its content is to blame, else of the store: then the next fails too.
                if failure.exit_code() != exit::BAD_INPUT {
                    stopped = Some(failure.clone());
                }
                failed.push(whole(given, failure.message));
            }
        }
    }
    let meetings: Vec<_> = taken.iter().map(|taken| taken.meeting).collect();
    Ok(json!({
        "imported": taken.len(),
        "meetings": to_value(&meetings)?,
        "taken": to_value(&taken)?,
        "failed": to_value(&failed)?,
        "stopped": to_value(&stopped)?,
    }))
}

/// The exit code for an answer of [`files`]: that of the failure that stopped it, or whether it names
/// files that were not imported.
pub(crate) fn exit_code(answer: &Value) -> u8 {
    if let Some(code) = answer["stopped"]["code"].as_str() {
        return exit::code_of(code);
    }
    match answer["failed"].as_array() {
        Some(failed) if !failed.is_empty() => exit::INCOMPLETE,
        _ => exit::OK,
    }
}

fn read(format: ImportFormat, file: ImportFile) -> Result<ImportedMeeting, Failed> {
    let bytes = match read_bounded(&file.path, FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(why) => return Err(whole(file.given, why)),
    };
    let given = &file.given;
    let failed = |place: &dyn Display, message: &dyn Display| Failed {
        file: given.clone(),
        place: place.to_string(),
        message: message.to_string(),
    };
    let captions = |parsed: Result<ImportedMeeting, captions::CaptionError>| {
        parsed.map_err(|error| failed(&error.place, &error.problem))
    };
    match format {
        ImportFormat::Qmsum => {
            qmsum::parse(given, &bytes).map_err(|error| failed(&error.place, &error.problem))
        }
        ImportFormat::Vtt => captions(captions::parse_vtt(given, &bytes)),
        ImportFormat::Srt => captions(captions::parse_srt(given, &bytes)),
    }
}

/// Reads a regular file that is no larger than it may be, also if it grows meanwhile.
fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let io = |error: std::io::Error| error.to_string();
    // Before it is opened: opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err("it is not a file".to_owned());
    }
    let mut bytes = Vec::new();
    let mut file = File::open(path).map_err(io)?.take(bytes_max + 1);
    file.read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("it is larger than {bytes_max} bytes"));
    }
    Ok(bytes)
}

fn whole(file: String, message: String) -> Failed {
    Failed {
        file,
        place: String::new(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::{FILE_BYTES_MAX, ImportFile, ImportFormat, read, read_bounded};

    #[test]
    fn a_file_is_read_up_to_its_cap() {
        let root = TempDir::new().expect("a directory");
        let path = root.path().join("file");
        std::fs::write(&path, "12345").expect("written");
        assert_eq!(read_bounded(&path, 5).expect("fits"), b"12345");
        assert_eq!(
            read_bounded(&path, 4),
            Err("it is larger than 4 bytes".to_owned())
        );
        assert_eq!(
            read_bounded(root.path(), 4),
            Err("it is not a file".to_owned())
        );
        assert!(read_bounded(&root.path().join("absent"), FILE_BYTES_MAX).is_err());
    }

    #[test]
    fn a_bad_file_is_named_with_the_place() {
        let root = TempDir::new().expect("a directory");
        let path = root.path().join("m.any");
        let speaker = r#"{"general_query_list": [], "meeting_transcripts": [{"speaker": 1}]}"#;
        for (format, text, place) in [
            (
                ImportFormat::Qmsum,
                speaker,
                "meeting_transcripts[0].speaker",
            ),
            (ImportFormat::Qmsum, "{\n\"a\"", "line 2"),
            (ImportFormat::Vtt, "WEBVTT\n\nleft behind", "line 3, cue 1"),
            (ImportFormat::Vtt, "WEBVTT\n", "the whole file"),
            (
                ImportFormat::Srt,
                "1\n00:00:02,000 --> 00:00:01,000\na",
                "line 2, cue 1",
            ),
        ] {
            std::fs::write(&path, text).expect("written");
            let file = ImportFile {
                given: "given/m.any".to_owned(),
                path: path.clone(),
            };
            let failed = read(format, file).expect_err("not a meeting");
            assert_eq!(failed.file, "given/m.any");
            assert!(failed.place.starts_with(place), "{failed:?}");
        }
    }
}
