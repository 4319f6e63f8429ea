#![forbid(unsafe_code)]
//! Bytes between a socket and the buffers. The only file that knows whether they are encrypted.

use std::io::{self, Read, Write};

use mio::net::TcpStream;
use nix::sys::sendfile::sendfile64;

use crate::session::{Input, Output};

/// How far a write got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Everything is written.
    All,
    /// The socket takes no more for now.
    Blocked,
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
    /// Bytes; `more` when the socket may hold further ones.
    Bytes { more: bool },
    /// Nothing for now.
    Nothing,
    /// The peer finished.
    End,
}

/// A connection's way to the wire.
#[derive(Debug)]
pub(crate) enum Transport {
    /// Clear bytes.
    Clear,
}

/// How much one read may bring.
const CHUNK: usize = 16 * 1024;

impl Transport {
    /// Reads once into the input.
    pub(crate) fn read(&mut self, stream: &mut TcpStream, input: &mut Input) -> io::Result<Got> {
        match self {
            Transport::Clear => {
                let buffer = input.buffer();
                let before = buffer.len();
                buffer.resize(before + CHUNK, 0);
                let result = retry(|| stream.read(&mut buffer[before..]));
                buffer.truncate(before + *result.as_ref().unwrap_or(&0));
                match result {
                    Ok(0) => Ok(Got::End),
                    Ok(count) => Ok(Got::Bytes {
                        more: count == CHUNK,
                    }),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Got::Nothing),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Writes as much of the output as the socket takes.
    pub(crate) fn flush(
        &mut self,
        stream: &mut TcpStream,
        output: &mut Output,
    ) -> io::Result<Flushed> {
        match self {
            Transport::Clear => flush_clear(stream, output),
        }
    }
}

fn flush_clear(stream: &mut TcpStream, output: &mut Output) -> io::Result<Flushed> {
    while !output.is_empty() {
        let written = if let Some((file, offset, length)) = output.front_file() {
            let count = usize::try_from(*length).unwrap_or(usize::MAX).min(1 << 20);
            let mut at = i64::try_from(*offset).map_err(io::Error::other)?;
            let sent = retry(|| Ok(sendfile64(&*stream, file, Some(&mut at), count)?));
            if let Ok(sent) = sent {
                if sent == 0 {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "a file became shorter",
                    ));
                }
                *offset += sent as u64;
                *length -= sent as u64;
                if *length == 0 {
                    output.pop_file();
                }
            }
            sent.map(|_| ())
        } else {
            retry(|| stream.write(output.front())).and_then(|count| {
                if count == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                output.advance(count);
                Ok(())
            })
        };
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Flushed::Blocked),
            Err(error) => return Err(error),
        }
    }
    Ok(Flushed::All)
}

fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
