#![forbid(unsafe_code)]
//! Flows: where a message came from and how to get back there, and the signed tokens that tell one.
//!
//! A stateless proxy keeps nothing of a call. What it must know later stands in the messages themselves, in our
//! Via and our Record-Route, and is signed: nobody but us can name a place that we then send to.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Transport {
    Udp,
    Tcp,
    Tls,
}

impl Transport {
    /// As in a Via.
    pub(super) fn name(self) -> &'static str {
        match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
            Transport::Tls => "TLS",
        }
    }

    /// As a parameter of a URI; none for UDP.
    pub(super) fn param(self) -> &'static str {
        match self {
            Transport::Udp => "",
            Transport::Tcp => ";transport=tcp",
            Transport::Tls => ";transport=tls",
        }
    }
}

/// Two ends and what is between them: a connection, or the addresses of datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Flow {
    pub(super) transport: Transport,
    pub(super) remote: SocketAddr,
    pub(super) local: SocketAddr,
}

/// How many bytes of a signature are shown.
const SIGNATURE: usize = 12;

/// What signs tokens, branches and nonces.
pub(super) struct Signer(hmac::Key);

impl Signer {
    pub(super) fn new(key: &[u8]) -> Self {
        Signer(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The signature of some texts, each with its length before it so that none runs into another.
    pub(super) fn sign(&self, purpose: &str, texts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        for text in std::iter::once(&purpose.as_bytes()).chain(texts) {
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text);
        }
        let mut signature = [0; 32];
        signature.copy_from_slice(context.sign().as_ref());
        signature
    }

    /// A token for flows that is good together with these texts.
    pub(super) fn token(&self, purpose: &str, flows: &[Flow], texts: &[&[u8]]) -> String {
        let mut bytes = Vec::new();
        for flow in flows {
            flow.write(&mut bytes);
        }
        let signature = self.token_signature(purpose, &bytes, texts);
        bytes.extend_from_slice(&signature);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The flows of a token of ours.
    pub(super) fn flows(&self, purpose: &str, token: &str, texts: &[&[u8]]) -> Option<Vec<Flow>> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (flows, signature) = bytes.split_at_checked(bytes.len().checked_sub(SIGNATURE)?)?;
        let right = self.token_signature(purpose, flows, texts);
        if !bool::from(subtle::ConstantTimeEq::ct_eq(&right[..], signature)) {
            return None;
        }
        let (mut rest, mut found) = (flows, Vec::new());
        while !rest.is_empty() {
            found.push(Flow::read(&mut rest)?);
        }
        Some(found)
    }

    fn token_signature(&self, purpose: &str, flows: &[u8], texts: &[&[u8]]) -> [u8; SIGNATURE] {
        let all: Vec<&[u8]> = std::iter::once(flows)
            .chain(texts.iter().copied())
            .collect();
        let mut short = [0; SIGNATURE];
        short.copy_from_slice(&self.sign(purpose, &all)[..SIGNATURE]);
        short
    }
}

impl Flow {
    fn write(&self, out: &mut Vec<u8>) {
        let transport = match self.transport {
            Transport::Udp => 0,
            Transport::Tcp => 1,
            Transport::Tls => 2,
        };
        out.push(transport);
        for end in [self.remote, self.local] {
            match end.ip() {
                IpAddr::V4(address) => {
                    out.push(4);
                    out.extend_from_slice(&address.octets());
                }
                IpAddr::V6(address) => {
                    out.push(6);
                    out.extend_from_slice(&address.octets());
                }
            }
            out.extend_from_slice(&end.port().to_be_bytes());
        }
    }

    fn read(bytes: &mut &[u8]) -> Option<Flow> {
        let transport = match take::<1>(bytes)? {
            [0] => Transport::Udp,
            [1] => Transport::Tcp,
            [2] => Transport::Tls,
            _ => return None,
        };
        let mut end = || {
            let address = match take::<1>(bytes)? {
                [4] => IpAddr::from(take::<4>(bytes)?),
                [6] => IpAddr::from(take::<16>(bytes)?),
                _ => return None,
            };
            Some(SocketAddr::new(address, u16::from_be_bytes(take(bytes)?)))
        };
        Some(Flow {
            transport,
            remote: end()?,
            local: end()?,
        })
    }
}

fn take<const LENGTH: usize>(bytes: &mut &[u8]) -> Option<[u8; LENGTH]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::{Flow, Signer, Transport};

    #[test]
    fn a_token_is_good_with_its_texts_alone() {
        let signer = Signer::new(b"key");
        let flows = [
            Flow {
                transport: Transport::Udp,
                remote: "192.0.2.1:5060".parse().unwrap(),
                local: "192.0.2.2:5060".parse().unwrap(),
            },
            Flow {
                transport: Transport::Tls,
                remote: "[2001:db8::1]:40000".parse().unwrap(),
                local: "[2001:db8::2]:5061".parse().unwrap(),
            },
        ];
        let token = signer.token("call", &flows, &[b"id", b"tag"]);
        let read = |token: &str, texts: &[&[u8]]| signer.flows("call", token, texts);
        assert_eq!(read(&token, &[b"id", b"tag"]).as_deref(), Some(&flows[..]));
        assert_eq!(read(&token, &[b"idt", b"ag"]), None);
        assert_eq!(signer.flows("via", &token, &[b"id", b"tag"]), None);
        assert_eq!(
            Signer::new(b"other").flows("call", &token, &[b"id", b"tag"]),
            None
        );
        for at in 0..token.len() {
            let mut wrong = token.clone().into_bytes();
            wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(
                read(&String::from_utf8(wrong).unwrap(), &[b"id", b"tag"]),
                None
            );
            assert_eq!(read(&token[..at], &[b"id", b"tag"]), None);
        }
    }
}
