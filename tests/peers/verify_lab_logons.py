#!/usr/bin/env python3
"""Logs on to a lab with pypsrp in every way that both know, and does some work on each.

    verify_lab_logons.py --https URL --http URL --windows-http URL --user USER@DOMAIN --ca FILE [--only-bound] < PASSWORD

With KRB5_CONFIG in the environment Kerberos is among the ways, with a ticket of USER. --only-bound checks a lab that
demands channel bindings. Prints one line per check; the exit code is the number of checks that failed.
"""

import argparse
import functools
import os
import sys
import threading
import urllib.parse

from cryptography.hazmat.primitives.serialization import pkcs12
from pypsrp.complex_objects import PSInvocationState
from pypsrp.exceptions import AuthenticationError, WSManFaultError
from pypsrp.powershell import PowerShell, RunspacePool
from pypsrp.wsman import WSMan

from verify_lab import EX01, EX03, Certificate, carry_out, import_pfx, modern, run, secret

ACCESS_DENIED = 5


class Ways:
    """Where the lab is, and how one may come in."""

    def __init__(self, arguments, password):
        self.arguments = arguments
        self.password = password

    def pool(self, url, auth, configuration="Microsoft.Exchange", **more):
        place = urllib.parse.urlsplit(url)
        options = {"username": self.arguments.user, "password": self.password} | more
        # The service of a Kerberos ticket is named as Exchange registers it.
        wsman = WSMan(
            "localhost",
            port=place.port,
            path=place.path.strip("/"),
            ssl=place.scheme == "https",
            auth=auth,
            negotiate_service="HTTP",
            cert_validation=self.arguments.ca,
            **options,
        )
        return RunspacePool(wsman, configuration_name=configuration)

    def all(self):
        schemes = ["ntlm", "negotiate"] + (["kerberos"] if "KRB5_CONFIG" in os.environ else [])
        yield "basic inside TLS", functools.partial(self.pool, self.arguments.https, "basic")
        for scheme in schemes:
            yield f"{scheme} inside TLS", functools.partial(self.pool, self.arguments.https, scheme)
            sealed = functools.partial(self.pool, self.arguments.https, scheme, encryption="always")
            yield f"{scheme} inside TLS, sealed", sealed
            yield f"{scheme} over HTTP, sealed", functools.partial(self.pool, self.arguments.http, scheme)


def works(make, file=lambda made: made.pfx(modern())):
    """Reads, writes with a secret, and reads back."""
    made = Certificate()
    with make() as pool:
        assert len(run(pool, "Get-AuthConfig").one().adapted_properties["CurrentCertificateThumbprint"]) == 40
        import_pfx(pool, EX03, file(made)).one()
        parameters = {"Server": EX03, "Thumbprint": made.thumbprint, "Password": secret(pool, "another")}
        back = run(pool, "Export-ExchangeCertificate", "BinaryEncoded", **parameters).one()
        missing = run(pool, "Get-ExchangeCertificate", Server=EX01, Thumbprint="0" * 40).error()
        assert missing.reason == "InvalidOperationException", missing.reason
    key, _, _ = pkcs12.load_key_and_certificates(back.adapted_properties["FileData"], b"another")
    assert key.private_numbers() == made.key.private_numbers()


def takes_a_long_file(make):
    works(make, Certificate.long_pfx)


def takes_it_in_small_envelopes(make):
    works(functools.partial(make, max_envelope_size=153_600), Certificate.long_pfx)


def stops(ways):
    with ways.pool(ways.arguments.windows_http, "ntlm", "Microsoft.PowerShell") as pool:
        shell = PowerShell(pool).add_cmdlet("Start-Sleep").add_parameter("Seconds", 3600)
        shell.begin_invoke()
        shell.stop()
        assert shell.state == PSInvocationState.STOPPED, shell.state
        shell.close()
        run(pool, "Get-Date").one()


def waits_in_several_polls(ways):
    url = ways.arguments.windows_http
    with ways.pool(url, "negotiate", "Microsoft.PowerShell", operation_timeout=1) as pool:
        result = run(pool, "Start-Sleep", Milliseconds=2500)
    assert result.state == PSInvocationState.COMPLETED and not result.errors, result.state


def serves_six_at_once(ways):
    failed = []
    makes = [make for _, make in ways.all()]

    def read(make):
        try:
            with make() as pool:
                for _ in range(3):
                    run(pool, "Get-AuthConfig").one()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=read, args=(makes[number % len(makes)],)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


def knows_the_account_by_its_other_name(ways):
    user, domain = ways.arguments.user.split("@")
    with ways.pool(ways.arguments.http, "ntlm", username=f"{domain}\\{user}") as pool:
        run(pool, "Get-AuthConfig").one()


def refused(make):
    try:
        with make():
            pass
    except AuthenticationError:
        return
    raise AssertionError("it was let in")


def lets_nobody_in_without_the_password(ways):
    for url in (ways.arguments.https, ways.arguments.http):
        for scheme in ("ntlm", "negotiate"):
            refused(functools.partial(ways.pool, url, scheme, password="wrong"))
            refused(functools.partial(ways.pool, url, scheme, username="alice@contoso.example"))


def takes_nothing_unsealed_over_http(ways):
    try:
        with ways.pool(ways.arguments.http, "ntlm", encryption="never"):
            pass
    except WSManFaultError as fault:
        assert fault.code == ACCESS_DENIED, fault.code
        return
    raise AssertionError("it was taken")


def lets_in_who_names_the_channel(ways):
    for scheme in ("ntlm", "negotiate"):
        with ways.pool(ways.arguments.https, scheme) as pool:
            run(pool, "Get-AuthConfig").one()


def lets_nobody_in_who_does_not(ways):
    for scheme in ("ntlm", "negotiate"):
        refused(functools.partial(ways.pool, ways.arguments.https, scheme, negotiate_send_cbt=False))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--https", "--http", "--windows-http", "--user", "--ca"):
        parser.add_argument(name, required=True)
    parser.add_argument("--only-bound", action="store_true")
    ways = Ways(parser.parse_args(), sys.stdin.readline().rstrip("\n"))
    if ways.arguments.only_bound:
        checks = [lets_in_who_names_the_channel, lets_nobody_in_who_does_not]
        return carry_out([(check.__name__.replace("_", " "), functools.partial(check, ways)) for check in checks])
    each = [
        (f"{name}: {check.__name__.replace('_', ' ')}", functools.partial(check, make))
        for name, make in ways.all()
        for check in (works, takes_a_long_file, takes_it_in_small_envelopes)
    ]
    checks = [
        stops,
        waits_in_several_polls,
        serves_six_at_once,
        knows_the_account_by_its_other_name,
        lets_nobody_in_without_the_password,
        takes_nothing_unsealed_over_http,
    ]
    return carry_out(each + [(check.__name__.replace("_", " "), functools.partial(check, ways)) for check in checks])


if __name__ == "__main__":
    sys.exit(main())
