#![no_main]
//! The first bytes of a TLS connection.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portreeve::fuzzing::tls_opening(bytes));
