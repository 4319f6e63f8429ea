#![forbid(unsafe_code)]
//! What daemons tell each other: one JSON text a message. No socket, no clock.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A message and who sent it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct News {
    /// The sender's name for itself, another one after each start.
    pub(super) node: String,
    #[serde(flatten)]
    pub(super) what: What,
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(super) enum What {
    /// I am new, or have missed something: tell me your counts.
    Hello,
    /// Somebody is kept out.
    Ban(Ban),
    /// A ban is taken back.
    Unban {
        /// Just this network.
        net: IpNet,
    },
    /// Counts that have changed. Sent each second also when there are none, as a sign of life.
    Counts(Counts),
    /// I am about to end.
    Bye,
}

/// A ban.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Ban {
    /// Whom it keeps out.
    pub(crate) net: IpNet,
    /// Its end, in seconds since 1970.
    pub(crate) until: u64,
    /// Made by a person.
    pub(crate) hand: bool,
}

/// How many connections addresses have now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    /// One more than in the message before.
    pub(super) number: u64,
    /// All that was told before is void.
    pub(super) anew: bool,
    /// Listener, address (of IPv6 its prefix), and connections; 0 is none any more.
    pub(super) counts: Vec<(String, IpAddr, u32)>,
}

impl Ban {
    /// As it stands in the set of bans.
    pub(super) fn member(&self) -> String {
        format!("{}{}", if self.hand { "h " } else { "a " }, self.net)
    }

    /// From there.
    pub(super) fn of(member: &str, until: f64) -> Option<Self> {
        let (kind, net) = member.split_once(' ')?;
        let hand = match kind {
            "h" => true,
            "a" => false,
            _ => return None,
        };
        // Scores are whole seconds of this millennium, which a double holds exactly; what is not ends at once.
        let until = format!("{until:.0}").parse().unwrap_or(0);
        let net = net.parse().ok()?;
        Some(Ban { net, until, hand })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_survive_the_way() {
        let ban = Ban {
            net: "192.0.2.0/24".parse().unwrap(),
            until: 1_795_821_600,
            hand: true,
        };
        let counts = Counts {
            number: 7,
            anew: false,
            counts: vec![("echo".to_owned(), "2001:db8::".parse().unwrap(), 3)],
        };
        for what in [
            What::Hello,
            What::Ban(ban),
            What::Unban { net: ban.net },
            What::Counts(counts),
            What::Bye,
        ] {
            let news = News {
                node: "a".to_owned(),
                what,
            };
            let text = serde_json::to_string(&news).unwrap();
            assert_eq!(serde_json::from_str::<News>(&text).unwrap(), news, "{text}");
        }
        assert_eq!(Ban::of(&ban.member(), 1_795_821_600.0), Some(ban));
        for bad in ["", "h", "x 192.0.2.0/24", "h 192.0.2.0/33", "192.0.2.0/24"] {
            assert_eq!(Ban::of(bad, 1.0), None, "{bad}");
        }
    }
}
