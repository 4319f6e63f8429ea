#![no_main]
//! Sessions of modules, their input in one piece and in many.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portreeve::fuzzing::session(bytes));
