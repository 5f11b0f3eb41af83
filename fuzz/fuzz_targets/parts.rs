//! Frames in a row, some of them pieces of one.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| reconvene_core::fuzz::parts(data));
