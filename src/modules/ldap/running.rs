#![forbid(unsafe_code)]
//! A search under way for a client: what it has sent, its limits, and its pages.

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::sync::LazyLock;
use std::time::Instant;

use rasn_ldap::SearchRequest;

use super::message::{Answer, Code, Paged, SEARCH_DONE, answer};
use crate::ldap::ber;
use crate::ldap::search::{Found, Search};
use crate::ldap::selection::Selection;
use crate::session::Context;

/// Bytes of entries that are written before the client has taken them.
const PIECE: usize = 32 * 1024;
/// Items of filters that are decided in one go: some milliseconds.
pub(super) const WORK: usize = 20_000;

/// A search that has not ended.
pub(super) struct Running {
    pub(super) id: u32,
    pub(super) search: Search,
    pub(super) selection: Selection,
    /// Entries sent, pages before this one included.
    pub(super) sent: u32,
    /// The client's limit and ours, the smaller one.
    pub(super) size_limit: Option<u32>,
    pub(super) until: Option<Instant>,
    pub(super) page: Option<Page>,
    /// Told with the result.
    pub(super) remark: &'static str,
}

/// A page of a search (RFC 2696).
pub(super) struct Page {
    /// Entries that it may still get.
    pub(super) left: u32,
    /// Of the request, so that a cookie is good for the same one alone.
    pub(super) digest: u64,
}

/// How far a search went.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The result is written.
    Ended,
    /// The client has much to take.
    Full,
    /// It has worked for long.
    Spent,
}

impl Running {
    /// Goes on for a while.
    pub(super) fn go_on(&mut self, budget: &mut usize, cx: &mut Context<'_>) -> Progress {
        let mut written = 0;
        let mut message = Vec::new();
        loop {
            if self.until.is_some_and(|until| cx.now() >= until) {
                self.end(Code::TimeLimitExceeded, "", cx);
                return Progress::Ended;
            }
            if written >= PIECE {
                return Progress::Full;
            }
            let (tree, id) = match self.search.next(budget) {
                Found::Entry(tree, id) => (tree, id),
                Found::Spent => return Progress::Spent,
                Found::Ended => {
                    self.end(Code::Success, self.remark, cx);
                    return Progress::Ended;
                }
            };
            if let Some(page) = &mut self.page {
                if page.left == 0 {
                    let cookie = Cookie {
                        serial: tree.serial,
                        next: id,
                        sent: self.sent,
                        digest: page.digest,
                    };
                    self.end_page(&cookie.bytes(), cx);
                    return Progress::Ended;
                }
                page.left -= 1;
            }
            if self.size_limit.is_some_and(|limit| self.sent >= limit) {
                self.end(Code::SizeLimitExceeded, "", cx);
                return Progress::Ended;
            }
            self.sent = self.sent.saturating_add(1);
            message.clear();
            ber::wrap(&mut message, ber::SEQUENCE, |out| {
                ber::number(out, ber::INTEGER, self.id);
                self.selection.write(out, &tree, id);
            });
            cx.write(&message);
            written += message.len();
        }
    }

    fn end(&self, code: Code, text: &str, cx: &mut Context<'_>) {
        let mut out = Vec::new();
        // The last page's cookie is empty.
        let paged = self.page.as_ref().map(|_| paged_value(b""));
        let fields = Answer {
            text,
            paged: paged.as_deref(),
            ..Answer::default()
        };
        answer(&mut out, self.id, SEARCH_DONE, code, fields);
        cx.write(&out);
    }

    fn end_page(&self, cookie: &[u8], cx: &mut Context<'_>) {
        let mut out = Vec::new();
        let paged = paged_value(cookie);
        let fields = Answer {
            text: self.remark,
            paged: Some(&paged),
            ..Answer::default()
        };
        answer(&mut out, self.id, SEARCH_DONE, Code::Success, fields);
        cx.write(&out);
    }
}

/// The value of an answer's control: the size is not known, as 0 says.
pub(super) fn paged_value(cookie: &[u8]) -> Vec<u8> {
    let mut value = Vec::new();
    ber::wrap(&mut value, ber::SEQUENCE, |out| {
        ber::number(out, ber::INTEGER, 0);
        ber::octets(out, ber::OCTETS, cookie);
    });
    value
}

/// Of this process: whoever could make a cookie would count its entries anew, and pass the limit of them.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Where the next page begins. Nothing is kept for it here, and it tells nothing that the client does not know; it
/// is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cookie {
    /// Of the tree.
    pub(super) serial: u64,
    pub(super) next: u32,
    pub(super) sent: u32,
    pub(super) digest: u64,
}

impl Cookie {
    fn bytes(self) -> Vec<u8> {
        let numbers = [
            &self.serial.to_be_bytes()[..],
            &self.next.to_be_bytes(),
            &self.sent.to_be_bytes(),
        ];
        [&numbers.concat()[..], &self.signature().to_be_bytes()].concat()
    }

    fn signature(self) -> u64 {
        KEY.hash_one((self.serial, self.next, self.sent, self.digest))
    }

    /// `None` for one that was not given for the request of this digest.
    pub(super) fn of(paged: &Paged, digest: u64) -> Option<Cookie> {
        let bytes: &[u8; 24] = paged.cookie.as_slice().try_into().ok()?;
        let (serial, rest) = bytes.split_first_chunk::<8>()?;
        let (next, rest) = rest.split_first_chunk::<4>()?;
        let (sent, rest) = rest.split_first_chunk::<4>()?;
        let signature = rest.first_chunk::<8>()?;
        let cookie = Cookie {
            serial: u64::from_be_bytes(*serial),
            next: u32::from_be_bytes(*next),
            sent: u32::from_be_bytes(*sent),
            digest,
        };
        (cookie.signature() == u64::from_be_bytes(*signature)).then_some(cookie)
    }
}

/// What is the same for the pages of one search.
pub(super) fn digest(request: &SearchRequest) -> u64 {
    let mut hasher = DefaultHasher::new();
    request.hash(&mut hasher);
    hasher.finish()
}
