//! One frame of a peer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| reconvene_core::fuzz::frame(data));
