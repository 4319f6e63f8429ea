#![forbid(unsafe_code)]
//! Echo (RFC 862): what comes in goes out.

use std::sync::Arc;

use super::{ModuleEntry, NoSettings};
use crate::session::{
    Context, Datagram, DatagramContext, DatagramModule, Event, Module, Next, Peer, Session,
};

pub(super) const ENTRY: ModuleEntry = ModuleEntry {
    name: "Echo",
    about: "sends back what it gets (RFC 862)",
    keys: &[],
    tcp: Some(|settings| {
        settings
            .read::<NoSettings>()
            .map(|_| Arc::new(Echo) as Arc<dyn Module>)
    }),
    udp: Some(|settings| {
        settings
            .read::<NoSettings>()
            .map(|_| Arc::new(Echo) as Arc<dyn DatagramModule>)
    }),
};

struct Echo;

impl Module for Echo {
    fn open(&self, _peer: &Peer) -> Box<dyn Session> {
        Box::new(Echo)
    }
}

impl Session for Echo {
    fn handle(&mut self, event: Event<'_>, cx: &mut Context<'_>) -> Next {
        match event {
            Event::Open => Next::Read,
            Event::Input(input) => {
                cx.write(input);
                input.clear();
                Next::Read
            }
            _ => Next::Close,
        }
    }
}

/// Ports of services that answer anything: a forged datagram from one of them would bounce for ever
/// (CERT CA-1996-01).
const REFLECTORS: [u16; 6] = [7, 13, 17, 19, 37, 123];

/// True for a sender that would answer our answer.
pub(super) fn is_reflector(datagram: &Datagram<'_>) -> bool {
    REFLECTORS.contains(&datagram.route.remote.port())
}

impl DatagramModule for Echo {
    fn answer(&self, datagram: &Datagram<'_>, cx: &mut DatagramContext<'_>) {
        if !is_reflector(datagram) {
            cx.reply(datagram.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Echo;
    use crate::dialogue::check;

    #[test]
    fn what_comes_in_goes_out() {
        check(
            &Echo,
            "C: hello\nS: hello\nC: a\nC: b\nS: a\nS: b\nC: <eof>\nS: <close>",
        );
        check(&Echo, "C: hello\nS: hello\nC: <timeout>\nS: <close>");
        check(&Echo, "C: <shutdown>\nS: <close>");
    }
}
