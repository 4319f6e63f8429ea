#![no_main]
//! Datagrams of SNMP.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portreeve::fuzzing::snmp(bytes));
