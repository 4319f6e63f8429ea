use std::sync::Arc;

use rasn::Decoder as _;
use rasn::types::{OctetString, SetOf};
use rasn_ldap::{
    AbandonRequest, AddRequest, AttributeValueAssertion, AuthenticationChoice, BindRequest,
    CompareRequest, Control, DelRequest, ExtendedRequest, Filter, LdapMessage, LdapResult,
    ProtocolOp, ResultCode, SaslCredentials, SearchRequest, SearchRequestDerefAliases,
    SearchRequestScope, UnbindRequest,
};

use super::message::{LONGEST, head};
use super::{Directory, Holder, Ldap, Shared, read};
use crate::accounts::Accounts;
use crate::dialogue::{Talk, answer, test_peer};
use crate::ldap::dn::Dn;
use crate::ldap::schema::Schema;
use crate::ldap::special::{CANCEL, PAGED_RESULTS, START_TLS, WHO_AM_I};
use crate::session::{Abuse, Class, Peer, Security};

const TEXT: &str = "dn: dc=org\nobjectClass: domain\ndc: org\n\n\
    dn: uid=ann,dc=org\nobjectClass: inetOrgPerson\ncn: Ann\nsn: Lee\nmail: ann@a.org\nuserPassword: own\n\n\
    dn: uid=bob,dc=org\nobjectClass: inetOrgPerson\ncn: Bob\nsn: Lee\nuserPassword: {SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n\n\
    dn: cn=link,dc=org\nobjectClass: alias\nobjectClass: extensibleObject\naliasedObjectName: uid=ann,dc=org\n";

fn module_with(text: &str, change: impl FnOnce(&mut Shared)) -> Ldap {
    let tree = read(text.as_bytes()).unwrap();
    let name = "ou=accounts,dc=org".to_owned();
    let dn = Dn::parse(&name, &tree.schema).unwrap();
    let accounts = Accounts::of(&[("ann", "secret", None), ("carl", "pw", None)]);
    let mut shared = Shared {
        directory: Directory::new(tree, Some(Holder { name, dn }), accounts),
        clients_only: false,
        size_limit: None,
        time_limit: None,
    };
    change(&mut shared);
    Ldap::Directory(Arc::new(shared))
}

fn module() -> Ldap {
    module_with(TEXT, |_| {})
}

fn local() -> Peer {
    let mut peer = test_peer();
    peer.remote.set_ip("127.0.0.1".parse().unwrap());
    peer
}

#[derive(rasn::AsnType, rasn::Decode)]
struct Page {
    _size: u32,
    cookie: OctetString,
}

fn octets(bytes: impl AsRef<[u8]>) -> OctetString {
    OctetString::from(bytes.as_ref().to_vec())
}

fn message(id: u32, operation: ProtocolOp) -> Vec<u8> {
    rasn::ber::encode(&LdapMessage::new(id, operation)).unwrap()
}

fn with_control(
    id: u32,
    operation: ProtocolOp,
    oid: &str,
    critical: bool,
    value: Option<&[u8]>,
) -> Vec<u8> {
    let mut message = LdapMessage::new(id, operation);
    message.controls = Some(vec![Control::new(octets(oid), critical, value.map(octets))]);
    rasn::ber::encode(&message).unwrap()
}

fn bind(id: u32, name: &str, password: &str) -> Vec<u8> {
    let simple = AuthenticationChoice::Simple(octets(password));
    message(
        id,
        ProtocolOp::BindRequest(BindRequest::new(3, name.into(), simple)),
    )
}

fn request(base: &str, filter: Filter) -> SearchRequest {
    SearchRequest::new(
        base.into(),
        SearchRequestScope::WholeSubtree,
        SearchRequestDerefAliases::NeverDerefAliases,
        0,
        0,
        false,
        filter,
        vec![],
    )
}

fn present() -> Filter {
    Filter::Present("objectClass".into())
}

fn search(id: u32, base: &str) -> Vec<u8> {
    message(id, ProtocolOp::SearchRequest(request(base, present())))
}

fn extended(id: u32, oid: &str, value: Option<&[u8]>) -> Vec<u8> {
    let request = ExtendedRequest {
        request_name: octets(oid),
        request_value: value.map(octets),
    };
    message(id, ProtocolOp::ExtendedReq(request))
}

/// What was said, as messages; codes that RFC 4511 has not are shown as bytes by `codes`.
fn messages(mut said: &[u8]) -> Vec<LdapMessage> {
    let mut all = Vec::new();
    while let Some(head) = head(said).unwrap() {
        all.push(rasn::ber::decode(&said[..head.total]).unwrap());
        said = &said[head.total..];
    }
    assert!(said.is_empty());
    all
}

/// The number and result code of every answer, 1000 for an entry.
fn codes(mut said: &[u8]) -> Vec<(u32, u32)> {
    let mut all = Vec::new();
    while let Some(head) = head(said).unwrap() {
        let (message, rest) = said.split_at(head.total);
        // The result code is the first value of an answer: ENUMERATED, one byte.
        let at = memchr::memmem::find(&message[head.start..], b"\x0a\x01");
        let code = match head.operation {
            0x64 => 1000,
            _ => u32::from(message[head.start + at.unwrap() + 2]),
        };
        all.push((head.id, code));
        said = rest;
    }
    assert!(said.is_empty(), "{said:?}");
    all
}

fn result(message: &LdapMessage) -> &LdapResult {
    match &message.protocol_op {
        ProtocolOp::SearchResDone(done) => &done.0,
        ProtocolOp::CompareResponse(done) => &done.0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_password_makes_a_client_an_entry_and_nothing_else_does() {
    let module = module();
    let who = |talk: &mut Talk| match &messages(&talk.send(&extended(9, WHO_AM_I, None)))[0]
        .protocol_op
    {
        ProtocolOp::ExtendedResp(response) => {
            String::from_utf8(response.response_value.clone().unwrap().to_vec()).unwrap()
        }
        other => panic!("{other:?}"),
    };
    for (name, password, code) in [
        ("", "", 0),
        ("uid=ann,dc=org", "secret", 0),
        ("UID=Ann, DC=org", "own", 0),
        ("uid=bob,dc=org", "secret", 0),
        ("uid=carl,ou=accounts,dc=org", "pw", 0),
        ("uid=ann,ou=accounts,dc=org", "secret", 0),
        ("uid=ann,dc=org", "", 53),
        ("nonsense", "x", 34),
    ] {
        let mut talk = Talk::new(&module, &local(), usize::MAX);
        assert_eq!(
            codes(&talk.send(&bind(1, name, password))),
            [(1, code)],
            "{name} {password}"
        );
        let is_bound = code == 0 && !name.is_empty();
        assert_eq!(who(&mut talk).starts_with("dn:uid="), is_bound, "{name}");
        assert_eq!(talk.abuse(), []);
        // A bind that fails leaves nobody.
        assert_eq!(talk.send(&bind(2, "uid=bob,dc=org", "wrong")), b"");
        assert_eq!(codes(&talk.event("alarm")), [(2, 49)]);
        assert_eq!(who(&mut talk), "");
        assert_eq!(talk.abuse(), [Abuse::FailedLogin]);
    }
    for (name, password) in [
        ("uid=ann,dc=org", "pw"),
        ("uid=bob,dc=org", "own"),
        ("uid=bob,dc=org", "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="),
        ("uid=carl,dc=org", "pw"),
        ("uid=carl@x,ou=accounts,dc=org", "pw"),
        ("dc=org", "secret"),
        ("", "secret"),
        ("cn=subschema", "x"),
    ] {
        let mut talk = Talk::new(&module, &local(), usize::MAX);
        assert_eq!(talk.send(&bind(1, name, password)), b"", "{name}");
        assert_eq!(codes(&talk.event("alarm")), [(1, 49)], "{name}");
    }
}

#[test]
fn guessing_is_slowed_and_then_ended() {
    let module = module();
    let mut talk = Talk::new(&module, &local(), usize::MAX);
    for round in 1..=5 {
        assert!(!talk.is_at("close"), "{round}");
        assert_eq!(talk.send(&bind(round, "uid=ann,dc=org", "no")), b"");
        assert_eq!(codes(&talk.event("alarm")), [(round, 49)]);
    }
    assert!(talk.is_at("close"));
    assert_eq!(talk.abuse().len(), 5);
}

#[test]
fn a_password_in_clear_is_taken_from_this_machine_alone() {
    let module = module();
    let mut peer = test_peer();
    let mut talk = Talk::new(&module, &peer, usize::MAX);
    // Right, wrong or nobody's: it tells nothing of the password.
    for name in ["uid=ann,dc=org", "uid=x,dc=org", "nonsense"] {
        assert_eq!(codes(&talk.send(&bind(1, name, "secret"))), [(1, 13)]);
    }
    assert_eq!(
        codes(&talk.send(&[bind(2, "", ""), search(3, "cn=link,dc=org")].concat())),
        [(2, 0), (3, 1000), (3, 0)]
    );
    assert_eq!(
        codes(
            &talk.send(
                &[
                    extended(4, START_TLS, None),
                    bind(5, "uid=ann,dc=org", "secret")
                ]
                .concat()
            )
        ),
        [(4, 0)]
    );
    assert!(talk.is_at("starttls"));
    assert_eq!(talk.event("secured"), b"");
    assert_eq!(
        codes(&talk.send(&bind(6, "uid=ann,dc=org", "secret"))),
        [(6, 0)]
    );
    assert_eq!(codes(&talk.send(&extended(7, START_TLS, None))), [(7, 1)]);
    peer.may_start_tls = false;
    let mut talk = Talk::new(&module, &peer, usize::MAX);
    assert_eq!(codes(&talk.send(&extended(1, START_TLS, None))), [(1, 52)]);
    assert_eq!(
        codes(&talk.send(&extended(2, START_TLS, Some(b"x")))),
        [(2, 2)]
    );
    peer.security = Security::External;
    let mut talk = Talk::new(&module, &peer, usize::MAX);
    assert_eq!(
        codes(&talk.send(&bind(1, "uid=ann,dc=org", "secret"))),
        [(1, 0)]
    );
    assert_eq!(codes(&talk.send(&extended(2, START_TLS, None))), [(2, 1)]);
}

#[test]
fn what_is_not_offered_is_refused_in_its_own_answer() {
    let module = module();
    let sasl = AuthenticationChoice::Sasl(SaslCredentials::new("EXTERNAL".into(), None));
    let compare = |entry: &str, name: &str, value: &str| {
        let ava = AttributeValueAssertion::new(name.into(), octets(value));
        ProtocolOp::CompareRequest(CompareRequest {
            entry: entry.into(),
            ava,
        })
    };
    let add = AddRequest {
        entry: "cn=x,dc=org".into(),
        attributes: vec![],
    };
    let cancel = |id: u8| [0x30, 3, 2, 1, id];
    for (asked, code) in [
        (
            message(
                1,
                ProtocolOp::BindRequest(BindRequest::new(3, "".into(), sasl)),
            ),
            7,
        ),
        (
            message(
                1,
                ProtocolOp::BindRequest(BindRequest::new(
                    2,
                    "".into(),
                    AuthenticationChoice::Simple(octets("")),
                )),
            ),
            2,
        ),
        (
            message(1, ProtocolOp::DelRequest(DelRequest("dc=org".into()))),
            53,
        ),
        (message(1, ProtocolOp::AddRequest(add)), 53),
        (extended(1, "1.3.6.1.4.1.4203.1.11.1", None), 2),
        (extended(1, WHO_AM_I, Some(b"x")), 2),
        (extended(1, CANCEL, None), 2),
        (extended(1, CANCEL, Some(&cancel(7))), 119),
        (extended(1, CANCEL, Some(&cancel(1))), 121),
        (message(1, compare("uid=ann,dc=org", "sn", "lee")), 6),
        (message(1, compare("uid=ann,dc=org", "sn", "x")), 5),
        (message(1, compare("uid=ann,dc=org", "uidNumber", "1")), 16),
        (message(1, compare("uid=ann,dc=org", "uidNumber", "x")), 21),
        (
            message(1, compare("uid=ann,dc=org", "nobodyknows", "x")),
            17,
        ),
        (message(1, compare("uid=ann,dc=org", "jpegPhoto", "x")), 18),
        (
            message(1, compare("uid=ann,dc=org", "userPassword", "own")),
            50,
        ),
        (
            message(1, compare("uid=ann,dc=org", "USERPASSWORD;x", "own")),
            50,
        ),
        (message(1, compare("uid=x,dc=org", "sn", "x")), 32),
        (message(1, compare("x", "sn", "x")), 34),
        (search(1, "dc=nowhere"), 32),
        (search(1, "x"), 34),
        (
            with_control(
                1,
                ProtocolOp::SearchRequest(request("dc=org", present())),
                "1.2.3",
                true,
                None,
            ),
            12,
        ),
        (
            with_control(
                1,
                ProtocolOp::DelRequest(DelRequest("x".into())),
                PAGED_RESULTS,
                true,
                None,
            ),
            12,
        ),
        (
            with_control(
                1,
                ProtocolOp::SearchRequest(request("dc=org", present())),
                PAGED_RESULTS,
                false,
                Some(b"x"),
            ),
            2,
        ),
    ] {
        let mut talk = Talk::new(&module, &local(), usize::MAX);
        let said = talk.send(&asked);
        assert_eq!(codes(&said), [(1, code)], "{asked:?}");
        assert_eq!(
            codes(&talk.send(&bind(2, "", ""))),
            [(2, 0)],
            "the connection stays"
        );
    }
    let mut talk = Talk::new(&module, &local(), usize::MAX);
    let asked = with_control(
        1,
        ProtocolOp::SearchRequest(request("cn=link,dc=org", present())),
        "1.2.3",
        false,
        None,
    );
    assert_eq!(
        codes(&talk.send(&asked)),
        [(1, 1000), (1, 0)],
        "no critical one"
    );
    assert_eq!(
        talk.send(&message(2, ProtocolOp::AbandonRequest(AbandonRequest(1)))),
        b""
    );
    talk.send(&message(3, ProtocolOp::UnbindRequest(UnbindRequest)));
    assert!(talk.is_at("close"));
}

#[test]
fn a_search_answers_within_its_limits() {
    let module = module();
    let mut talk = Talk::new(&module, &local(), usize::MAX);
    let said = talk.send(&search(1, "dc=org"));
    // The accounts' entries are among them.
    assert_eq!(codes(&said), [&[(1, 1000); 7][..], &[(1, 0)]].concat());
    let mut limited = request("dc=org", present());
    limited.size_limit = 3;
    let said = talk.send(&message(2, ProtocolOp::SearchRequest(limited.clone())));
    assert_eq!(codes(&said), [(2, 1000), (2, 1000), (2, 1000), (2, 4)]);
    limited.size_limit = 7;
    assert_eq!(
        codes(&talk.send(&message(3, ProtocolOp::SearchRequest(limited)))).last(),
        Some(&(3, 0))
    );
    let ours = module_with(TEXT, |shared| shared.size_limit = Some(2));
    let mut talk = Talk::new(&ours, &local(), usize::MAX);
    assert_eq!(
        codes(&talk.send(&search(1, "dc=org"))),
        [(1, 1000), (1, 1000), (1, 4)]
    );
    let ours = module_with(TEXT, |shared| {
        shared.time_limit = Some(std::time::Duration::ZERO)
    });
    let mut talk = Talk::new(&ours, &local(), usize::MAX);
    assert_eq!(codes(&talk.send(&search(1, "dc=org"))), [(1, 3)]);
}

#[test]
fn entries_show_what_was_asked_for() {
    let module = module();
    let mut talk = Talk::new(&module, &local(), usize::MAX);
    let mut names = |attributes: &[&str], types_only: bool| {
        let mut asked = request("uid=ann,dc=org", present());
        asked.attributes = attributes.iter().map(|name| (*name).into()).collect();
        asked.types_only = types_only;
        let said = messages(&talk.send(&message(1, ProtocolOp::SearchRequest(asked))));
        let ProtocolOp::SearchResEntry(entry) = &said[0].protocol_op else {
            panic!("{said:?}");
        };
        let count: usize = entry.attributes.iter().map(|it| it.vals.len()).sum();
        assert_eq!(count == 0, types_only || entry.attributes.is_empty());
        let names: Vec<String> = entry
            .attributes
            .iter()
            .map(|it| it.r#type.to_string())
            .collect();
        names.join(" ")
    };
    assert_eq!(names(&[], false), "objectClass cn sn mail uid");
    assert_eq!(names(&["*"], true), "objectClass cn sn mail uid");
    assert_eq!(names(&["1.1"], false), "");
    assert_eq!(names(&["SURNAME", "nobodyknows"], false), "sn");
    assert_eq!(names(&["name"], false), "cn sn");
    assert_eq!(
        names(&["+"], false),
        "entryDN subschemaSubentry hasSubordinates"
    );
    assert_eq!(names(&["mail", "entrydn"], false), "mail entryDN");
    assert_eq!(names(&["userPassword"], false), "");
}

#[test]
fn pages_follow_each_other_and_belong_to_their_search() {
    let module = module();
    let mut talk = Talk::new(&module, &local(), usize::MAX);
    let mut page = |asked: &SearchRequest, size: u32, cookie: &[u8]| {
        let mut value = Vec::new();
        crate::ldap::ber::wrap(&mut value, 0x30, |out| {
            crate::ldap::ber::number(out, 2, size);
            crate::ldap::ber::octets(out, 4, cookie);
        });
        let asked = with_control(
            1,
            ProtocolOp::SearchRequest(asked.clone()),
            PAGED_RESULTS,
            true,
            Some(&value),
        );
        let said = messages(&talk.send(&asked));
        let last = said.last().unwrap();
        let cookie = last.controls.as_ref().map(|controls| {
            let value = controls[0].control_value.clone().unwrap();
            rasn::ber::decode::<Page>(&value).unwrap().cookie.to_vec()
        });
        (
            said.len() - 1,
            result(last).result_code,
            cookie.unwrap_or_default(),
        )
    };
    let asked = request("dc=org", present());
    let (mut counts, mut cookie) = (Vec::new(), Vec::new());
    loop {
        let (count, code, next) = page(&asked, 3, &cookie);
        assert_eq!(code, ResultCode::Success);
        counts.push(count);
        if next.is_empty() {
            break;
        }
        cookie = next;
    }
    assert_eq!(counts, [3, 3, 1]);
    assert_eq!(page(&asked, 7, b"").2, b"", "no page is left");
    assert_eq!(
        page(&asked, 0, &cookie),
        (0, ResultCode::Success, vec![]),
        "given up"
    );
    for bad in [&b"x"[..], &[7; 24], &cookie[1..]] {
        assert_eq!(page(&asked, 3, bad).1, ResultCode::UnwillingToPerform);
    }
    let other = request("dc=org", Filter::Present("cn".into()));
    assert_eq!(page(&other, 3, &cookie).1, ResultCode::UnwillingToPerform);
    let mut limited = asked.clone();
    limited.size_limit = 5;
    let (count, _, cookie) = page(&limited, 3, b"");
    assert_eq!(count, 3);
    // As if none had been sent.
    let mut forged = cookie.clone();
    forged[12..16].fill(0);
    assert_eq!(page(&limited, 3, &forged).1, ResultCode::UnwillingToPerform);
    let (count, code, _) = page(&limited, 3, &cookie);
    assert_eq!((count, code), (2, ResultCode::SizeLimitExceeded));
}

#[test]
fn aliases_are_not_followed_and_that_is_said() {
    let module = module();
    let mut talk = Talk::new(&module, &local(), usize::MAX);
    let mut asked = request("cn=link,dc=org", present());
    asked.deref_aliases = SearchRequestDerefAliases::DerefAlways;
    let said = messages(&talk.send(&message(1, ProtocolOp::SearchRequest(asked.clone()))));
    assert_eq!(
        result(&said[0]).result_code,
        ResultCode::AliasDereferencingProblem
    );
    asked.base_object = "dc=org".into();
    let said = messages(&talk.send(&message(2, ProtocolOp::SearchRequest(asked))));
    let last = result(said.last().unwrap());
    assert_eq!((last.result_code, said.len()), (ResultCode::Success, 8));
    assert!(last.diagnostic_message.contains("not followed"), "{last:?}");
}

#[test]
fn strangers_and_a_shutdown_get_a_notice() {
    let module = module_with(TEXT, |shared| shared.clients_only = true);
    let mut peer = test_peer();
    peer.class = Class::Other;
    let mut talk = Talk::new(&module, &peer, 1);
    let said = messages(&talk.send(b""));
    let ProtocolOp::ExtendedResp(notice) = &said[0].protocol_op else {
        panic!("{said:?}");
    };
    assert_eq!(
        (said[0].message_id, notice.result_code),
        (0, ResultCode::Unavailable)
    );
    assert_eq!(
        notice.response_name.as_deref(),
        Some(&b"1.3.6.1.4.1.1466.20036"[..])
    );
    assert!(notice.diagnostic_message.contains("own users") && talk.is_at("close"));
    for event in ["shutdown", "timeout"] {
        let mut talk = Talk::new(&module, &local(), 1);
        assert_eq!(codes(&talk.event(event)), [(0, 52)]);
        assert!(talk.is_at("close"));
    }
}

#[test]
fn the_same_bytes_in_any_pieces_get_the_same_answers() {
    let module = module();
    let mut asked = [
        bind(1, "", ""),
        search(2, ""),
        extended(3, WHO_AM_I, None),
        message(4, ProtocolOp::AbandonRequest(AbandonRequest(2))),
        bind(5, "uid=bob,dc=org", "secret"),
        extended(6, WHO_AM_I, None),
    ]
    .concat();
    let whole = answer(&module, &local(), &asked, usize::MAX);
    assert_eq!(codes(&whole).len(), 1 + 8 + 1 + 1 + 1);
    for chunk in 1..asked.len() {
        assert_eq!(
            answer(&module, &local(), &asked, chunk),
            whole,
            "in pieces of {chunk}"
        );
    }
    // And what means nothing ends it, wherever it is cut.
    asked.extend(b"\x30\x80\x02\x01\x01");
    let whole = answer(&module, &local(), &asked, usize::MAX);
    assert_eq!(codes(&whole).last(), Some(&(0, 2)));
    for chunk in [1, 2, 3, 7] {
        assert_eq!(
            answer(&module, &local(), &asked, chunk),
            whole,
            "in pieces of {chunk}"
        );
    }
}

#[test]
fn bombs_are_answered_and_end_the_session() {
    let module = module();
    let nested = |depth: usize, tag: u8, inner: Vec<u8>| {
        (0..depth).fold(inner, |inner, _| {
            let mut out = Vec::new();
            crate::ldap::ber::octets(&mut out, tag, &inner);
            out
        })
    };
    let mut indefinite = b"\x30\x80".repeat(30_000);
    indefinite.truncate(LONGEST);
    for bomb in [
        b"\x30\x84\xff\xff\xff\xff\x02\x01\x01\x63".to_vec(),
        b"\x30\x84\x00\x02\x00\x00\x02\x01\x01\x63".to_vec(),
        b"\x30\x85\x01\x00\x00\x00\x00".to_vec(),
        b"\x30\x80\x02\x01\x01\x42\x00\x00\x00".to_vec(),
        b"\x30\x05\x02\x01\x01\x63\x7f".to_vec(),
        b"\x30\x06\x02\x01\x01\x63\x82\xff".to_vec(),
        b"\x30\x07\x02\x04\xff\xff\xff\xff\x42".to_vec(),
        b"\x30\x08\x02\x05\x00\x00\x00\x00\x01\x42".to_vec(),
        b"\x30\x00".to_vec(),
        b"\x30\x05\x02\x01\x01\x7f\x00".to_vec(),
        b"\x30\x05\x02\x01\x00\x63\x00".to_vec(),
        b"\x30\x05\x02\x01\x01\x64\x00".to_vec(),
        b"GET / HTTP/1.0\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01".to_vec(),
        indefinite,
        message(0, ProtocolOp::DelRequest(DelRequest("x".into()))),
        nested(5000, 0x30, vec![]),
    ] {
        let mut talk = Talk::new(&module, &local(), usize::MAX);
        let said = talk.send(&bomb);
        assert_eq!(codes(&said), [(0, 2)], "{:?}", &bomb[..bomb.len().min(20)]);
        assert!(talk.is_at("close"));
        assert_eq!(talk.abuse(), [Abuse::Protocol]);
    }
}

#[test]
fn a_filter_a_thousand_deep_is_refused_and_the_connection_stays() {
    let module = module();
    let encode = |depth: usize| {
        let mut filter = Vec::new();
        crate::ldap::ber::octets(&mut filter, 0x87, b"objectClass");
        for _ in 0..depth {
            let mut outer = Vec::new();
            crate::ldap::ber::octets(&mut outer, 0xa2, &filter);
            filter = outer;
        }
        let shallow = message(
            1,
            ProtocolOp::SearchRequest(request("dc=org", Filter::And(SetOf::from(vec![])))),
        );
        let head = head(&shallow).unwrap().unwrap();
        // The filter `a0 00` and the empty list of attributes stand at the end.
        let start = head.start + 2;
        let end = shallow.len() - 4;
        assert_eq!(&shallow[end..], b"\xa0\x00\x30\x00");
        let mut out = Vec::new();
        crate::ldap::ber::wrap(&mut out, 0x30, |out| {
            out.extend(b"\x02\x01\x01");
            crate::ldap::ber::wrap(out, 0x63, |out| {
                out.extend(&shallow[start..end]);
                out.extend(&filter);
                out.extend(b"\x30\x00");
            });
        });
        out
    };
    let mut talk = Talk::new(&module, &local(), usize::MAX);
    assert_eq!(codes(&talk.send(&encode(90))).last(), Some(&(1, 0)));
    for depth in [1000, 10_000] {
        assert_eq!(codes(&talk.send(&encode(depth))), [(1, 11)]);
        assert_eq!(codes(&talk.send(&bind(2, "", ""))), [(2, 0)]);
    }
    let wide = (0..5000)
        .map(|_| Filter::Present("cn".into()))
        .collect::<Vec<_>>();
    let wide = message(
        1,
        ProtocolOp::SearchRequest(request("dc=org", Filter::Or(wide.into()))),
    );
    assert_eq!(codes(&talk.send(&wide)), [(1, 11)]);
}

fn many(count: usize) -> String {
    let entry = |number: usize| {
        format!(
            "dn: cn=n{number},dc=org\nobjectClass: device\ncn: n{number}\ndescription: {}\n\n",
            "x".repeat(200)
        )
    };
    let entries: String = (0..count).map(entry).collect();
    format!("dn: dc=org\nobjectClass: domain\n\n{entries}")
}

#[test]
fn a_long_answer_comes_in_pieces_and_an_abandon_ends_it() {
    use crate::connection::driver::{Driver, Surroundings, Wait};
    use crate::session::{Module as _, Output, Waker};
    use std::sync::atomic::{AtomicBool, Ordering};
    let module = module_with(&many(3000), |_| {});
    for what in ["nothing", "abandon", "unbind", "eof"] {
        let peer = local();
        let now = std::time::Instant::now();
        let woken = Arc::new(AtomicBool::new(false));
        let mut waker = || {
            let woken = Arc::clone(&woken);
            Waker::new(move || woken.store(true, Ordering::Relaxed))
        };
        let mut around = Surroundings {
            peer: &peer,
            now,
            wall: std::time::SystemTime::now(),
            waker: &mut waker,
        };
        let mut driver = Driver::new(module.idle_timeout(), now);
        driver.open(module.open(&peer), now);
        while driver.step(&mut around) {}
        driver.input.extend(&search(7, "dc=org"));
        driver.take_input(&mut around);
        let (mut said, mut pieces) = (Vec::new(), 0);
        loop {
            let piece = driver.output.take_all().unwrap();
            assert!(piece.len() <= Output::HIGH_WATER, "{}", piece.len());
            pieces += usize::from(!piece.is_empty());
            said.extend(piece);
            if pieces == 3 && matches!(driver.wait, Wait::Read) {
                pieces += 1;
                match what {
                    "abandon" => driver.input.extend(
                        &[
                            bind(8, "", ""),
                            message(9, ProtocolOp::AbandonRequest(AbandonRequest(7))),
                            bind(10, "", ""),
                        ]
                        .concat(),
                    ),
                    "unbind" => driver
                        .input
                        .extend(&message(9, ProtocolOp::UnbindRequest(UnbindRequest))),
                    "eof" => driver.finish(false),
                    _ => driver.input.extend(&bind(8, "", "")),
                }
                driver.take_input(&mut around);
                continue;
            }
            if woken.swap(false, Ordering::Relaxed) {
                driver.request_wake();
            }
            if !driver.step(&mut around)
                && !woken.load(Ordering::Relaxed)
                && driver.output.is_empty()
            {
                break;
            }
        }
        let codes = codes(&said);
        let entries = codes.iter().filter(|(_, code)| *code == 1000).count();
        match what {
            "nothing" => assert_eq!(
                (entries, &codes[codes.len() - 2..]),
                (3004, &[(7, 0), (8, 0)][..])
            ),
            "eof" => assert_eq!((entries, codes.last()), (3004, Some(&(7, 0)))),
            "abandon" => {
                assert!(entries < 1000, "{entries}");
                assert_eq!(codes[entries..], [(8, 0), (10, 0)]);
            }
            _ => assert_eq!(codes.len(), entries),
        }
        assert_eq!(
            matches!(driver.wait, Wait::Close),
            matches!(what, "unbind" | "eof"),
            "{what}"
        );
    }
}

#[test]
fn a_flood_of_requests_behind_a_long_search_waits() {
    let module = module_with(&many(3000), |_| {});
    let flood: Vec<u8> = (2..8000).flat_map(|id| bind(id, "", "")).collect();
    let said = answer(
        &module,
        &local(),
        &[search(1, "dc=org"), flood].concat(),
        16 * 1024,
    );
    let codes = codes(&said);
    assert_eq!(codes.iter().filter(|(_, code)| *code == 1000).count(), 3004);
    assert_eq!(codes.last(), Some(&(7999, 0)));
}

#[test]
fn the_servers_own_entries_tell_what_it_can() {
    let module = module();
    let mut talk = Talk::new(&module, &local(), usize::MAX);
    let mut values = |base: &str, name: &str| {
        let mut asked = request(base, present());
        asked.scope = SearchRequestScope::BaseObject;
        asked.attributes = vec![name.into()];
        let said = messages(&talk.send(&message(1, ProtocolOp::SearchRequest(asked))));
        let ProtocolOp::SearchResEntry(entry) = &said[0].protocol_op else {
            panic!("{said:?}");
        };
        assert_eq!(entry.object_name.as_str(), base);
        let values = entry.attributes[0]
            .vals
            .iter()
            .map(|value| String::from_utf8_lossy(value).into_owned());
        values.collect::<Vec<_>>()
    };
    assert_eq!(values("", "namingContexts"), ["dc=org"]);
    assert_eq!(values("", "subschemaSubentry"), ["cn=subschema"]);
    assert_eq!(values("", "supportedLDAPVersion"), ["3"]);
    assert_eq!(values("", "supportedExtension"), [WHO_AM_I, START_TLS]);
    assert_eq!(
        values("cn=subschema", "attributeTypes").len(),
        Schema::base().type_definitions.len()
    );
    assert!(values("cn=subschema", "matchingRules").len() > 20);
}
