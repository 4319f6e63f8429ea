#![no_main]
//! Mail into mailboxes and out of them, past the opening and the login.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portreeve::fuzzing::mail(bytes));
