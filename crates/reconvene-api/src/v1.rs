//! Messages, client and server of `schema/api.proto`, generated from it; what they mean stands there.

#![expect(
    missing_docs,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "this is generated"
)]

tonic::include_proto!("reconvene.api.v1");

/// The schema with all it imports, encoded, for reflection.
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/api.descriptors"));
