//! Mutates the responses to a producer's requests by the input.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| ottla_sim::fuzz_responses(input));
