"""The mail about a stale model, taken by a mail server of others on loopback."""

import email.policy
import json
import socket
import ssl
from email import message_from_bytes
from email.utils import parseaddr, parsedate_to_datetime

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from cloud_support import ACCESS_KEY_ID, SECRET_ACCESS_KEY, Cloud
from pipeline_clone import Clone

SUBJECT = "Credit card approval ML model has not been updated in a week."
BODY = "It has been 7 days since the credit card approval ML model was updated. Please update the model."
USER = {"SMTP_USERNAME": "pipeline", "SMTP_PASSWORD": "the password"}
HISTORY = "target/pipeline/monitor-history.ndjson"


@pytest.fixture(scope="module")
def clone() -> Clone:
    """A clone in which nothing was built or deployed: what is not there counts as stale."""
    return Clone("mail")


@pytest.fixture(scope="module")
def account(programs, tmp_path_factory):
    """What stands for the AWS account."""
    cloud = Cloud.start(programs["serve"], tmp_path_factory.mktemp("cloud"))
    yield {"AWS_ENDPOINT_URL": cloud.endpoint_url, "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
           "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY}
    cloud.stop()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


class Mailbox:
    """Keeps what it is sent; refuses one recipient."""

    def __init__(self):
        self.envelopes = []

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address == "gone@example.com":
            return "550 5.1.1 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        envelope.encrypted = session.ssl is not None
        envelope.user = session.auth_data
        self.envelopes.append(envelope)
        return "250 taken"


def authenticate(server, session, envelope, mechanism, data):
    right = (data.login, data.password) == tuple(text.encode() for text in USER.values())
    return AuthResult(success=right, handled=False, auth_data=data.login.decode() if right else None)


class Server:
    """A mail server on a free port of loopback."""

    def __init__(self, **options):
        self.mailbox = Mailbox()
        # Asking for port 0 is beyond aiosmtpd's controller.
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        # `ssl_context` speaks TLS from the first byte, `tls_context` when asked.
        self.controller = Controller(self.mailbox, hostname="127.0.0.1", port=self.port, **options)

    def __enter__(self):
        self.controller.start()
        return self

    def __exit__(self, *_):
        self.controller.stop()

    def message(self):
        """The one message that came."""
        (envelope,) = self.mailbox.envelopes
        return envelope, message_from_bytes(envelope.content, policy=email.policy.default)


@pytest.fixture
def monitor(clone, account):
    """Runs `monitor --env preprod` with the mail server that is given, on a day without mail so far."""
    path = clone.path / "pipeline.toml"
    shipped = path.read_text()

    def run(port: int, tls: str, *, host: str = "127.0.0.1", expect: int = 0, edit=lambda text: text, **variables):
        old = 'host = "email-smtp.us-east-1.amazonaws.com"\nport = 587\ntls = "starttls"'
        assert shipped.count(old) == 2
        new = f'host = "{host}"\nport = {port}\ntls = "{tls}"'
        path.write_text(edit(shipped.replace(old, new, 1)))
        # With --fail a mail that is not sent is an error, and a model that is stale an answer of its own.
        arguments = ["--fail"] if expect else []
        return clone.xtask("monitor", "--json", "--env", "preprod", *arguments, expect=expect, **(account | variables))

    with clone.holding(path):
        (clone.path / HISTORY).unlink(missing_ok=True)
        yield run


def unsent(clone: Clone, ended, reason: str) -> None:
    """The mail was not sent, which is said, recorded and ended with; and nothing of the rest is missing."""
    assert "were not told that it is stale" in ended.err and reason in ended.err, ended.err
    record = clone.record("monitor")
    assert record["model_stale"] is True
    assert record["mail"]["outcome"] == "unsent" and reason in record["mail"]["reason"]
    kept = message_from_bytes((clone.path / record["mail"]["file"]).read_bytes(), policy=email.policy.default)
    assert (clone.path / record["mail"]["file"]).resolve().parent == clone.run_folder()
    assert kept["Subject"] == SUBJECT and kept.get_content().strip() == BODY
    assert json.loads((clone.path / HISTORY).read_text().splitlines()[-1])["mail"]["outcome"] == "unsent"


def test_what_is_sent_is_what_was_promised(monitor):
    to = 'mail_to = ["Jürgen Groß <owner@example.com>", "second@example.com"]'
    with Server() as server:
        ended = monitor(server.port, "none", edit=lambda text: text.replace('mail_to = ["model-owners@example.com"]', to))
    envelope, message = server.message()
    assert json.loads(ended.out)["mail"] == {"outcome": "sent", "file": None, "reason": None}
    assert (envelope.mail_from, envelope.rcpt_tos) == ("pipeline@example.com", ["owner@example.com", "second@example.com"])
    assert message["Subject"] == SUBJECT and message.get_content().strip() == BODY
    assert message["From"] == "pipeline@example.com" and str(message["To"]).startswith("Jürgen Groß <owner@example.com>")
    assert envelope.content.isascii() and not message.defects
    assert message.get_content_type() == "text/plain" and message.get_content_charset() == "utf-8"
    assert parseaddr(message["Message-ID"])[1].endswith("@example.com")
    assert parsedate_to_datetime(message["Date"]).utcoffset().total_seconds() == 0
    assert message["Auto-Submitted"] == "auto-generated"


def test_same_staleness_is_told_once_a_day(monitor, clone):
    with Server() as server:
        outcomes = [json.loads(monitor(server.port, "none").out)["mail"]["outcome"] for _ in range(2)]
        assert outcomes == ["sent", "already_told"]
        (clone.path / HISTORY).write_text((clone.path / HISTORY).read_text().replace('"finished_at":"20', '"finished_at":"19'))
        assert json.loads(monitor(server.port, "none").out)["mail"]["outcome"] == "sent"
    assert len(server.mailbox.envelopes) == 2


@pytest.mark.parametrize("tls, option", [("starttls", "tls_context"), ("implicit", "ssl_context")])
def test_encrypted_and_with_credentials(monitor, authority, tmp_path, tls, option):
    trusted = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(trusted)
    # aiosmtpd knows only of the TLS that it was asked to begin.
    context = {option: server_context(authority, "127.0.0.1")}
    with Server(**context, authenticator=authenticate, auth_require_tls=tls == "starttls") as server:
        monitor(server.port, tls, SSL_CERT_FILE=str(trusted), **USER)
    envelope, message = server.message()
    assert envelope.encrypted or tls == "implicit"
    assert envelope.user == "pipeline" and message["Subject"] == SUBJECT


def test_certificate_of_somebody_else_is_refused(monitor, clone, authority, tmp_path):
    trusted = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(trusted)
    for context, trust in [
        (server_context(trustme.CA(), "127.0.0.1"), str(trusted)),
        (server_context(authority, "smtp.example.com"), str(trusted)),
    ]:
        with Server(tls_context=context, authenticator=authenticate) as server:
            unsent(clone, monitor(server.port, "starttls", expect=1, SSL_CERT_FILE=trust, **USER), "certificate")
        assert server.mailbox.envelopes == []


def test_server_without_starttls_gets_neither_mail_nor_password(monitor, clone):
    with Server(authenticator=authenticate, auth_require_tls=False) as server:
        unsent(clone, monitor(server.port, "starttls", expect=1, **USER), "STARTTLS")
    assert server.mailbox.envelopes == []


def test_wrong_password(monitor, clone):
    with Server(authenticator=authenticate, auth_require_tls=False) as server:
        ended = monitor(server.port, "none", expect=1, **(USER | {"SMTP_PASSWORD": "another password"}))
        unsent(clone, ended, "535")
    assert "another password" not in ended.text + json.dumps(clone.record("monitor"))


def test_refused_recipient(monitor, clone):
    with Server() as server:
        ended = monitor(server.port, "none", expect=1, edit=lambda text: text.replace("model-owners@", "gone@"))
        unsent(clone, ended, "no such mailbox")
        # The owners' new address is told on the same day, and what was kept is gone.
        sent = json.loads(monitor(server.port, "none").out)
    assert sent["mail"]["outcome"] == "sent" and len(server.mailbox.envelopes) == 1
    assert not (clone.run_folder() / "unsent-mail.eml").exists()


def test_unreachable_host(monitor, clone):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        unsent(clone, monitor(port, "none", expect=1), f"127.0.0.1:{port}")
    unsent(clone, monitor(587, "starttls", host="smtp.invalid", expect=1, **USER), "smtp.invalid:587")


def test_missing_credentials_are_named_before_anything_is_sent(monitor, clone):
    host = "smtp.invalid"
    unsent(clone, monitor(587, "starttls", host=host, expect=1), "SMTP_USERNAME is not set")
    unsent(clone, monitor(587, "starttls", host=host, expect=1, SMTP_USERNAME="a"), "SMTP_PASSWORD is not set")
    with Server() as server:
        unsent(clone, monitor(server.port, "none", expect=1, SMTP_PASSWORD="a"), "SMTP_USERNAME is not set")
    assert server.mailbox.envelopes == []


def test_no_mail_server_named(monitor, clone):
    def without_server(text: str) -> str:
        table = text.index("[environments.preprod.mail]")
        return text[:table] + text[text.index("[environments.production]"):]

    unsent(clone, monitor(0, "none", expect=1, edit=without_server), "no [environments.preprod.mail]")


def test_host_on_the_network_without_tls_is_refused_before_anything_else(monitor, clone):
    ended = monitor(25, "none", host="192.0.2.1", expect=1)
    assert "[environments.preprod.mail]" in ended.err and "192.0.2.1 must be encrypted" in ended.err
    assert not (clone.path / HISTORY).exists()


def test_staleness_is_handed_on_although_the_mail_is_not_sent(monitor, tmp_path):
    outputs = tmp_path / "outputs"
    ended = monitor(587, "starttls", host="smtp.invalid", expect=1, GITHUB_ACTIONS="true", GITHUB_OUTPUT=str(outputs))
    assert "model_stale=true\n" in outputs.read_text()
    assert "::error title=Failed::the model's owners were not told" in ended.out


def test_without_fail_a_mail_that_is_not_sent_is_a_warning(monitor, clone):
    unsent(clone, monitor(587, "starttls", host="smtp.invalid"), "SMTP_USERNAME is not set")


def test_nobody_to_tell(monitor):
    ended = monitor(587, "starttls", edit=lambda text: text.replace('["model-owners@example.com"]', "[]"))
    assert json.loads(ended.out)["mail"] is None and "nobody is told" in ended.err
