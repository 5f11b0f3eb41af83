//! A segment of the journal.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| reconvene_sled::fuzz::segment(data));
