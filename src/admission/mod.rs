//! Who may talk: pure decisions over addresses. Nothing here opens a socket, reads a clock or
//! starts a thread.
#![forbid(unsafe_code)]

pub mod address_list;
