#![no_main]
//! The text of an address list, compiled and line by line.

libfuzzer_sys::fuzz_target!(|text: &str| portreeve::fuzzing::address_list(text));
