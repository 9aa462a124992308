//! libFuzzer's way into `targets::decap`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::decap::run(input));
