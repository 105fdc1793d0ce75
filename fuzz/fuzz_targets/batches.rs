//! Decodes the input as record batches.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| ottla_protocol::fuzz::read_batches(input));
