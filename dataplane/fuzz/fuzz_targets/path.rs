//! libFuzzer's way into `targets::path`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::path::run(input));
