#!/usr/bin/env python3
"""The other side of the comparison: pypsrp does what it is told, line by line, and says what that took.

Reads JSON lines: {"connect": {...}} tells where; {"files": FOLDER} makes the files to import; {"import": FILE} opens a
pool, imports the file and closes the pool; {"open": true} opens a pool, {"calls": N} runs Get-AuthConfig N times on it,
{"close": true} closes it. Each line is answered by {"wall_ms": ..., "cpu_ms": ...}.
"""

import json
import os
import secrets
import sys
import time
import urllib.parse
import warnings

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from pypsrp.complex_objects import ObjectMeta
from pypsrp.powershell import PowerShell, RunspacePool
from pypsrp.wsman import WSMan

import datetime

warnings.simplefilter("ignore")

PASSWORD = "open sesame"


def certificate(key, name, filler=0):
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1826))
    )
    if filler:
        value = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), secrets.token_bytes(filler))
        builder = builder.add_extension(value, False)
    return builder.sign(key, hashes.SHA256())


def make_files(folder, count):
    """As many files of 4 kB and of 200 kB, each with a certificate of its own."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    long = [certificate(key, f"Filler {n}", 19_000) for n in range(10)]
    encryption = serialization.PrivateFormat.PKCS12.encryption_builder()
    encryption = encryption.key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC).kdf_rounds(2000)
    encryption = encryption.hmac_hash(hashes.SHA256()).build(PASSWORD.encode())
    for number in range(count):
        for size, more in (("4k", [certificate(key, "Filler", 700)]), ("200k", long)):
            made = certificate(key, "Microsoft Exchange Server Auth Certificate")
            file = pkcs12.serialize_key_and_certificates(b"auth", key, made, more, encryption)
            with open(os.path.join(folder, f"{size}-{number}.pfx"), "wb") as out:
                out.write(file)


class Client:
    def connect(self, to):
        self.to = to
        self.held = None

    def pool(self):
        place = urllib.parse.urlsplit(self.to["url"])
        wsman = WSMan(
            place.hostname,
            port=place.port,
            path=place.path.strip("/"),
            ssl=place.scheme == "https",
            auth=self.to["authentication"],
            username=self.to["username"],
            password=self.to["password"],
            cert_validation=self.to["ca"],
        )
        pool = RunspacePool(wsman, configuration_name="Microsoft.Exchange")
        pool.open()
        return pool

    def open(self):
        self.held = self.pool()

    def close(self):
        self.held.close()

    def calls(self, count):
        for _ in range(count):
            run(self.held, "Get-AuthConfig")

    def import_file(self, file):
        with open(file, "rb") as opened:
            data = opened.read()
        pool = self.pool()
        pool.exchange_keys()
        password = pool.serialize(PASSWORD, ObjectMeta("SS"))
        run(pool, "Import-ExchangeCertificate", Server=self.to["server"], FileData=data, Password=password)
        pool.close()


def run(pool, name, **parameters):
    shell = PowerShell(pool).add_cmdlet(name)
    for key, value in parameters.items():
        shell.add_parameter(key, value)
    output = shell.invoke()
    assert output and not shell.streams.error, [str(error) for error in shell.streams.error]
    shell.close()


def main():
    client = Client()
    acts = {
        "connect": client.connect,
        "files": lambda what: make_files(**what),
        "open": lambda _: client.open(),
        "calls": client.calls,
        "close": lambda _: client.close(),
        "import": client.import_file,
    }
    for line in sys.stdin:
        ((act, what),) = json.loads(line).items()
        wall, cpu = time.perf_counter(), time.process_time()
        acts[act](what)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({"wall_ms": wall * 1000, "cpu_ms": cpu * 1000}), flush=True)


if __name__ == "__main__":
    main()
