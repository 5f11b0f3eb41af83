//! The guard, given a chunk.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| reconvene_core::fuzz::change(data));
