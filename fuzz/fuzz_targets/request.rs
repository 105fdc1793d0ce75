//! Decodes the input as a request.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    ottla_protocol::fuzz::read_request(&bytes::Bytes::copy_from_slice(input));
});
