//! libFuzzer's way into `targets::fragments`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::fragments::run(input));
