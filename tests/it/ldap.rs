//! A directory over LDAP: to OpenLDAP's tools, python's ldap3 and libldap, and shelldap; and before slapd.

use std::io::{Read, Write};
use std::process::{Command, Output};
use std::time::Duration;

use crate::foreign::Foreign;
use crate::harness::{
    Conf, DEADLINE, Daemon, assert_says, binary, connect_from, exits, free_port, output_of,
    output_within, wait_until,
};

const DIRECTORY: &str = include_str!("../../conf/directory.ldif");
const BASE: &str = "dc=example,dc=org";

struct Ports {
    clear: u16,
    secured: u16,
}

impl Ports {
    fn url(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.clear)
    }
}

/// A daemon with this module, and the account ann whose password is pw.
#[track_caller]
fn serve(module: &str) -> (Daemon, Ports) {
    let ports = Ports {
        clear: free_port(),
        secured: free_port(),
    };
    let server = "workers: 2, network: (clients: \"127.0.0.0/8\n!127.0.0.67\"),\n\
         domains: [(name: \"localhost\", certificate: SelfSigned)], default_domain: \"localhost\",";
    let listener = format!(
        "Tcp(module: {module}, sockets: [(port: {}), (port: {}, tls: On)])",
        ports.clear, ports.secured
    );
    let conf = Conf::new(server)
        .file("directory.ldif", DIRECTORY)
        .listener("ldap", &listener);
    let mut set = Command::new(binary());
    set.args(["account", "set", "ann", "--password-stdin", "--config"]);
    set.arg(conf.path());
    exits(&output_of(set, b"pw"), 0);
    (Daemon::start(conf), ports)
}

#[track_caller]
fn directory() -> (Daemon, Ports) {
    serve(
        "Ldap(store: Ldif(\"../directory.ldif\"), accounts: \"ou=accounts,dc=example,dc=org\", clients_only: true)",
    )
}

/// One of OpenLDAP's tools; certificates are not looked at.
fn tool(name: &str, url: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(name);
    command
        .env("LDAPTLS_REQCERT", "never")
        .env("LDAPRC", "/dev/null");
    command.args(["-x", "-H", url]).args(arguments);
    output_of(command, b"")
}

#[track_caller]
fn found(url: &str, arguments: &[&str]) -> String {
    let fixed = ["-LLL", "-o", "ldif-wrap=no", "-b", BASE];
    exits(&tool("ldapsearch", url, &[&fixed, arguments].concat()), 0)
}

#[test]
fn openldaps_tools_search_compare_and_bind() {
    let (_daemon, ports) = directory();
    let (url, secured) = (ports.url(), format!("ldaps://127.0.0.1:{}", ports.secured));
    for arguments in [
        &["(sn=LEE)"][..],
        &["-ZZ", "(&(givenName=ann*)(!(uid=bob)))"],
        &["-s", "one", "(ou=people)"],
    ] {
        let said = found(&url, arguments);
        assert_says(&said, &["ou=people,dc=example,dc=org"]);
        assert_eq!(said.matches("dn:").count(), 1, "{said}");
    }
    assert_says(
        &found(&secured, &["(uidNumber>=1000)", "uid"]),
        &["uid: ann\n"],
    );
    let said = found(&url, &["-E", "pr=2/noprompt", "(objectClass=*)", "1.1"]);
    assert_eq!(said.matches("dn:").count(), 8, "{said}");
    let said = found(&url, &["-b", "", "-s", "base", "+"]);
    assert_says(
        &said,
        &[
            "namingContexts: dc=example,dc=org",
            "supportedExtension: 1.3.6.1.4.1.1466.20037",
        ],
    );
    let said = found(&url, &["(userPassword=*)", "userPassword"]);
    assert_eq!(said, "");
    assert!(!found(&url, &["*", "+"]).contains("userPassword:"));
    exits(
        &tool("ldapsearch", &url, &["-b", BASE, "-z", "1", "-s", "sub"]),
        4,
    );
    exits(&tool("ldapsearch", &url, &["-b", "dc=nowhere"]), 32);
    let ann = "uid=ann,ou=people,dc=example,dc=org";
    exits(&tool("ldapcompare", &url, &[ann, "sn:LEE"]), 6);
    exits(&tool("ldapcompare", &url, &[ann, "sn:ann"]), 5);
    for (name, password, code, who) in [
        (ann, "pw", 0, "dn:uid=ann,ou=people"),
        (
            "uid=ann,ou=accounts,dc=example,dc=org",
            "pw",
            0,
            "dn:uid=ann,ou=accounts",
        ),
        (
            "uid=jürg,ou=people,dc=example,dc=org",
            "secret",
            0,
            "dn:uid=j",
        ),
        (ann, "wrong", 49, "Invalid credentials"),
        (ann, "", 53, "unwilling"),
    ] {
        let said = exits(
            &tool("ldapwhoami", &url, &["-D", name, "-w", password]),
            code,
        );
        assert_says(&said, &[who]);
    }
    assert_says(&exits(&tool("ldapwhoami", &url, &[]), 0), &["anonymous"]);
    exits(&tool("ldapdelete", &url, &[ann]), 53);
}

#[test]
fn pythons_ldap3_and_libldap_read_the_schema_and_page() {
    let (_daemon, ports) = directory();
    let script = r"
import ssl, sys
import ldap3
port, secured = int(sys.argv[1]), int(sys.argv[2])
base, ann = 'dc=example,dc=org', 'uid=ann,ou=people,dc=example,dc=org'
tls = ldap3.Tls(validate=ssl.CERT_NONE)
for number, use_ssl in [(port, False), (secured, True)]:
    server = ldap3.Server('127.0.0.1', port=number, use_ssl=use_ssl, tls=tls, get_info=ldap3.ALL)
    link = ldap3.Connection(server, ann, 'pw', auto_bind=ldap3.AUTO_BIND_NO_TLS, receive_timeout=20)
    assert server.info.naming_contexts == [base], server.info
    assert 'inetOrgPerson' in server.schema.object_classes and 'cn' in server.schema.attribute_types
    assert link.extend.standard.who_am_i() == 'dn:' + ann
    assert link.search(base, '(&(objectClass=person)(mail=ann@*))', attributes=['cn', 'uidNumber'])
    assert link.entries[0].uidNumber.value == 1000, link.entries
    pages = link.extend.standard.paged_search(base, '(objectClass=*)', paged_size=3, generator=False)
    assert len(pages) == 8, pages
    assert link.compare(ann, 'sn', 'lee')
    assert not link.modify(ann, {'sn': [(ldap3.MODIFY_REPLACE, ['x'])]}) and link.result['result'] == 53
    link.unbind()
link = ldap3.Connection(ldap3.Server('127.0.0.1', port=port, tls=tls), ann, 'pw', receive_timeout=20)
assert link.start_tls() and link.bind()
wrong = ldap3.Connection(ldap3.Server('127.0.0.1', port=port), ann, 'wrong', receive_timeout=20)
assert not wrong.bind() and wrong.result['result'] == 49
import ldap
link = ldap.initialize('ldap://127.0.0.1:%d' % port)
link.simple_bind_s(ann, 'pw')
number = link.search(base, ldap.SCOPE_SUBTREE)
link.abandon(number)
assert link.whoami_s() == 'dn:' + ann
assert len(link.search_s(base, ldap.SCOPE_SUBTREE, '(sn:caseExactMatch:=Lee)')) == 1
link.unbind_s()
";
    exits(
        &python(
            script,
            &[&ports.clear.to_string(), &ports.secured.to_string()],
        ),
        0,
    );
}

#[test]
fn shelldap_lists_the_tree() {
    let (_daemon, ports) = directory();
    let mut shell = Command::new("shelldap");
    shell.env("HOME", "/nonexistent").env("TERM", "dumb");
    shell.args([
        "--server",
        &ports.url(),
        "--basedn",
        BASE,
        "--binddn",
        "",
        "--configfile",
        "/dev/null",
    ]);
    let said = exits(&output_of(shell, b"ls\ncd ou=people\nls\nquit\n"), 0);
    assert_says(&said, &["ou=people", "ou=groups", "uid=ann"]);
}

#[test]
fn strangers_are_told_in_the_protocol() {
    let (_daemon, ports) = directory();
    let mut stream = connect_from("127.0.0.67", ports.clear);
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    assert_says(
        &String::from_utf8_lossy(&said),
        &["1.3.6.1.4.1.1466.20036", "own users"],
    );
}

#[test]
fn a_reload_takes_the_file_as_a_whole_or_not_at_all() {
    let (daemon, ports) = directory();
    let more = format!("{DIRECTORY}\ndn: cn=new,dc=example,dc=org\nobjectClass: device\n");
    daemon.conf().write(
        "directory.ldif",
        &format!("{more}sn:< file:///etc/passwd\n"),
    );
    let said = exits(&daemon.portreeve(&["reload"]), 2);
    assert_says(&said, &["directory.ldif:", ":4: values in other files"]);
    assert_eq!(found(&ports.url(), &["(cn=new)"]), "");
    daemon.conf().write("directory.ldif", &more);
    exits(&daemon.portreeve(&["reload"]), 0);
    assert_says(
        &found(&ports.url(), &["(cn=new)"]),
        &["dn: cn=new,dc=example,dc=org"],
    );
}

#[test]
fn accounts_are_entries_as_soon_as_they_are_set() {
    let (daemon, ports) = directory();
    assert_eq!(found(&ports.url(), &["(uid=bob)"]), "");
    let mut set = Command::new(binary());
    set.args(["account", "set", "bob", "--password-stdin", "--config"]);
    set.arg(daemon.conf().path());
    exits(&output_of(set, b"x"), 0);
    wait_until("bob is an entry", DEADLINE, || {
        found(&ports.url(), &["(uid=bob)"]).contains("dn: uid=bob,ou=accounts,dc=example,dc=org")
    });
}

#[test]
fn a_long_answer_to_a_slow_reader_holds_nobody_up() {
    let (daemon, ports) = directory();
    let mut many = DIRECTORY.to_owned();
    for number in 0..5000 {
        many += &format!(
            "\ndn: cn=n{number},ou=groups,dc=example,dc=org\nobjectClass: device\ndescription: {}\n",
            "x".repeat(2000)
        );
    }
    daemon.conf().write("directory.ldif", &many);
    exits(&daemon.portreeve(&["reload"]), 0);
    let mut slow = connect_from("127.0.0.1", ports.clear);
    // A search for everything, as ldapsearch sends it.
    let base = BASE.as_bytes();
    let mut search = vec![0x30, 37 + 17, 2, 1, 1, 0x63, 32 + 17, 4, 17];
    search.extend(base);
    search.extend(
        b"\x0a\x01\x02\x0a\x01\x00\x02\x01\x00\x02\x01\x00\x01\x01\x00\x87\x0bobjectClass\x30\x00",
    );
    search[1] = u8::try_from(search.len() - 2).unwrap();
    search[6] = u8::try_from(search.len() - 7).unwrap();
    slow.write_all(&search).unwrap();
    // Meanwhile others are answered, by as many workers as there are.
    for _ in 0..4 {
        assert_says(&found(&ports.url(), &["(sn=lee)"]), &["uid=ann"]);
    }
    let mut said = Vec::new();
    let mut piece = vec![0; 1 << 16];
    while !said.ends_with(b"\x65\x07\x0a\x01\x00\x04\x00\x04\x00") {
        let count = slow.read(&mut piece).unwrap();
        assert!(count > 0, "after {} bytes", said.len());
        said.extend(&piece[..count]);
    }
    assert!(said.len() > 8_000_000, "{}", said.len());
}

/// Debian's own python, which has its packages.
fn python(script: &str, arguments: &[&str]) -> Output {
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", script]).args(arguments);
    output_within(python, b"", Duration::from_secs(60))
}

const GATE: &str = "clients_only: true, store: Upstream";

#[test]
fn slapd_behind_the_gate_is_asked_and_its_refusals_are_passed_on() {
    let behind = free_port();
    let slapd = Foreign::slapd(behind, &DIRECTORY.replace("version: 1\n", ""));
    let (daemon, ports) = serve(&format!("Ldap({GATE}(\"localhost:{behind}\"))"));
    let (url, secured) = (ports.url(), format!("ldaps://127.0.0.1:{}", ports.secured));
    let root = "cn=admin,dc=example,dc=org";
    for (url, more) in [(&url, &[][..]), (&url, &["-ZZ"]), (&secured, &[])] {
        let arguments = [more, &["-D", root, "-w", "adminpw", "(sn=lee)"]].concat();
        assert_says(&found(url, &arguments), &["dn: uid=ann"]);
        assert_says(
            &found(
                url,
                &[more, &["-E", "pr=2/noprompt", "(objectClass=*)", "1.1"]].concat(),
            ),
            &["cn=staff"],
        );
        exits(
            &tool(
                "ldapwhoami",
                url,
                &[more, &["-D", root, "-w", "wrong"]].concat(),
            ),
            49,
        );
        exits(
            &tool(
                "ldapcompare",
                url,
                &[more, &["uid=ann,ou=people,dc=example,dc=org", "sn:lee"]].concat(),
            ),
            6,
        );
    }
    // It writes, too: large messages pass in pieces.
    let text = "x".repeat(300_000);
    let mut add = Command::new("ldapadd");
    add.args(["-x", "-H", &url, "-D", root, "-w", "adminpw"]);
    let entry =
        format!("dn: cn=large,ou=groups,{BASE}\nobjectClass: device\ndescription: {text}\n");
    exits(&output_of(add, entry.as_bytes()), 0);
    assert_says(&found(&url, &["(cn=large)"]), &[&text]);
    // A client may bind again and again on one connection; a refusal leaves it.
    let script = r"
import ldap, sys
link = ldap.initialize('ldap://127.0.0.1:%s' % sys.argv[1])
root = 'cn=admin,dc=example,dc=org'
for password in ['wrong', 'adminpw', 'wrong', 'adminpw']:
    try:
        link.simple_bind_s(root, password)
        assert password == 'adminpw'
        assert link.whoami_s() == 'dn:' + root
    except ldap.INVALID_CREDENTIALS:
        assert password == 'wrong'
";
    exits(&python(script, &[&ports.clear.to_string()]), 0);
    drop(slapd);
    exits(&tool("ldapwhoami", &url, &[]), 52);
    assert!(daemon.active("ldap") < 10);
}
