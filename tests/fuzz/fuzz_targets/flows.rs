#![no_main]
//! The table of flows of Forward, against a naive one.

libfuzzer_sys::fuzz_target!(|steps: &[u8]| portreeve::fuzzing::flows(steps));
