//! Compiles the protobuf schema without protoc, and keeps its descriptors for reflection.

use std::path::Path;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schema = Path::new("../../schema");
    let file = schema.join("api.proto");
    println!("cargo:rerun-if-changed={}", file.display());
    let descriptors = protox::compile([&file], [schema])?;
    let out = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    std::fs::write(
        Path::new(&out).join("api.descriptors"),
        descriptors.encode_to_vec(),
    )?;
    tonic_prost_build::configure()
        // A client is made on a channel of the caller's own.
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
