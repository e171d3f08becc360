"""Receivers of what rekey tells: webhooks checked by the packages standardwebhooks and cloudevents, mail taken by aiosmtpd.

Its argument is a folder for the mail server's certificate. It prints one line of JSON: the ports, the certificate, and the keys that webhooks are checked with.

  POST /hook/…            a webhook; checked if it is signed. Anything else that is posted is kept as it is
  POST /answers           a list of [status, headers] for the next requests; `null` waits until /go is posted; the last one stays if "stay" is true
  POST /go                lets those that wait go on
  GET  /received?count=n  what has come, as soon as it is so many
  GET  /mails?count=n     the same of mails
"""

import base64
import datetime
import email
import email.policy
import json
import pathlib
import socket
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from cloudevents.http import from_http
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

KEYS = ["whsec_" + base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2, 3)]
PATIENCE = 90
changed = threading.Condition()
received, mails, answers, going = [], [], [], threading.Event()
usual = [200, {}]


def verified(body, headers):
    """Which keys a message is signed with."""
    good = []
    for number, key in enumerate(KEYS):
        try:
            Webhook(key).verify(body, headers)
            good.append(number)
        except WebhookVerificationError:
            pass
    return good


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def reply(self, status, value=None, headers=None):
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        asked = urlsplit(self.path)
        count = int(parse_qs(asked.query).get("count", ["0"])[0])
        kept = mails if asked.path == "/mails" else received
        with changed:
            changed.wait_for(lambda: len(kept) >= count, PATIENCE)
            self.reply(200, kept)

    def do_POST(self):
        body = self.body()
        if self.path == "/go":
            going.set()
            return self.reply(200)
        if self.path == "/answers":
            told = json.loads(body)
            with changed:
                going.clear()
                answers[:] = told["answers"]
                usual[:] = told.get("usual", [200, {}])
            return self.reply(200)
        entry = {"path": self.path, "headers": {name.lower(): text for name, text in self.headers.items()}}
        if "webhook-id" in self.headers:
            entry["keys"] = verified(body, dict(entry["headers"]))
            event = from_http(dict(self.headers), body)
            entry["event"] = {name: event[name] for name in ("id", "type", "source", "subject", "time", "specversion")}
            entry["data"] = event.data
        else:
            entry["json"] = json.loads(body)
        with changed:
            received.append(entry)
            answer = answers.pop(0) if answers else usual
            changed.notify_all()
        if answer is None:
            going.wait(PATIENCE)
            answer = usual
        try:
            self.reply(answer[0], headers=answer[1])
        except OSError:
            pass  # Who asked was killed meanwhile.


class Mails:
    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        entry = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "tls": session.ssl is not None,
            "login": session.auth_data.login.decode() if session.auth_data else None,
            "headers": {name.lower(): str(text) for name, text in mail.items()},
            "body": mail.get_content(),
        }
        with changed:
            mails.append(entry)
            changed.notify_all()
        return "250 OK"


def log_on(server, session, envelope, mechanism, data):
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"rekey", b"Passw0rd-of-mail")
    # Not handled: the server answers with 535.
    return AuthResult(success=good, handled=good, auth_data=data if good else None)


def certificate(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "mail.pem").write_bytes(pem + private)
    return pem.decode()


def main():
    folder = pathlib.Path(sys.argv[1])
    pem = certificate(folder)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(folder / "mail.pem")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        mail_port = free.getsockname()[1]
    mail = Controller(
        Mails(),
        hostname="127.0.0.1",
        port=mail_port,
        tls_context=tls,
        require_starttls=True,
        authenticator=log_on,
        auth_required=True,
    )
    mail.start()
    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(json.dumps({"port": web.server_port, "mail_port": mail_port, "ca": pem, "key": KEYS[0], "next_key": KEYS[1]}), flush=True)
    web.serve_forever()


main()
