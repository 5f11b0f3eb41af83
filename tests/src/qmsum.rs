//! Files to import: the real meetings of `examples/qmsum`, and small made ones where many are needed.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

/// The five real meetings, `count` files of them: each again and again under names of their own.
pub(crate) fn real(directory: &Path, count: usize) -> Vec<PathBuf> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/qmsum");
    let names = ["ES2002a", "ES2005a", "IS1000a", "Bro007", "education_3"];
    let copies = (0..count).map(|n| {
        let name = names[n % names.len()];
        let path = directory.join(format!("{name}-{}.json", n / names.len()));
        fs::copy(examples.join(format!("{name}.json")), &path).unwrap();
        path
    });
    copies.collect()
}

/// `count` made meetings of this many utterances, called `PREFIX-0` and so on.
pub(crate) fn made(
    directory: &Path,
    prefix: &str,
    count: usize,
    utterances: usize,
) -> Vec<PathBuf> {
    let files = (0..count).map(|n| {
        let said = (0..utterances).map(|k| {
            let content = format!("Utterance {k} of meeting {prefix}-{n}, about nothing at all.");
            json!({ "speaker": format!("Speaker {}", k % 4), "content": content })
        });
        let meeting = json!({
            "general_query_list": [],
            "meeting_transcripts": said.collect::<Vec<_>>(),
        });
        let path = directory.join(format!("{prefix}-{n}.json"));
        fs::write(&path, meeting.to_string()).unwrap();
        path
    });
    files.collect()
}
