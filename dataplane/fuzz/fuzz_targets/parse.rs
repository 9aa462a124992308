//! libFuzzer's way into `targets::parse`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::parse::run(input));
