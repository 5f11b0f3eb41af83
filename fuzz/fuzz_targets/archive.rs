//! Archives, strictly and in salvage.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| reconvene_core::fuzz::archive(data));
