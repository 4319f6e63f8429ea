#![forbid(unsafe_code)]
//! Registrations, with Digest.

use super::{NOW, World, all, authorization, field, first_line, lines, replied, request, udp};
use crate::modules::sip::agent::Taken;
use crate::modules::sip::flow::Flow;
use crate::session::Abuse;
use crate::session::datagram_bench::Bench;

/// A phone of an account.
struct Phone<'w> {
    world: &'w World,
    flow: Flow,
    user: &'static str,
    secret: &'static str,
    call_id: &'static str,
    cseq: u32,
    now: u64,
}

impl Phone<'_> {
    fn new(world: &World) -> Phone<'_> {
        Phone {
            world,
            flow: udp("192.0.2.1:5070"),
            user: "user",
            secret: "secret",
            call_id: "reg@192.0.2.1",
            cseq: 0,
            now: NOW,
        }
    }

    fn text(&self, more: &str) -> String {
        let (user, call_id, cseq) = (self.user, self.call_id, self.cseq);
        lines(&format!(
            "REGISTER sip:example.org SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bK{cseq}\n\
             From: <sip:{user}@example.org>;tag=p\nTo: <sip:{user}@example.org>\nCall-ID: {call_id}\n\
             CSeq: {cseq} REGISTER\n{more}"
        ))
    }

    fn send(&self, text: &str) -> Taken {
        self.world.take_bytes(text.as_bytes(), &self.flow, self.now)
    }

    /// A challenge for the next request, the one of this number.
    #[track_caller]
    fn challenge(&mut self, number: usize) -> String {
        self.cseq += 1;
        let said = replied(&self.send(&self.text("")));
        assert_eq!(first_line(&said), "SIP/2.0 401 Unauthorized");
        all(&said, "WWW-Authenticate")[number].to_owned()
    }

    /// A request with these fields, as the account.
    #[track_caller]
    fn asks(&mut self, more: &str) -> Taken {
        let challenge = self.challenge(0);
        self.cseq += 1;
        let proof = authorization(&challenge, self.user, self.secret, 1);
        self.send(&self.text(&format!("Authorization: {proof}\n{more}")))
    }

    #[track_caller]
    fn says(&mut self, more: &str) -> String {
        replied(&self.asks(more))
    }
}

#[test]
fn whoever_knows_the_secret_registers_with_either_algorithm() {
    let world = World::new("example.org");
    let mut phone = Phone::new(&world);
    for (number, algorithm) in ["MD5", "SHA-256"].into_iter().enumerate() {
        let challenge = phone.challenge(number);
        assert!(challenge.contains(&format!("algorithm={algorithm}")));
        phone.cseq += 1;
        let proof = authorization(&challenge, "user", "secret", 1);
        let contact = "Contact: <sip:user@192.0.2.1:5070>;q=0.5;expires=100";
        let text = phone.text(&format!("{contact}\nAuthorization: {proof}"));
        let taken = phone.send(&text);
        let said = replied(&taken);
        assert_eq!(first_line(&said), "SIP/2.0 200 OK");
        assert_eq!(
            all(&said, "Contact"),
            ["<sip:user@192.0.2.1:5070>;expires=100;q=0.5"]
        );
        assert!(taken.changed && taken.proven && taken.abuse.is_none());
        // Its answer was lost: the same again, and nothing changes.
        let again = phone.send(&text);
        assert_eq!(replied(&again), said);
        assert!(!again.changed);
    }
}

#[test]
fn a_wrong_secret_is_challenged_and_told_of_where_no_forger_could_have_sent_it() {
    let world = World::new("example.org");
    let mut phone = Phone::new(&world);
    for (user, secret) in [
        ("user", "wrong"),
        ("nobody", "secret"),
        ("mute", "x"),
        ("user@evil@x", "secret"),
    ] {
        let challenge = phone.challenge(0);
        let proof = authorization(&challenge, user, secret, 1);
        let text = phone.text(&format!("Authorization: {proof}"));
        let taken = phone.send(&text);
        assert_eq!(first_line(&replied(&taken)), "SIP/2.0 401 Unauthorized");
        assert_eq!(taken.abuse, Some(Abuse::FailedLogin), "{user}");
        // From another address the nonce is not good.
        phone.flow = udp("192.0.2.66:5070");
        assert_eq!(phone.send(&text).abuse, None);
        phone.flow = udp("192.0.2.1:5070");
    }
}

#[test]
fn a_nonce_that_is_old_or_used_is_stale() {
    let world = World::new("example.org");
    let mut phone = Phone::new(&world);
    let challenge = phone.challenge(0);
    let proof = authorization(&challenge, "user", "secret", 1);
    let first = phone.text(&format!(
        "Contact: <sip:a@192.0.2.1>\nAuthorization: {proof}"
    ));
    assert_eq!(first_line(&replied(&phone.send(&first))), "SIP/2.0 200 OK");
    phone.cseq += 1;
    let replayed = phone.text(&format!(
        "Contact: <sip:evil@192.0.2.66>\nAuthorization: {proof}"
    ));
    let said = replied(&phone.send(&replayed));
    assert!(
        said.starts_with("SIP/2.0 401 ") && said.contains("stale=true"),
        "{said}"
    );
    let counted = authorization(&challenge, "user", "secret", 2);
    let said = replied(&phone.send(&phone.text(&format!("Authorization: {counted}"))));
    assert_eq!(
        all(&said, "Contact"),
        ["<sip:a@192.0.2.1>;expires=3600;q=1"]
    );
    phone.now += 301;
    let counted = authorization(&challenge, "user", "secret", 3);
    let said = replied(&phone.send(&phone.text(&format!("Authorization: {counted}"))));
    assert!(said.contains("stale=true"), "{said}");
}

#[test]
fn contacts_come_and_go_by_the_rules_of_rfc_3261() {
    let world = World::new("example.org");
    let mut phone = Phone::new(&world);
    let said =
        phone.says("Contact: <sip:a@192.0.2.1>;q=0.1, <sip:b@192.0.2.1;x>;q=0.9\nExpires: 120");
    let both = [
        "<sip:b@192.0.2.1;x>;expires=120;q=0.9",
        "<sip:a@192.0.2.1>;expires=120;q=0.1",
    ];
    assert_eq!(all(&said, "Contact"), both);
    assert!(field(&said, "Date").ends_with("GMT"));
    assert_eq!(
        all(&phone.says(""), "Contact"),
        both,
        "a question changes nothing"
    );
    let said = phone.says("Contact: <sip:c@192.0.2.1>;expires=59");
    assert_eq!(
        (first_line(&said), field(&said, "Min-Expires")),
        ("SIP/2.0 423 Interval Too Brief".into(), "60")
    );
    let said = phone.says("Contact: <sip:c@192.0.2.1>, <sip:d@192.0.2.1>");
    assert_eq!(first_line(&said), "SIP/2.0 403 Too Many Contacts");
    let said = phone
        .says("Contact: <sip:a@192.0.2.1>;expires=0\nContact: <sip:c@192.0.2.1>;expires=99999");
    assert_eq!(all(&said, "Contact").len(), 2);
    assert!(said.contains("<sip:c@192.0.2.1>;expires=3600"));
    for wrong in [
        "Contact: *",
        "Contact: *\nExpires: 1",
        "Contact: *, <sip:a@b>\nExpires: 0",
        "Contact: <tel:1>",
    ] {
        assert!(phone.says(wrong).starts_with("SIP/2.0 400 "), "{wrong}");
    }
    // An older request than what was heard, and another account's.
    phone.cseq = 1;
    assert!(
        phone
            .says("Contact: <sip:c@192.0.2.1>")
            .starts_with("SIP/2.0 500 ")
    );
    phone.cseq = 100;
    assert!(phone.says("Contact: *\nExpires: 0").contains("200 OK"));
    assert!(all(&phone.says(""), "Contact").is_empty());
}

#[test]
fn an_account_speaks_for_itself_alone() {
    let world = World::new("example.org");
    let mut phone = Phone::new(&world);
    let mut as_to = |to: &str| {
        let challenge = phone.challenge(0);
        let proof = authorization(&challenge, "user", "secret", 1);
        let text = phone.text(&format!("Authorization: {proof}"));
        let text = text.replace("To: <sip:user@example.org>", &format!("To: <{to}>"));
        first_line(&replied(&phone.send(&text)))
    };
    assert_eq!(as_to("sip:USER@EXAMPLE.org"), "SIP/2.0 200 OK");
    assert_eq!(as_to("sip:ann@example.org"), "SIP/2.0 403 Not Your Address");
    assert_eq!(as_to("sip:nobody@example.org"), "SIP/2.0 404 Not Found");
    assert_eq!(as_to("sip:user@elsewhere.example"), "SIP/2.0 404 Not Found");
    assert_eq!(as_to("isbn:2983792873"), "SIP/2.0 400 To is no SIP URI");
}

#[test]
fn extensions_that_are_required_are_refused_by_name() {
    let world = World::new("example.org");
    let phone = Phone::new(&world);
    let said = replied(&phone.send(&phone.text("Require: path, gruu")));
    assert_eq!(first_line(&said), "SIP/2.0 420 Bad Extension");
    assert_eq!(field(&said, "Unsupported"), "path, gruu");
}

#[test]
fn a_contact_leads_where_a_phone_can_be_reached() {
    let world = World::new("example.org");
    let mut phone = Phone::new(&world);
    let mut leads = |from: &str, contact: &str| {
        phone.flow = udp(from);
        let said = phone.says(&format!("Contact: <{contact}>"));
        if !said.contains("200 OK") {
            return first_line(&said);
        }
        let call = request("OPTIONS", "sip:user@example.org", "");
        let (flow, _) = world.passes(&call, &udp("192.0.2.9:5060"));
        phone.says("Contact: *\nExpires: 0");
        flow.remote.to_string()
    };
    assert_eq!(
        leads("192.0.2.1:4000", "sip:user@192.0.2.1"),
        "192.0.2.1:5060"
    );
    assert_eq!(
        leads("192.0.2.1:4000", "sip:user@192.0.2.1:5999"),
        "192.0.2.1:5999"
    );
    assert_eq!(
        leads("192.0.2.1:4000", "sip:user@phone.invalid"),
        "192.0.2.1:4000"
    );
    assert_eq!(
        leads("192.0.2.1:4000", "sip:user@127.0.0.1:22"),
        "192.0.2.1:4000"
    );
    assert_eq!(
        leads("192.0.2.1:4000", "sip:user@198.51.100.7"),
        "198.51.100.7:5060"
    );
    // The Via tells 192.0.2.1, and it comes from elsewhere: a NAT.
    assert_eq!(
        leads("203.0.113.5:4000", "sip:user@192.0.2.1"),
        "203.0.113.5:4000"
    );
    assert_eq!(
        leads("192.0.2.1:4000", "sip:user@192.0.2.200"),
        "SIP/2.0 403 This Is The Proxy Itself"
    );
}

#[test]
fn bindings_survive_a_restart_with_the_time_that_is_left() {
    let world = World::new("example.org");
    // The clock that is written by is the system's.
    let now = crate::modules::sip::location::seconds(std::time::SystemTime::now());
    let mut phone = Phone::new(&world);
    phone.now = now;
    let taken = phone.asks("Contact: <sip:user@192.0.2.1:5999>;expires=500");
    assert!(taken.changed);
    assert_eq!(
        world.agent.location.change(std::time::Instant::now()),
        Some(std::time::Duration::ZERO)
    );
    assert!(!world.agent.location.save());
    let world = world.restart();
    let mut phone = Phone::new(&world);
    phone.now = now + 100;
    assert_eq!(
        all(&phone.says(""), "Contact"),
        ["<sip:user@192.0.2.1:5999>;expires=400;q=1"]
    );
    phone.now = now + 500;
    assert!(all(&phone.says(""), "Contact").is_empty());
}

#[test]
fn what_is_not_written_yet_is_at_the_end() {
    let world = World::new("example.org");
    let mut phone = Phone::new(&world);
    phone.now = crate::modules::sip::location::seconds(std::time::SystemTime::now());
    let now = phone.now;
    phone.says("Contact: <sip:user@192.0.2.1:5999>");
    let start = std::time::Instant::now();
    assert_eq!(
        world.agent.location.change(start),
        Some(std::time::Duration::ZERO)
    );
    assert_eq!(
        world.agent.location.change(start),
        None,
        "somebody does it already"
    );
    let world = world.restart();
    let mut phone = Phone::new(&world);
    phone.now = now;
    assert_eq!(all(&phone.says(""), "Contact").len(), 1);
}

#[test]
fn an_answer_that_would_flood_somebody_is_not_sent() {
    let world = World::new("example.org");
    let mut bench = Bench::new();
    let from = ([192, 0, 2, 1], 5070).into();
    let tiny = b"REGISTER sip:example.org SIP/2.0\r\nv: SIP/2.0/UDP a\r\nf: <sip:a@b>;tag=1\r\nt: sip:a@b\r\ni: 1\r\nCSeq: 1 REGISTER\r\n\r\n";
    let sent = bench.ask(&world.sip, from, tiny);
    assert!(
        sent.iter().all(|answer| answer.len() <= 3 * tiny.len()),
        "{sent:?}"
    );
    bench.class = crate::session::Class::Client;
    assert_eq!(bench.ask(&world.sip, from, tiny).len(), 1);
}
