//! libFuzzer's way into `targets::region`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::region::run(input));
