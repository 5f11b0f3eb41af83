//! The frozen genesis bytes are what this code would write, and what they claim to be.

use automerge::transaction::{CommitOptions, Transactable};
use automerge::{Automerge, ObjType, ROOT, ReadDoc, TextEncoding};

use super::{GENESIS_ACTOR, containers, genesis, kind_name, roots};
use crate::Document;
use crate::document::core_hash;
use crate::testing::check_golden;

/// Writes a genesis as it was first written.
fn write(kind: reconvene_core::ids::DocumentKind) -> automerge::Change {
    let mut document = Automerge::new_with_encoding(TextEncoding::Utf16CodeUnit);
    document.set_actor(GENESIS_ACTOR.into());
    let mut transaction = document.transaction();
    transaction.put(ROOT, "kind", kind_name(kind)).unwrap();
    transaction.put(ROOT, "min_reader", 1_u64).unwrap();
    transaction.put(ROOT, "schema_version", 1_u64).unwrap();
    for container in containers(kind) {
        let object = match container.is_text {
            true => ObjType::Text,
            false => ObjType::Map,
        };
        let id = transaction.put_object(ROOT, container.key, object).unwrap();
        assert_eq!(id, container.id());
    }
    let (hash, _) = transaction.commit_with(CommitOptions::default().with_time(0));
    document.get_change_by_hash(&hash.unwrap()).unwrap()
}

#[test]
fn frozen_bytes_are_what_this_code_writes() {
    for root in roots() {
        let mut change = write(root.kind);
        let name = format!("genesis-{}.bin", kind_name(root.kind));
        check_golden(&name, &change.bytes());
    }
    for root in roots() {
        let mut change = write(root.kind);
        assert_eq!(root.bytes, change.bytes().as_ref());
        assert_eq!(root.hash, core_hash(change.hash()));
        assert_eq!(root.max_op, change.max_op());
        assert_eq!(root.actor.as_slice(), change.actor_id().to_bytes());
        let guarded = reconvene_core::guard::parse_change(root.bytes).unwrap();
        assert_eq!((guarded.hash, guarded.max_op()), (root.hash, root.max_op));
    }
}

#[test]
fn a_new_document_is_at_its_genesis() {
    for root in roots() {
        let document = Document::create(root.kind).unwrap();
        assert_eq!(document.heads(), vec![root.hash]);
        assert_eq!(document.missing(), vec![]);
        assert_eq!(document.updated_at(), None);
        assert_eq!(document.schema().unwrap().version, 1);
        assert_eq!(document.schema().unwrap().min_reader, 1);
    }
    assert!(genesis(reconvene_core::ids::DocumentKind(9)).is_none());
    assert!(Document::create(reconvene_core::ids::DocumentKind(9)).is_none());
}

#[test]
fn the_schema_document_names_the_constants() {
    let path = crate::testing::repository().join("schema/documents/v1.md");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(&super::WORKSPACE_DOCUMENT.to_string()));
    for root in roots() {
        for container in containers(root.kind) {
            let name = match container.is_text {
                true => format!("`{}` text", container.key),
                false => format!("`{}` map", container.key),
            };
            let row = text
                .lines()
                .find(|line| line.starts_with(&format!("| {} |", container.op())));
            assert!(row.unwrap().contains(&name), "{name}");
        }
    }
}
