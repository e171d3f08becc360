#!/usr/bin/env python3
"""A toy tenant: Entra's token endpoint, Microsoft Graph and Exchange Online.

An independent peer for testing clients, written from documented shapes only
(the repository's notes on the cloud, sections 1 and 2) and sharing no code
with the product or its lab.  Signatures of client assertions are checked by
PyJWT, certificates by `cryptography`.

HTTPS (certificates below --work-dir, any host name of --name):
  POST /{tenant}/oauth2/v2.0/token     client credentials with an assertion
  GET  /{tenant}/v2.0/.well-known/openid-configuration
  GET  /v1.0/applications[/{id}], /v1.0/servicePrincipals[/{id}]
  PATCH the same with an id            replaces keyCredentials
  GET  /v1.0/policies/defaultAppManagementPolicy
  GET  /v1.0/applications/{id}/appManagementPolicies
  POST /adminapi/beta/{tenant}/InvokeCommand

Admin port (plain HTTP, loopback, JSON):
  POST /clients    {"client_id": .., "certificates": [PEM ..]}
  POST /objects    {"kind": "applications", "object": {..}, "certificates": [PEM ..]}
  POST /keys       {"kind": .., "id": .., "certificate": PEM}: somebody else adds a key
  POST /policies   {"default": {..}, "own": [..]}
  POST /cmdlets    {"name": .., "pages": [[..], ..], "extra": {..}}
  POST /region     {"host": .., "port": ..}: requests elsewhere get a 302
  POST /stale      {"reads": n}: the next n reads of a single object are old ones
  POST /rival      {"certificate": PEM}: added by somebody else with the next PATCH
  POST /lifetime   {"seconds": n}: how long tokens stand
  POST /faults     {"on": "token|graph|online", "method": .., "skip": 0, "count": 1,
                    "status": .., "headers": {..}, "body": ..., "do": "drop|drop_after"}
                   a body that is no string is sent as JSON; "{assertion}" in it is
                   replaced by the assertion of the request
  GET  /requests   what was asked, without secrets
"""

from __future__ import annotations

import argparse
import base64
import binascii
import datetime as dt
import hashlib
import ipaddress
import json
import pathlib
import re
import secrets
import ssl
import threading
import time
import typing as t
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SCOPES = {"https://graph.microsoft.com/.default": "graph", "https://outlook.office365.com/.default": "online"}
SKEW = 300


def der_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def loose_base64url(text: str) -> bytes:
    """With or without padding: clients send both."""
    text = text.rstrip("=")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def stamp(when: dt.datetime) -> str:
    return when.astimezone(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Refusal(Exception):
    """An answer other than success."""

    def __init__(self, status: int, body: t.Any, headers: t.Optional[dict[str, str]] = None) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers or {}


def aadsts(code: int, text: str, error: str = "invalid_client", status: int = 401) -> Refusal:
    now = dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
    trace, correlation = str(uuid.uuid4()), str(uuid.uuid4())
    described = f"AADSTS{code}: {text}\r\nTrace ID: {trace}\r\nCorrelation ID: {correlation}\r\nTimestamp: {now}"
    return Refusal(status, {
        "error": error, "error_description": described, "error_codes": [code], "timestamp": now,
        "trace_id": trace, "correlation_id": correlation, "error_uri": f"https://login.microsoftonline.com/error?code={code}",
    })


def graph_error(status: int, code: str, message: str, headers: t.Optional[dict[str, str]] = None) -> Refusal:
    inner = {"date": stamp(dt.datetime.now(dt.timezone.utc)), "request-id": str(uuid.uuid4()), "client-request-id": str(uuid.uuid4())}
    return Refusal(status, {"error": {"code": code, "message": message, "innerError": inner}}, headers)


class Tenant:
    def __init__(self, base: str) -> None:
        self.base = base
        self.lock = threading.Lock()
        self.clients: dict[str, list[x509.Certificate]] = {}
        self.objects: dict[str, dict[str, dict[str, t.Any]]] = {"applications": {}, "servicePrincipals": {}}
        self.history: dict[str, list[list[dict[str, t.Any]]]] = {}
        self.default_policy: dict[str, t.Any] = {"id": str(uuid.UUID(int=0)), "isEnabled": False}
        self.own_policies: list[dict[str, t.Any]] = []
        self.cmdlets: dict[str, dict[str, t.Any]] = {}
        self.region: t.Optional[dict[str, t.Any]] = None
        self.stale = 0
        self.rival: t.Optional[x509.Certificate] = None
        self.lifetime = 3599
        self.tokens: dict[str, tuple[str, float]] = {}
        self.faults: list[dict[str, t.Any]] = []
        self.requests: list[dict[str, t.Any]] = []

    # -- Entra ------------------------------------------------------------------------------------------------------

    def token(self, tenant: str, form: dict[str, str]) -> dict[str, t.Any]:
        if not re.fullmatch(r"[0-9a-fA-F-]{36}", tenant) or uuid.UUID(tenant).int == 0:
            raise aadsts(90002, f"Tenant '{tenant}' not found.", "invalid_request", 400)
        client = form.get("client_id", "")
        if client not in self.clients:
            raise aadsts(700016, f"Application with identifier '{client}' was not found in the directory.", "unauthorized_client", 400)
        if form.get("grant_type") != "client_credentials" or form.get("client_assertion_type") != JWT_BEARER:
            raise aadsts(7000215, "Invalid client secret provided.")
        self.check_assertion(tenant, client, form.get("client_assertion", ""))
        kind = SCOPES.get(form.get("scope", ""))
        if kind is None:
            raise aadsts(70011, f"The provided value for the input parameter 'scope' is not valid: {form.get('scope')}", "invalid_scope", 400)
        token = "eyJ0eXAiOiJKV1QifQ." + secrets.token_urlsafe(24) + "." + secrets.token_urlsafe(24)
        self.tokens[token] = (kind, time.time() + self.lifetime)
        return {"token_type": "Bearer", "expires_in": self.lifetime, "ext_expires_in": self.lifetime, "access_token": token}

    def check_assertion(self, tenant: str, client: str, assertion: str) -> None:
        try:
            header = jwt.get_unverified_header(assertion)
        except jwt.PyJWTError as error:
            raise aadsts(50027, f"JWT token is invalid or malformed: {assertion}", "invalid_request", 400) from error
        certificate = self.certificate_of(client, header)
        if certificate is None:
            raise aadsts(700027, "The certificate with identifier used to sign the client assertion is not registered on application. "
                                 f"[Reason - The key was not found.] Assertion: '{assertion}'")
        if certificate.not_valid_after_utc < dt.datetime.now(dt.timezone.utc):
            thumbprint = certificate.fingerprint(hashes.SHA1()).hex().upper()
            raise aadsts(700027, "Client assertion contains an invalid signature. [Reason - The key used is expired., Thumbprint of key used by "
                                 f"client: '{thumbprint}', Found key 'Start={certificate.not_valid_before_utc}, End={certificate.not_valid_after_utc}']")
        audiences = [f"{self.base}/{tenant}/oauth2/v2.0/token", f"{self.base}/{tenant}/v2.0"]
        try:
            claims = jwt.decode(assertion, certificate.public_key(), algorithms=["PS256", "RS256"], audience=audiences,
                                leeway=SKEW, options={"require": ["exp", "iss", "sub", "jti"]})
        except (jwt.ExpiredSignatureError, jwt.ImmatureSignatureError) as error:
            raise aadsts(700024, "Client assertion is not within its valid time range.") from error
        except jwt.InvalidSignatureError as error:
            raise aadsts(700027, "Client assertion contains an invalid signature.") from error
        except jwt.PyJWTError as error:
            raise aadsts(50027, f"JWT token is invalid or malformed: {error}", "invalid_request", 400) from error
        if claims["iss"] != client or claims["sub"] != client:
            raise aadsts(50027, "iss and sub must be the client id", "invalid_request", 400)
        if claims["exp"] - time.time() > 600 + SKEW:
            raise aadsts(700024, "Client assertion is not within its valid time range.")

    def certificate_of(self, client: str, header: dict[str, t.Any]) -> t.Optional[x509.Certificate]:
        for certificate in self.clients[client]:
            for name, algorithm in (("x5t#S256", hashes.SHA256()), ("x5t", hashes.SHA1())):
                if name in header and loose_base64url(header[name]) == certificate.fingerprint(algorithm):
                    return certificate
        return None

    def authorize(self, kind: str, header: t.Optional[str]) -> None:
        token = (header or "").removeprefix("Bearer ")
        held = self.tokens.get(token)
        if held is None or held[0] != kind or held[1] < time.time():
            if kind == "graph":
                raise graph_error(401, "InvalidAuthenticationToken", "Access token has expired or is not yet valid.")
            raise Refusal(401, "", {"WWW-Authenticate": 'Bearer error="invalid_token"'})

    # -- Graph ------------------------------------------------------------------------------------------------------

    def entry(self, certificate: x509.Certificate, sent: t.Optional[dict[str, t.Any]] = None) -> dict[str, t.Any]:
        sent = sent or {}
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        for name in ("startDateTime", "endDateTime"):
            if sent.get(name):
                when = dt.datetime.fromisoformat(sent[name].replace("Z", "+00:00"))
                if not begins <= when <= ends:
                    raise graph_error(400, "KeyCredentialsInvalidEndDate", "Key credential end date is invalid.")
        return {
            "customKeyIdentifier": sent.get("customKeyIdentifier") or certificate.fingerprint(hashes.SHA1()).hex().upper(),
            "displayName": sent.get("displayName") or "CN=x", "endDateTime": sent.get("endDateTime") or stamp(ends),
            "key": base64.b64encode(der_of(certificate)).decode(), "keyId": sent.get("keyId") or str(uuid.uuid4()),
            "startDateTime": sent.get("startDateTime") or stamp(begins), "type": "AsymmetricX509Cert", "usage": "Verify",
        }

    def find(self, kind: str, identity: str) -> dict[str, t.Any]:
        found = self.objects[kind].get(identity)
        if found is None:
            raise graph_error(404, "Request_ResourceNotFound", f"Resource '{identity}' does not exist or one of its queried reference-property "
                                                               "objects are not present.")
        return found

    def shown(self, kind: str, found: dict[str, t.Any], select: t.Optional[str], single: bool) -> dict[str, t.Any]:
        keys = found["keyCredentials"]
        if single and self.stale and self.history.get(found["id"]):
            self.stale -= 1
            keys = self.history[found["id"]][-1]
        with_key = single and select is not None and "keyCredentials" in select.split(",")
        whole = {**found, "keyCredentials": [{**key, "key": key["key"] if with_key else None} for key in keys]}
        if select is None:
            return whole
        return {name: whole[name] for name in select.split(",") if name in whole}

    def list(self, kind: str, query: dict[str, str]) -> dict[str, t.Any]:
        match = re.fullmatch(r"(displayName|appId) eq '((?:[^']|'')*)'", query.get("$filter", ""))
        if match is None:
            raise graph_error(400, "Request_UnsupportedQuery", "Unsupported filter")
        wanted = match[2].replace("''", "'")
        found = [one for one in self.objects[kind].values() if one[match[1]] == wanted]
        return {"@odata.context": f"{self.base}/v1.0/$metadata#{kind}",
                "value": [self.shown(kind, one, query.get("$select"), False) for one in found]}

    def patch(self, kind: str, identity: str, body: dict[str, t.Any]) -> None:
        found = self.find(kind, identity)
        sent = body.get("keyCredentials")
        if not isinstance(sent, list) or set(body) - {"keyCredentials", "@odata.type"}:
            raise graph_error(400, "Request_BadRequest", "keyCredentials must be a collection.")
        held = {key["keyId"].lower(): key for key in found["keyCredentials"]}
        keys = [self.accepted(kind, one, held) for one in sent]
        if len({key["keyId"].lower() for key in keys}) != len(keys):
            raise graph_error(400, "Request_BadRequest", "Duplicate keyId.")
        if self.rival is not None:
            keys.append(self.entry(self.rival))
            self.rival = None
        self.history.setdefault(found["id"], []).append(found["keyCredentials"])
        found["keyCredentials"] = keys

    def accepted(self, kind: str, sent: dict[str, t.Any], held: dict[str, dict[str, t.Any]]) -> dict[str, t.Any]:
        if sent.get("type") != "AsymmetricX509Cert" or sent.get("usage") not in ("Verify", "Sign"):
            raise graph_error(400, "Request_BadRequest", "Invalid value specified for property 'usage' of resource 'KeyCredential'.")
        if len(sent.get("displayName") or "") > 90:
            raise graph_error(400, "Request_BadRequest", "displayName is too long.")
        old = held.get((sent.get("keyId") or "").lower())
        if kind == "servicePrincipals" and old is not None:
            raise graph_error(400, "Request_BadRequest", "One or more properties contains invalid values.")
        if old is not None:
            if any(name not in old or old[name] != value for name, value in sent.items() if name != "@odata.type"):
                raise graph_error(400, "KeyNotUpdatable", f"Update to existing credential with KeyId '{sent['keyId']}' is not allowed.")
            return old
        try:
            certificate = x509.load_der_x509_certificate(base64.b64decode(sent.get("key") or "", validate=True))
        except (ValueError, binascii.Error) as error:
            raise graph_error(400, "Request_BadRequest", "Key value is invalid certificate.") from error
        return self.entry(certificate, sent)

    # -- Exchange Online --------------------------------------------------------------------------------------------

    def invoke(self, path: str, query: dict[str, str], headers: t.Any, body: t.Any) -> dict[str, t.Any]:
        cmdlet = body.get("CmdletInput", {}) if isinstance(body, dict) else {}
        known = self.cmdlets.get(cmdlet.get("CmdletName", ""))
        if not headers.get("X-AnchorMailbox") or not isinstance(cmdlet.get("Parameters"), dict):
            raise Refusal(400, {"error": {"code": "BadRequest", "message": "X-AnchorMailbox or CmdletInput is missing"}})
        if known is None:
            raise Refusal(403, b"\0" * 16, {"Content-Encoding": "gzip", "request-id": str(uuid.uuid4())})
        number = int(query.get("$skiptoken", "0"))
        host = headers.get("Host")
        page = {"@odata.context": f"https://{host}/adminapi/beta/$metadata#Collection(Exchange.GenericHashTable)",
                "adminapi.warnings@odata.type": "#Collection(String)", "@adminapi.warnings": [],
                "value": known["pages"][number], **known.get("extra", {})}
        if number + 1 < len(known["pages"]):
            page["@odata.nextLink"] = f"https://{host}{path}?$skiptoken={number + 1}"
        return page


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    tenant: t.ClassVar[Tenant]

    def log_message(self, format: str, *args: t.Any) -> None:
        pass

    def answer(self, status: int, body: t.Any, headers: t.Optional[dict[str, str]] = None) -> None:
        raw = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        given = {"Content-Type": "application/json", "Content-Length": str(len(raw)), **(headers or {})}
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def drop(self) -> None:
        self.close_connection = True
        self.connection.close()

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def handle_one(self) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), {k: v[0] for k, v in parse_qs(url.query).items()}
        raw, tenant = self.body(), self.tenant
        kind = "token" if path.endswith("/token") else "graph" if path.startswith("/v1.0/") else "online"
        with tenant.lock:
            tenant.requests.append({"on": kind, "method": self.command, "host": self.headers.get("Host"), "path": path, "query": query,
                                    "authorized": "Authorization" in self.headers, "cookie": self.headers.get("Cookie"),
                                    "body": json.loads(raw) if kind != "token" and raw else None, "at": time.time()})
            fault = self.fault(kind)
            if fault is not None and fault.get("do") == "drop":
                return self.drop()
            if fault is not None and "status" in fault:
                return self.answer(fault["status"], self.filled(fault.get("body", ""), raw), fault.get("headers"))
            try:
                status, body, headers = self.route(kind, path, query, raw)
            except Refusal as refusal:
                status, body, headers = refusal.status, refusal.body, refusal.headers
        if fault is not None and fault.get("do") == "drop_after":
            return self.drop()
        return self.answer(status, body, headers)

    do_GET = do_POST = do_PATCH = handle_one

    def fault(self, kind: str) -> t.Optional[dict[str, t.Any]]:
        for fault in self.tenant.faults:
            if fault["on"] != kind or fault.get("method", self.command) != self.command:
                continue
            if fault.get("skip", 0) > 0:
                fault["skip"] -= 1
                continue
            if fault.get("count", 1) > 0:
                fault["count"] = fault.get("count", 1) - 1
                return fault
        return None

    @staticmethod
    def filled(body: t.Any, raw: bytes) -> str:
        text = body if isinstance(body, str) else json.dumps(body)
        assertion = parse_qs(raw.decode("latin-1")).get("client_assertion", [""])[0]
        return text.replace("{assertion}", assertion).replace("{nul}", "\0" * 12)

    def route(self, kind: str, path: str, query: dict[str, str], raw: bytes) -> tuple[int, t.Any, dict[str, str]]:
        tenant = self.tenant
        if path.endswith("/v2.0/.well-known/openid-configuration"):
            name = path.split("/")[1]
            return 200, {"issuer": f"{tenant.base}/{name}/v2.0", "token_endpoint": f"{tenant.base}/{name}/oauth2/v2.0/token",
                         "authorization_endpoint": f"{tenant.base}/{name}/oauth2/v2.0/authorize"}, {}
        if kind == "token":
            form = {name: values[0] for name, values in parse_qs(raw.decode()).items()}
            return 200, tenant.token(path.split("/")[1], form), {}
        if kind == "graph":
            tenant.authorize("graph", self.headers.get("Authorization"))
            return self.graph(path.split("/")[2:], query, raw)
        return self.online(path, query, raw)

    def graph(self, parts: list[str], query: dict[str, str], raw: bytes) -> tuple[int, t.Any, dict[str, str]]:
        tenant = self.tenant
        if parts == ["policies", "defaultAppManagementPolicy"]:
            return 200, tenant.default_policy, {}
        if len(parts) == 3 and parts[2] == "appManagementPolicies":
            return 200, {"value": tenant.own_policies}, {}
        if parts[0] not in tenant.objects or len(parts) > 2:
            raise graph_error(400, "BadRequest", "Resource not found for the segment.")
        if self.command == "PATCH":
            tenant.patch(parts[0], parts[1], json.loads(raw))
            return 204, "", {}
        if len(parts) == 1:
            return 200, tenant.list(parts[0], query), {}
        return 200, tenant.shown(parts[0], tenant.find(parts[0], parts[1]), query.get("$select"), True), {}

    def online(self, path: str, query: dict[str, str], raw: bytes) -> tuple[int, t.Any, dict[str, str]]:
        tenant = self.tenant
        if not re.fullmatch(r"/adminapi/beta/[^/]+/InvokeCommand", path) or self.command != "POST":
            raise Refusal(405, {"error": {"code": "MethodNotAllowed", "message": "The requested resource does not support this method."}})
        region = tenant.region
        if region is not None and self.headers.get("Host", "").split(":")[0] != region["host"]:
            port = f":{region['port']}" if region.get("port") else ""
            return 302, "", {"Location": f"https://{region['host']}{port}{self.path}", "Set-Cookie": "exchangecookie=abc; path=/; secure; HttpOnly"}
        if region is not None and self.headers.get("Cookie") != region.get("cookie", "exchangecookie=abc"):
            raise Refusal(400, {"error": {"code": "BadRequest", "message": "the cookie was lost"}})
        tenant.authorize("online", self.headers.get("Authorization"))
        return 200, tenant.invoke(path, query, self.headers, json.loads(raw)), {"request-id": str(uuid.uuid4()), "Rate-Limit-Limit": "30000"}


class Admin(Handler):
    def handle_one(self) -> None:
        raw, tenant = self.body(), self.tenant
        given = json.loads(raw) if raw else {}
        with tenant.lock:
            if self.path == "/requests":
                return self.answer(200, tenant.requests)
            if self.path == "/clients":
                tenant.clients[given["client_id"]] = [x509.load_pem_x509_certificate(pem.encode()) for pem in given["certificates"]]
            elif self.path == "/objects":
                keys = [tenant.entry(x509.load_pem_x509_certificate(pem.encode())) for pem in given.get("certificates", [])]
                for key in keys[:1]:
                    if given.get("base64"):
                        key["customKeyIdentifier"] = base64.b64encode(hashlib.sha1(base64.b64decode(key["key"])).digest()).decode()
                tenant.objects[given["kind"]][given["object"]["id"]] = {**given["object"], "keyCredentials": keys}
            elif self.path == "/policies":
                tenant.default_policy, tenant.own_policies = given["default"], given["own"]
            elif self.path == "/cmdlets":
                tenant.cmdlets[given["name"]] = given
            elif self.path == "/region":
                tenant.region = given or None
            elif self.path == "/stale":
                tenant.stale = given["reads"]
            elif self.path == "/rival":
                tenant.rival = x509.load_pem_x509_certificate(given["certificate"].encode())
            elif self.path == "/lifetime":
                tenant.lifetime = given["seconds"]
            elif self.path == "/tokens":
                tenant.tokens.clear()
            elif self.path == "/faults":
                tenant.faults.append(given)
            else:
                return self.answer(404, {})
        return self.answer(200, {})

    do_GET = do_POST = handle_one


def make_certificates(folder: pathlib.Path, names: list[str]) -> None:
    now = dt.datetime.now(dt.timezone.utc)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cloud peer CA")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cloud peer")])

    def builder(subject: x509.Name, public: t.Any) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(ca_name).public_key(public)
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(days=1))
        return made.not_valid_after(now + dt.timedelta(days=30))

    ca = builder(ca_name, ca_key.public_key()).add_extension(x509.BasicConstraints(True, None), True)
    ca = ca.add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), False)
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    signed_ca = ca.add_extension(usage, True).sign(ca_key, hashes.SHA256())
    alternatives: list[x509.GeneralName] = [x509.DNSName(one) for one in names]
    alternatives.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    served = builder(name, key.public_key()).add_extension(x509.SubjectAlternativeName(alternatives), False)
    served = served.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False)
    signed = served.sign(ca_key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(signed_ca.public_bytes(pem))
    (folder / "server.pem").write_bytes(signed.public_bytes(pem))
    encoded = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.key").write_bytes(encoded)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", required=True, help="where certificates are made")
    parser.add_argument("--name", action="append", default=[], help="host name in the certificate, besides localhost")
    options = parser.parse_args()
    folder = pathlib.Path(options.work_dir)
    make_certificates(folder, ["localhost", *options.name])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    admin = ThreadingHTTPServer(("127.0.0.1", 0), Admin)
    port = server.server_address[1]
    Handler.tenant = Tenant(f"https://localhost:{port}")
    threading.Thread(target=admin.serve_forever, daemon=True).start()
    ready = {"ready": True, "https_port": port, "admin_port": admin.server_address[1], "work_dir": str(folder)}
    print(json.dumps(ready), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
