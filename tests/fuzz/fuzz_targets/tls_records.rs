#![no_main]
//! A TLS connection between rustls' own client and our record layer.

libfuzzer_sys::fuzz_target!(|script: &[u8]| portreeve::fuzzing::tls_records(script));
