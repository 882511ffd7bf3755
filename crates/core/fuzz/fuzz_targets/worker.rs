#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fdpass_core_fuzz::worker::run(input));
