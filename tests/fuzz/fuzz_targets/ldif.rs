#![no_main]
//! Files of LDIF.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portreeve::fuzzing::ldif(bytes));
