#![no_main]
//! An upstream's answer, as the reverse proxy reads it and writes it anew.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portreeve::fuzzing::http_answer(bytes));
