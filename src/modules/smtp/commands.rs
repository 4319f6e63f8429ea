#![forbid(unsafe_code)]
//! What each command does.

use std::sync::Arc;

use super::Delivery;
use super::address::{Path, argument, is_domain};
use super::session::{Asked, Conversation, Envelope, Recipient, State, UNREACHABLE};
use super::trace::address_literal;
use crate::accounts::Account;
use crate::mail::line::split_command;
use crate::mail::login;
use crate::mail::sasl::{Exchange, MECHANISMS, SaslError, Step};
use crate::session::{Abuse, Context, Next};

/// Recipients of a message: RFC 5321, 4.5.3.1.8 asks for at least 100.
const MOST_RECIPIENTS: usize = 1000;
/// Commands since the last message that deliver nothing.
const MOST_IDLE: u32 = 100;

/// A command: its verb and what it does with the rest of the line.
type Command = (
    &'static str,
    fn(&mut Conversation, &[u8], &mut Context<'_>) -> Option<Next>,
);

const COMMANDS: &[Command] = &[
    ("HELO", |it, rest, cx| it.hello(rest, false, cx)),
    ("EHLO", |it, rest, cx| it.hello(rest, true, cx)),
    ("MAIL", Conversation::mail),
    ("RCPT", Conversation::rcpt),
    ("DATA", Conversation::data),
    ("BDAT", Conversation::bdat),
    ("RSET", Conversation::rset),
    ("NOOP", |it, _, cx| it.idle("250 2.0.0 ok", cx)),
    ("VRFY", |it, _, cx| {
        it.idle("252 2.5.2 send a message and see", cx)
    }),
    ("HELP", |it, _, cx| it.idle("214 2.0.0 RFC 5321", cx)),
    ("EXPN", |it, _, cx| it.error("502 5.5.1 no lists here", cx)),
    ("STARTTLS", Conversation::starttls),
    ("AUTH", Conversation::auth),
    ("QUIT", |it, _, cx| Some(it.close("221 2.0.0 goodbye", cx))),
];

impl Conversation {
    /// Carries a command line out; `None` goes on with the next.
    pub(super) fn command(&mut self, line: &[u8], cx: &mut Context<'_>) -> Option<Next> {
        let (verb, rest) = split_command(line);
        match COMMANDS.iter().find(|(name, _)| *name == verb) {
            Some((_, run)) => run(self, rest, cx),
            None => self.error("500 5.5.2 no such command", cx),
        }
    }

    /// Answers a command that delivers nothing; many of them in a row are no honest use.
    fn idle(&mut self, reply: &str, cx: &mut Context<'_>) -> Option<Next> {
        self.idle_commands += 1;
        if self.idle_commands > MOST_IDLE {
            cx.report(Abuse::Protocol);
            return Some(self.close("421 4.7.0 too many commands without a message", cx));
        }
        self.say(reply, cx)
    }

    fn hello(&mut self, rest: &[u8], extended: bool, cx: &mut Context<'_>) -> Option<Next> {
        let name = std::str::from_utf8(rest)
            .ok()
            .filter(|name| name.is_ascii() && is_domain(name));
        let Some(name) = name.map(str::to_owned) else {
            return self.error(
                "501 5.5.4 expected a domain name or an address in brackets",
                cx,
            );
        };
        self.idle_commands += 1;
        if self.idle_commands > MOST_IDLE {
            return self.idle("", cx);
        }
        let was_under_way = self.envelope.is_some();
        self.reset();
        if was_under_way && let Some(gate) = self.gate.take() {
            gate.quit(cx.now());
        }
        if let (true, Delivery::Gate(place)) = (extended, &self.shared.delivery)
            && place.offers.lock().is_none()
            && !cx.peer().blacklisted
        {
            return self.ask(Asked::Offers(name), cx);
        }
        self.greet_back(name, extended, cx);
        None
    }

    /// Answers HELO or EHLO.
    pub(super) fn greet_back(&mut self, name: String, extended: bool, cx: &mut Context<'_>) {
        let address = address_literal(cx.peer().remote.ip());
        let mut lines = vec![format!("{} greets {name} {address}", self.shared.hostname)];
        if extended {
            lines.extend(self.keywords(cx));
        }
        self.helo = Some((name, extended));
        let last = lines.len() - 1;
        for (index, line) in lines.iter().enumerate() {
            let dash = if index == last { ' ' } else { '-' };
            cx.write(format!("250{dash}{line}\r\n").as_bytes());
        }
    }

    /// What is true now, for this client.
    fn keywords(&self, cx: &Context<'_>) -> Vec<String> {
        let mut most = self.shared.max_message;
        let (mut eight_bit, mut utf8) = (true, true);
        if let Delivery::Gate(place) = &self.shared.delivery {
            let offers = place.offers.lock().clone().unwrap_or_default();
            (eight_bit, utf8) = (offers.eight_bit, offers.utf8);
            most = offers
                .size
                .filter(|size| *size > 0)
                .map_or(most, |size| most.min(size));
        }
        let size = format!("SIZE {most}");
        let auth = format!("AUTH {MECHANISMS}");
        let peer = cx.peer();
        let rows = [
            (true, "PIPELINING"),
            (true, size.as_str()),
            (eight_bit, "8BITMIME"),
            (utf8, "SMTPUTF8"),
            (true, "ENHANCEDSTATUSCODES"),
            (true, "CHUNKING"),
            (peer.may_start_tls && !peer.is_secure(), "STARTTLS"),
            (self.may_authenticate(cx), auth.as_str()),
        ];
        let offered = rows.into_iter().filter(|(offered, _)| *offered);
        offered.map(|(_, keyword)| keyword.to_owned()).collect()
    }

    fn may_authenticate(&self, cx: &Context<'_>) -> bool {
        cx.peer().may_send_password() && !self.shared.accounts.is_empty()
    }

    fn starttls(&mut self, rest: &[u8], cx: &mut Context<'_>) -> Option<Next> {
        if !rest.is_empty() {
            return self.error("501 5.5.4 STARTTLS stands alone", cx);
        }
        if !cx.peer().may_start_tls || cx.peer().is_secure() {
            return self.error("502 5.5.1 STARTTLS is not offered here", cx);
        }
        if let Some(gate) = self.gate.take() {
            gate.quit(cx.now());
        }
        cx.write(b"220 2.0.0 go ahead\r\n");
        Some(Next::StartTls)
    }

    fn auth(&mut self, rest: &[u8], cx: &mut Context<'_>) -> Option<Next> {
        if !cx.peer().may_send_password() {
            return self.error("538 5.7.11 encryption is required: STARTTLS first", cx);
        }
        let said_ehlo = matches!(self.helo, Some((_, true)));
        if !said_ehlo
            || self.account.is_some()
            || self.envelope.is_some()
            || !self.may_authenticate(cx)
        {
            return self.error("503 5.5.1 AUTH is not possible now", cx);
        }
        let Some((exchange, step)) = Exchange::open(rest) else {
            return self.error("504 5.5.4 no such mechanism", cx);
        };
        self.state = State::Auth(exchange);
        self.auth_step(step, cx)
    }

    /// A line of the exchange under way.
    pub(super) fn auth_line(&mut self, line: &[u8], cx: &mut Context<'_>) -> Option<Next> {
        let State::Auth(exchange) = &mut self.state else {
            return None;
        };
        let step = exchange.respond(line);
        self.auth_step(step, cx)
    }

    fn auth_step(&mut self, step: Result<Step, SaslError>, cx: &mut Context<'_>) -> Option<Next> {
        let credentials = match step {
            Ok(Step::Challenge(text)) => return self.say(&format!("334 {text}"), cx),
            Ok(Step::Verify(credentials)) => credentials,
            Err(error) => {
                self.state = State::Command;
                let reply = match error {
                    SaslError::Cancelled => "501 5.7.0 cancelled",
                    SaslError::NotBase64 => "501 5.5.2 that is no base64",
                    SaslError::Malformed => "501 5.5.2 that is not what the mechanism asks for",
                };
                return self.error(reply, cx);
            }
        };
        match login::verify(&self.shared.accounts, &credentials) {
            Ok(work) => {
                self.state = State::Verifying;
                Some(work)
            }
            Err(_) => {
                self.state = State::Command;
                self.say("454 4.7.0 too many log in just now, try again", cx)
            }
        }
    }

    /// A password was verified.
    pub(super) fn verified(
        &mut self,
        account: Option<Arc<Account>>,
        cx: &mut Context<'_>,
    ) -> Option<Next> {
        if account.is_some() {
            self.account = account;
            return self.say("235 2.7.0 welcome", cx);
        }
        cx.report(Abuse::FailedLogin);
        cx.set_alarm(Some(self.failures.delay()));
        self.state = State::Punished;
        Some(Next::Pause)
    }

    /// The answer to a wrong password has waited long enough.
    pub(super) fn punished(&mut self, cx: &mut Context<'_>) -> Option<Next> {
        self.state = State::Command;
        self.say("535 5.7.8 name or password is wrong", cx);
        if self.failures.are_many() {
            return Some(self.close("421 4.7.0 too many failed logins", cx));
        }
        None
    }

    fn mail(&mut self, rest: &[u8], cx: &mut Context<'_>) -> Option<Next> {
        if self.helo.is_none() {
            return self.error("503 5.5.1 say EHLO first", cx);
        }
        if self.envelope.is_some() {
            return self.error("503 5.5.1 a message is under way; RSET forgets it", cx);
        }
        let Some(argument) = argument(rest, "FROM:") else {
            return self.error("501 5.5.4 expected FROM:<address>", cx);
        };
        self.idle_commands += 1;
        if self.idle_commands > MOST_IDLE {
            return self.idle("", cx);
        }
        let mut envelope = Envelope {
            from: argument.path,
            ..Envelope::default()
        };
        for (key, value) in &argument.parameters {
            match (key.as_str(), value.as_deref()) {
                ("SIZE", Some(size)) => match size.parse() {
                    Ok(size) => envelope.size = Some(size),
                    Err(_) => return self.error("501 5.5.4 SIZE is a number", cx),
                },
                ("BODY", Some(body)) if body.eq_ignore_ascii_case("7BIT") => {}
                ("BODY", Some(body)) if body.eq_ignore_ascii_case("8BITMIME") => {
                    envelope.eight_bit = true;
                }
                ("SMTPUTF8", None) => envelope.utf8 = true,
                // RFC 4954, 5: whoever is not trusted is not believed.
                ("AUTH", Some(_)) => {}
                _ => return self.error("555 5.5.4 no such parameter", cx),
            }
        }
        if envelope
            .size
            .is_some_and(|size| size > self.shared.max_message)
        {
            return self.say("552 5.3.4 the message is larger than this server takes", cx);
        }
        if !envelope.utf8 && !envelope.from.text.is_ascii() {
            return self.error("553 5.6.7 an address in UTF-8 needs SMTPUTF8", cx);
        }
        // A blacklisted client's recipients are refused here, so the upstream is not troubled.
        if matches!(self.shared.delivery, Delivery::Gate(_)) && !cx.peer().blacklisted {
            return self.ask(Asked::Mail(envelope), cx);
        }
        self.envelope = Some(envelope);
        self.say("250 2.1.0 ok", cx)
    }

    fn rcpt(&mut self, rest: &[u8], cx: &mut Context<'_>) -> Option<Next> {
        if cx.peer().blacklisted {
            return self.refuse_recipient("550 5.7.1 mail from your address is not taken", cx);
        }
        let Some(envelope) = &mut self.envelope else {
            return self.error("503 5.5.1 MAIL first", cx);
        };
        if self.message.is_some() {
            return self.error("503 5.5.1 the message has begun", cx);
        }
        let Some(argument) =
            argument(rest, "TO:").filter(|argument| !argument.path.text.is_empty())
        else {
            return self.error("501 5.5.4 expected TO:<address>", cx);
        };
        if !argument.parameters.is_empty() {
            return self.error("555 5.5.4 no such parameter", cx);
        }
        let path = argument.path;
        if !envelope.utf8 && !path.text.is_ascii() {
            return self.error("553 5.6.7 an address in UTF-8 needs SMTPUTF8", cx);
        }
        if !self.shared.is_ours(&path) {
            return self.refuse_recipient("550 5.7.1 this server does not relay", cx);
        }
        if envelope.is_lost {
            return self.say(UNREACHABLE, cx);
        }
        if envelope.recipients.len() >= self.shared.most_recipients() {
            return self.say("452 4.5.3 too many recipients", cx);
        }
        let account = match &self.shared.delivery {
            Delivery::Gate(_) => {
                let recipient = Recipient {
                    text: path.text,
                    account: None,
                };
                return self.ask(Asked::Rcpt(recipient), cx);
            }
            Delivery::Maildir(_) => self.shared.accounts.find(&path.local),
        };
        let Some(account) = account else {
            return self.refuse_recipient("550 5.1.1 no such mailbox", cx);
        };
        envelope.recipients.push(Recipient {
            text: path.text,
            account: Some(Arc::clone(account.name())),
        });
        self.say("250 2.1.5 ok", cx)
    }

    /// Refuses a recipient; whoever tries a thousand of them in a message is after something else.
    fn refuse_recipient(&mut self, reply: &str, cx: &mut Context<'_>) -> Option<Next> {
        self.say(reply, cx);
        let refused = self.envelope.as_mut().map(|envelope| {
            envelope.asked += 1;
            envelope.asked
        });
        if refused.is_some_and(|refused| refused >= MOST_RECIPIENTS) {
            cx.report(Abuse::Protocol);
            return Some(self.close("421 4.7.0 too many refused recipients", cx));
        }
        None
    }

    /// Why text cannot come now.
    fn not_ready(&self) -> Option<&'static str> {
        match &self.envelope {
            None => Some("503 5.5.1 MAIL first"),
            Some(envelope) if envelope.is_lost => Some(UNREACHABLE),
            Some(envelope) if !envelope.recipients.is_empty() => None,
            Some(envelope) if envelope.asked > 0 => Some("554 5.5.1 no valid recipients"),
            Some(_) => Some("503 5.5.1 RCPT first"),
        }
    }

    fn data(&mut self, rest: &[u8], cx: &mut Context<'_>) -> Option<Next> {
        if !rest.is_empty() {
            return self.error("501 5.5.4 DATA stands alone", cx);
        }
        if self.message.is_some() {
            return self.error("503 5.5.1 the message has begun with BDAT", cx);
        }
        if let Some(refusal) = self.not_ready() {
            // No error: a pipelining client sends DATA before it knows (RFC 2920, 3.1).
            return self.idle(refusal, cx);
        }
        if matches!(self.shared.delivery, Delivery::Gate(_)) {
            return self.ask(Asked::Data, cx);
        }
        self.begin_text(false, cx);
        self.say("354 end with a line that has but a dot", cx)
    }

    fn bdat(&mut self, rest: &[u8], cx: &mut Context<'_>) -> Option<Next> {
        let text = std::str::from_utf8(rest).unwrap_or_default();
        let mut words = text.split_ascii_whitespace();
        let size = words.next().and_then(|size| size.parse::<u64>().ok());
        let last = match words.next() {
            None => Some(false),
            Some(word) => word.eq_ignore_ascii_case("LAST").then_some(true),
        };
        let (Some(size), Some(last), None) = (size, last, words.next()) else {
            // How much follows is not known, so what follows cannot be told from commands.
            return Some(self.close("501 5.5.4 expected BDAT size [LAST]", cx));
        };
        if let Some(refusal) = self.not_ready() {
            self.skip_chunk(size, last, refusal, cx);
            return None;
        }
        self.begin_chunk(size, last, cx)
    }

    fn rset(&mut self, _rest: &[u8], cx: &mut Context<'_>) -> Option<Next> {
        let has_text = self.message.is_some();
        let is_under_way = self.envelope.is_some();
        self.reset();
        if let Some(next) = self.idle("250 2.0.0 ok", cx) {
            return Some(next);
        }
        if has_text {
            // The upstream is in the middle of a message, and knows no way back.
            self.gate = None;
        } else if is_under_way && self.gate.is_some() {
            return self.ask(Asked::Reset, cx);
        }
        None
    }
}

impl super::Shared {
    fn is_ours(&self, path: &Path) -> bool {
        path.domain.is_empty() || self.domains.contains(&path.domain)
    }

    /// LMTP answers for each recipient, SMTP for all at once: with one there is no difference. Whoever gets 452
    /// sends to the others in a message of its own (RFC 5321, 4.5.3.1.10).
    fn most_recipients(&self) -> usize {
        match &self.delivery {
            Delivery::Gate(place) if place.is_lmtp => 1,
            _ => MOST_RECIPIENTS,
        }
    }
}
