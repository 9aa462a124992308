//! libFuzzer's way into `targets::socket`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::socket::run(input));
