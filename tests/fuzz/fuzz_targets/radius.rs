#![no_main]
//! Datagrams of RADIUS.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portreeve::fuzzing::radius(bytes));
