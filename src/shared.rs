#![forbid(unsafe_code)]
//! What several daemons know together: bans, and how many connections each address has elsewhere. A Redis or Valkey
//! server carries the news; what is known of others is applied when it comes, so that limits are approximate, and
//! nobody who lets somebody in ever waits for it. While the server is away, each daemon goes on by itself.

mod news;
mod node;
mod others;

pub(crate) use news::Ban;
pub(crate) use node::{Around, Node, Standing};
