#![no_main]
//! An IMAP client that is logged in, and messages of any bytes.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portreeve::fuzzing::imap(bytes));
