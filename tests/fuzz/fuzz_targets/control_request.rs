#![no_main]
//! A line of the control socket.

libfuzzer_sys::fuzz_target!(|line: &[u8]| portreeve::fuzzing::control_request(line));
