//! libFuzzer's way into `targets::rewrite`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::rewrite::run(input));
