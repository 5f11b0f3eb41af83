//! A ticket as a person types it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| reconvene_core::fuzz::ticket(data));
