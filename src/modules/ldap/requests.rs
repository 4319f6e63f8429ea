#![forbid(unsafe_code)]
//! Bind, Search, Compare and the extended operations.

use std::time::Duration;

use rasn::Decoder as _;
use rasn_ldap::{
    AuthenticationChoice, BindRequest, CompareRequest, ExtendedRequest, SearchRequest,
    SearchRequestDerefAliases, SearchRequestScope,
};

use super::message::{Answer, BIND_RESPONSE, Code, EXTENDED_RESPONSE, Paged, SEARCH_DONE, answer};
use super::running::{Cookie, Page, Running, digest, paged_value};
use super::session::{Conversation, State, say};
use crate::ldap::dn::Dn;
use crate::ldap::filter::Filter;
use crate::ldap::password;
use crate::ldap::search::{Scope, Search};
use crate::ldap::selection::{Description, Selection};
use crate::ldap::special::{CANCEL, START_TLS, WHO_AM_I};
use crate::session::{Abuse, Context, Lane, Next, Work};

const COMPARE_RESPONSE: u8 = 0x6f;
/// No password that is longer is looked at.
const LONGEST_PASSWORD: usize = 1024;

/// True where StartTLS can succeed.
pub(super) fn may_start_tls(cx: &Context<'_>) -> bool {
    cx.peer().may_start_tls && !cx.peer().is_secure()
}

impl Conversation {
    pub(super) fn bind(
        &mut self,
        id: u32,
        request: &BindRequest,
        cx: &mut Context<'_>,
    ) -> Option<Next> {
        // RFC 4511, 4.2.1: whoever the client was, it is not any more.
        self.bound = None;
        let mut refuse = |code, text| {
            say(id, BIND_RESPONSE, code, text, cx);
            None
        };
        if request.version != 3 {
            return refuse(Code::ProtocolError, "version 3 is spoken here");
        }
        let AuthenticationChoice::Simple(password) = &request.authentication else {
            return refuse(
                Code::AuthMethodNotSupported,
                "simple binds are taken, no SASL",
            );
        };
        if password.is_empty() {
            return match request.name.is_empty() {
                true => refuse(Code::Success, ""),
                // RFC 4513, 5.1.2: programs take the success of such a bind for a right password.
                false => refuse(
                    Code::UnwillingToPerform,
                    "a name without a password proves nothing",
                ),
            };
        }
        self.bind_simple(id, &request.name, password, cx)
    }

    fn bind_simple(
        &mut self,
        id: u32,
        name: &str,
        password: &[u8],
        cx: &mut Context<'_>,
    ) -> Option<Next> {
        if !cx.peer().may_send_password() {
            let text = "a password in clear is not taken: StartTLS first";
            say(id, BIND_RESPONSE, Code::ConfidentialityRequired, text, cx);
            return None;
        }
        let directory = &self.shared.directory;
        let Ok(dn) = Dn::parse(name, directory.schema()) else {
            say(
                id,
                BIND_RESPONSE,
                Code::InvalidDnSyntax,
                "the name is no distinguished name",
                cx,
            );
            return None;
        };
        let found = directory.find(&dn, false).filter(|_| !dn.is_empty());
        let account = found.as_ref().and_then(|_| self.account_of(&dn));
        let Ok(check) = directory
            .accounts()
            .check(account.as_deref().unwrap_or_default(), password)
        else {
            say(
                id,
                BIND_RESPONSE,
                Code::Busy,
                "too many log in just now",
                cx,
            );
            return None;
        };
        let password = password.to_vec();
        let verify = move || {
            let (tree, entry) = match found {
                Some(found) => found,
                // As long as for a name that exists.
                None => return check.run().and(None),
            };
            let mut kept: Vec<&[u8]> = tree.passwords(entry).iter().map(|value| &**value).collect();
            kept.sort_by_key(|value| password::is_slow(value));
            let is_right = password.len() <= LONGEST_PASSWORD
                && kept.iter().any(|value| password::verify(value, &password));
            let is_right =
                is_right || ((account.is_some() || kept.is_empty()) && check.run().is_some());
            is_right.then(|| tree.entry(entry).name.to_string())
        };
        self.state = State::Verifying(id);
        Some(Next::Work(Work::new(Lane::Compute, verify)))
    }

    /// The account whose entry this is: its name's first part is uid=ACCOUNT.
    fn account_of(&self, dn: &Dn) -> Option<String> {
        let schema = self.shared.directory.schema();
        let [pair] = dn.rdn()?.pairs.as_slice() else {
            return None;
        };
        let name = std::str::from_utf8(&pair.value).ok()?;
        let account = self.shared.directory.accounts().find(name)?;
        let is_uid = schema.kind(&pair.name)? == schema.kind("uid")?;
        (is_uid && **account.name() == name.to_lowercase()).then(|| account.name().to_string())
    }

    pub(super) fn verified(
        &mut self,
        id: u32,
        name: Option<String>,
        cx: &mut Context<'_>,
    ) -> Option<Next> {
        if name.is_some() {
            self.bound = name;
            say(id, BIND_RESPONSE, Code::Success, "", cx);
            return None;
        }
        cx.report(Abuse::FailedLogin);
        cx.set_alarm(Some(self.failures.delay()));
        let mut reply = Vec::new();
        answer(
            &mut reply,
            id,
            BIND_RESPONSE,
            Code::InvalidCredentials,
            Answer::default(),
        );
        self.state = State::Punished(reply);
        Some(Next::Pause)
    }

    pub(super) fn search(
        &mut self,
        id: u32,
        request: &SearchRequest,
        paged: Option<Paged>,
        cx: &mut Context<'_>,
    ) -> Option<Next> {
        if let Err((code, matched, text)) = self.begin_search(id, request, paged, cx) {
            let fields = Answer {
                matched: &matched,
                text,
                ..Answer::default()
            };
            let mut out = Vec::new();
            answer(&mut out, id, SEARCH_DONE, code, fields);
            cx.write(&out);
        }
        None
    }

    fn begin_search(
        &mut self,
        id: u32,
        request: &SearchRequest,
        paged: Option<Paged>,
        cx: &mut Context<'_>,
    ) -> Result<(), (Code, String, &'static str)> {
        let refuse = |code, text| Err((code, String::new(), text));
        let directory = &self.shared.directory;
        let schema = directory.schema();
        let Ok(base) = Dn::parse(&request.base_object, schema) else {
            return refuse(Code::InvalidDnSyntax, "the base is no distinguished name");
        };
        let Ok((filter, items)) = Filter::of(&request.filter, schema) else {
            return refuse(Code::AdminLimitExceeded, "the filter has too many items");
        };
        let scope = match request.scope {
            SearchRequestScope::BaseObject => Scope::Base,
            SearchRequestScope::SingleLevel => Scope::One,
            _ => Scope::Subtree,
        };
        let remark = self.about_aliases(request, &base)?;
        let Some(parts) = directory.parts(&base, scope, &filter, may_start_tls(cx)) else {
            return Err((Code::NoSuchObject, directory.matched(&base), ""));
        };
        let mut search = Search::new(parts, filter, items);
        let mut sent = 0;
        let page = match &paged {
            None => None,
            Some(paged) => {
                let digest = digest(request);
                if !paged.cookie.is_empty() {
                    let Some(cookie) = Cookie::of(paged, digest) else {
                        return refuse(Code::UnwillingToPerform, "this page is of another search");
                    };
                    sent = cookie.sent;
                    // RFC 2696, 3: a size of 0 gives the rest up.
                    if paged.size == 0 {
                        self.give_up_pages(id, cx);
                        return Ok(());
                    }
                    if !search.resume(cookie.serial, cookie.next) {
                        return refuse(
                            Code::UnwillingToPerform,
                            "the directory has changed: begin anew",
                        );
                    }
                }
                Some(Page {
                    left: paged.size,
                    digest,
                })
            }
        };
        let names = request.attributes.iter().map(|name| name.as_str());
        let limits = [
            Some(request.size_limit).filter(|limit| *limit > 0),
            self.shared.size_limit,
        ];
        let seconds = Some(request.time_limit).filter(|limit| *limit > 0);
        let seconds = seconds.map(|seconds| Duration::from_secs(seconds.into()));
        let time = seconds.into_iter().chain(self.shared.time_limit).min();
        self.state = State::Searching(Box::new(Running {
            id,
            search,
            selection: Selection::of(names, request.types_only, schema),
            sent,
            size_limit: limits.into_iter().flatten().min(),
            until: time.map(|time| cx.now() + time),
            page,
            remark,
        }));
        Ok(())
    }

    fn give_up_pages(&self, id: u32, cx: &mut Context<'_>) {
        let value = paged_value(b"");
        let fields = Answer {
            paged: Some(&value),
            ..Answer::default()
        };
        let mut out = Vec::new();
        answer(&mut out, id, SEARCH_DONE, Code::Success, fields);
        cx.write(&out);
    }

    /// Aliases are not followed: one that is the base ends the search, of others the result tells.
    fn about_aliases(
        &self,
        request: &SearchRequest,
        base: &Dn,
    ) -> Result<&'static str, (Code, String, &'static str)> {
        use SearchRequestDerefAliases::{DerefAlways, DerefFindingBaseObj, NeverDerefAliases};
        let text = "aliases are not followed here";
        let Some((tree, id)) = self.shared.directory.find(base, false) else {
            return Ok("");
        };
        if request.deref_aliases == NeverDerefAliases || !tree.has_aliases {
            return Ok("");
        }
        let class = Description::find("objectClass", &tree.schema);
        let is_alias = class.is_some_and(|class| {
            class.any_value(&tree, id, |_, value| value.eq_ignore_ascii_case(b"alias"))
        });
        if is_alias && matches!(request.deref_aliases, DerefAlways | DerefFindingBaseObj) {
            return Err((
                Code::AliasDereferencingProblem,
                tree.entry(id).name.to_string(),
                text,
            ));
        }
        Ok(text)
    }

    pub(super) fn compare(
        &mut self,
        id: u32,
        request: &CompareRequest,
        cx: &mut Context<'_>,
    ) -> Option<Next> {
        let (code, matched, text) = self.compared(request, cx);
        let fields = Answer {
            matched: &matched,
            text,
            ..Answer::default()
        };
        let mut out = Vec::new();
        answer(&mut out, id, COMPARE_RESPONSE, code, fields);
        cx.write(&out);
        None
    }

    fn compared(&self, request: &CompareRequest, cx: &Context<'_>) -> (Code, String, &'static str) {
        let directory = &self.shared.directory;
        let schema = directory.schema();
        let plain = |code| (code, String::new(), "");
        let Ok(dn) = Dn::parse(&request.entry, schema) else {
            return plain(Code::InvalidDnSyntax);
        };
        let Some((tree, id)) = directory.find(&dn, may_start_tls(cx)) else {
            return (Code::NoSuchObject, directory.matched(&dn), "");
        };
        let name = request.ava.attribute_desc.as_str();
        if crate::ldap::tree::is_secret(name.split(';').next().unwrap_or_default()) {
            // Whoever may ask so may guess without end; a bind is slowed and counted.
            return (
                Code::InsufficientAccessRights,
                String::new(),
                "passwords are proven by a bind",
            );
        }
        let Some(description) = Description::find(name, schema) else {
            return plain(Code::UndefinedAttributeType);
        };
        let Some(rule) = schema.get(description.kind).equality else {
            return plain(Code::InappropriateMatching);
        };
        let Some(form) = rule.normal(&request.ava.assertion_value, schema) else {
            return plain(Code::InvalidAttributeSyntax);
        };
        if !description.any_value(&tree, id, |_, _| true) {
            return plain(Code::NoSuchAttribute);
        }
        let is_equal = description.any_value(&tree, id, |_, value| {
            rule.normal(value, schema).as_ref() == Some(&form)
        });
        plain(if is_equal {
            Code::CompareTrue
        } else {
            Code::CompareFalse
        })
    }

    pub(super) fn extended(
        &mut self,
        id: u32,
        request: &ExtendedRequest,
        cx: &mut Context<'_>,
    ) -> Option<Next> {
        let oid = std::str::from_utf8(&request.request_name).unwrap_or_default();
        match oid {
            START_TLS => start_tls(id, request.request_value.is_some(), cx),
            WHO_AM_I if request.request_value.is_none() => {
                let who = self
                    .bound
                    .as_ref()
                    .map(|name| format!("dn:{name}"))
                    .unwrap_or_default();
                let fields = Answer {
                    value: Some(who.as_bytes()),
                    ..Answer::default()
                };
                let mut out = Vec::new();
                answer(&mut out, id, EXTENDED_RESPONSE, Code::Success, fields);
                cx.write(&out);
                None
            }
            CANCEL => {
                cancel(id, request, cx);
                None
            }
            _ => {
                say(
                    id,
                    EXTENDED_RESPONSE,
                    Code::ProtocolError,
                    "this operation is not known here",
                    cx,
                );
                None
            }
        }
    }
}

#[derive(rasn::AsnType, rasn::Decode)]
struct CancelValue {
    id: u32,
}

/// RFC 3909 is not offered. Requests are answered one after the other, so that there is nothing left to cancel; one
/// about itself cannot be.
fn cancel(id: u32, request: &ExtendedRequest, cx: &mut Context<'_>) {
    let value = request.request_value.as_deref().unwrap_or_default();
    let (code, text) = match rasn::ber::decode::<CancelValue>(value) {
        Err(_) => (Code::ProtocolError, "the request's value cannot be read"),
        Ok(value) if value.id == id => (Code::CannotCancel, ""),
        Ok(_) => (Code::NoSuchOperation, "no such operation is under way"),
    };
    say(id, EXTENDED_RESPONSE, code, text, cx);
}

/// RFC 4511, 4.14.
pub(super) fn start_tls(id: u32, has_value: bool, cx: &mut Context<'_>) -> Option<Next> {
    let (code, text) = match (has_value, cx.peer().is_secure(), cx.peer().may_start_tls) {
        (true, ..) => (Code::ProtocolError, "StartTLS has no value"),
        (_, true, _) => (Code::OperationsError, "this connection is secure already"),
        (_, _, false) => (
            Code::Unavailable,
            "there is no certificate for this address",
        ),
        _ => (Code::Success, ""),
    };
    let fields = Answer {
        text,
        name: Some(START_TLS),
        ..Answer::default()
    };
    let mut out = Vec::new();
    answer(&mut out, id, EXTENDED_RESPONSE, code, fields);
    cx.write(&out);
    (code == Code::Success).then_some(Next::StartTls)
}
