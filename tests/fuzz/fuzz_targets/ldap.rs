#![no_main]
//! Sessions of LDAP, their input in one piece and in many.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portreeve::fuzzing::ldap(bytes));
