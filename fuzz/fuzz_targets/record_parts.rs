//! The parts of one stored record.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| reconvene_sled::fuzz::parts(data));
