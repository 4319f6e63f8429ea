"""Mail servers under load: Postfix and Dovecot with directories of their own, and Maildirs to look into."""

import shutil
import subprocess

from servers import ROOT, Server, home, ours, ports

DATA = ROOT / "tests/data"
ACCOUNT = "ann"


def inbox(path):
    """Makes a Maildir."""
    for part in ("tmp", "new", "cur"):
        (path / part).mkdir(parents=True, exist_ok=True)
    return path


def owned(path, user):
    shutil.chown(path, user, None)
    return path


def open_to_others(path):
    """Servers that give up their rights must be able to reach what is below."""
    path.chmod(0o755)
    return path


def postfix():
    """Postfix that receives for ann@example.org and puts it into a Maildir by virtual(8), as the tests have it, and
    without what keeps one client from sending much. Nobody listens to its log."""
    port = ports()
    path = open_to_others(home("Postfix", port))
    for part in ("conf", "queue", "data", "mail"):
        (path / part).mkdir()
    owned(path / "data", "postfix")
    owned(path / "mail", "nobody")
    main = (DATA / "postfix/main.cf").read_text().replace("HOME", str(path))
    main = "\n".join(line for line in main.splitlines() if not line.startswith("maillog_file"))
    main += "\nsmtpd_client_connection_count_limit = 0\nin_flow_delay = 0\n"
    (path / "conf/main.cf").write_text(main)
    (path / "conf/master.cf").write_text((DATA / "postfix/master.cf").read_text().replace("PORT", str(port)))
    subprocess.run(["/usr/sbin/postfix", "-c", path / "conf", "check"], check=True, capture_output=True)
    server = Server("Postfix", ["/usr/lib/postfix/sbin/master", "-d", "-c", path / "conf"], port)
    server.mail = path / "mail" / ACCOUNT
    return server


DOVECOT = """
base_dir = HOME/run
state_dir = HOME/state
log_path = /dev/null
ssl = no
protocols = imap
listen = 127.0.0.1
disable_plaintext_auth = no
mail_location = maildir:HOME/mail/%n
mail_uid = 65534
mail_gid = 65534
first_valid_uid = 100
first_valid_gid = 100
default_internal_user = dovecot
default_login_user = dovenull
passdb {
  driver = static
  args = password=secret user=ann
}
userdb {
  driver = static
  args = uid=65534 gid=65534 home=HOME/mail/%n
}
service imap-login {
  inet_listener imap {
    port = PORT
  }
  inet_listener imaps {
    port = 0
  }
}
"""


def dovecot(prepare):
    """Dovecot with IMAP; `prepare` fills the Maildir of ann, whose password is secret."""
    port = ports()
    path = open_to_others(home("Dovecot", port))
    mail = inbox(path / "mail" / ACCOUNT)
    prepare(mail)
    subprocess.run(["chown", "-R", "nobody:nogroup", path / "mail"], check=True)
    (path / "dovecot.conf").write_text(DOVECOT.replace("HOME", str(path)).replace("PORT", str(port)))
    server = Server("Dovecot", ["/usr/sbin/dovecot", "-F", "-c", path / "dovecot.conf"], port)
    server.mail = mail
    return server


def our_mail(module, workers=None, prepare=None):
    """The daemon with one mail module and the account ann, whose password is secret."""
    def accounts(conf):
        subprocess.run(
            [ROOT / "target/release/portreeve", "account", "set", ACCOUNT, "--password-stdin", "--config", conf],
            input=b"secret", check=True, capture_output=True,
        )
        if prepare:
            prepare(inbox(conf.parent.parent / "var/mail" / ACCOUNT))

    text = f'Tcp(module: {module}, channels: 20000, sockets: [(port: PORT, address: "127.0.0.1")])'
    server = ours({"mail": text}, 'state_dir: "../var",', workers=workers, prepare=accounts)
    server.mail = server.log.parent / "var/mail" / ACCOUNT
    return server


def knows(module):
    """Whether this build has a module."""
    conf = home("knows", 0) / "conf"
    (conf / "listeners").mkdir(parents=True)
    (conf / "portreeve.ron").write_text("()")
    (conf / "listeners/it.ron").write_text(f"Tcp(module: {module}, sockets: [(port: {ports()})])")
    command = [ROOT / "target/release/portreeve", "check", "--config", conf / "portreeve.ron"]
    return subprocess.run(command, capture_output=True).returncode == 0
