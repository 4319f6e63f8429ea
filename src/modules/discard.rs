#![forbid(unsafe_code)]
//! Discard (RFC 863): what comes in is thrown away.

use std::sync::Arc;

use super::{ModuleEntry, NoSettings};
use crate::session::{
    Context, Datagram, DatagramContext, DatagramModule, Event, Module, Next, Peer, Session,
};

pub(super) const ENTRY: ModuleEntry = ModuleEntry {
    name: "Discard",
    about: "throws away what it gets (RFC 863)",
    keys: &[],
    tcp: Some(|settings| {
        settings
            .read::<NoSettings>()
            .map(|_| Arc::new(Discard) as Arc<dyn Module>)
    }),
    udp: Some(|settings| {
        settings
            .read::<NoSettings>()
            .map(|_| Arc::new(Discard) as Arc<dyn DatagramModule>)
    }),
};

struct Discard;

impl Module for Discard {
    fn open(&self, _peer: &Peer) -> Box<dyn Session> {
        Box::new(Discard)
    }
}

impl Session for Discard {
    fn handle(&mut self, event: Event<'_>, _cx: &mut Context<'_>) -> Next {
        match event {
            Event::Open => Next::Read,
            Event::Input(input) => {
                input.clear();
                Next::Read
            }
            _ => Next::Close,
        }
    }
}

impl DatagramModule for Discard {
    fn answer(&self, _datagram: &Datagram<'_>, _cx: &mut DatagramContext<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::Discard;
    use crate::dialogue::check;

    #[test]
    fn nothing_ever_comes_back() {
        check(&Discard, "C: hello\nC: world\nC: <eof>\nS: <close>");
    }
}
