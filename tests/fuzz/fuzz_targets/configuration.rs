#![no_main]
//! The text of portreeve.ron and of a listener.

libfuzzer_sys::fuzz_target!(|text: &str| portreeve::fuzzing::configuration(text));
