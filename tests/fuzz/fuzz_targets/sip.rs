#![no_main]
//! Datagrams of TFTP.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portreeve::fuzzing::sip(bytes));
