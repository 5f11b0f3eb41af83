//! The derivation of actors against its frozen vectors.

use serde_json::json;

use crate::testing::{check_golden, device, document_id};

#[test]
fn actors_match_the_frozen_vectors() {
    let vectors: Vec<_> = [
        (1, 2, 3),
        (1, 2, 4),
        (1, 3, 3),
        (2, 2, 3),
        (0, 0, 0),
        (255, 255, 255),
    ]
    .into_iter()
    .map(|(device_byte, document_byte, incarnation_byte)| {
        let device = device(device_byte);
        let document = document_id(document_byte);
        let incarnation = [incarnation_byte; 16];
        json!({
            "device_key": hex(device.as_bytes()),
            "document": document,
            "incarnation": hex(&incarnation),
            "actor": hex(&super::derive_actor(&device, &document, &incarnation)),
        })
    })
    .collect();
    let text = crate::export::canonical_json(&json!({
        "derivation": "first 16 bytes of SHA-256(domain || device key || document || incarnation)",
        "domain": "reconvene/actor/1",
        "vectors": vectors,
    }));
    check_golden("actors.json", text.as_bytes());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
