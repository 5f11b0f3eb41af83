//! Facts that stand in two places.

use std::fs;
use std::path::Path;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_readme_names_the_rust_version_of_the_manifest() {
    let manifest = file("Cargo.toml");
    let line = manifest
        .lines()
        .find(|line| line.starts_with("rust-version"));
    let version = line.unwrap().split('"').nth(1).unwrap();
    let readme = file("README.md");
    let mut named = readme.match_indices("Rust 1.").map(|(at, _)| {
        let rest = &readme[at + "Rust ".len()..];
        let end = rest.find(|c: char| c != '.' && !c.is_ascii_digit());
        rest[..end.unwrap_or(rest.len())].trim_end_matches('.')
    });
    let first = named
        .next()
        .expect("the README names a Rust version, such as `Rust 1.95`");
    assert_eq!(first, version);
    assert!(named.all(|other| other == version));
}
