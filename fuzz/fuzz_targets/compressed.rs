//! Decompresses the input with each codec.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| ottla_protocol::fuzz::decompress_all(input));
