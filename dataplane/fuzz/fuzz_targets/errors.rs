//! libFuzzer's way into `targets::errors`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::errors::run(input));
