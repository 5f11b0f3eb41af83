//! The list of edits is compared with the model's sources.

use std::collections::BTreeSet;
use std::path::Path;

use super::ModelEdit;

/// The public operations of editors that change something: what takes them mutably and yields nothing
/// but whether it is refused.
fn operations(source: &str) -> Vec<(String, String)> {
    let mut operations = Vec::new();
    let mut editor = None;
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("impl ") {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
            editor = Some(name).filter(|name| name.ends_with("Editor"));
        }
        let named = line.trim().strip_prefix("pub fn ");
        let (Some(editor), Some(named)) = (&editor, named) else {
            continue;
        };
        let name: String = named
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        let mut signature = line.to_owned();
        while !signature.contains('{') {
            signature += lines.next().expect("a function has a body");
        }
        if signature.contains("&mut self") && signature.contains("-> Result<(), ModelError>") {
            operations.push((editor.clone(), name));
        }
    }
    operations
}

fn sources(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("the model has sources");
    let mut sources = Vec::new();
    for entry in entries {
        let path = entry.expect("a directory reads").path();
        if path.is_dir() {
            sources.extend(self::sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(std::fs::read_to_string(&path).expect("a source reads"));
        }
    }
    sources
}

#[test]
fn every_operation_of_the_models_editors_is_in_the_list() {
    let known: BTreeSet<_> = ModelEdit::ALL
        .iter()
        .map(|edit| edit.method())
        .map(|(editor, name)| (editor.to_owned(), name.to_owned()))
        .collect();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../reconvene-model/src");
    let there: BTreeSet<_> = sources(&model)
        .iter()
        .flat_map(|source| operations(source))
        .collect();
    assert!(there.len() > 40, "{there:?}");
    let missing: Vec<_> = there.difference(&known).collect();
    let gone: Vec<_> = known.difference(&there).collect();
    assert!(missing.is_empty(), "not in the list of edits: {missing:?}");
    assert!(gone.is_empty(), "no longer in the model: {gone:?}");
}
