//! Decodes the input as any message; its first two bytes choose the decoder and the version.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| ottla_protocol::fuzz::read_any(input));
