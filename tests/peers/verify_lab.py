#!/usr/bin/env python3
"""Drives a lab with pypsrp, a PowerShell-remoting client by others, and reads its answers with the cryptography package.

    verify_lab.py --url URL --windows-url URL --control URL --user USER --ca FILE < PASSWORD

The lab must be a fresh one: Contoso as it is by default, with every server up. Prints one line per check; the exit code
is the number of checks that failed.
"""

import argparse
import base64
import datetime
import functools
import hashlib
import json
import ssl
import sys
import threading
import traceback
import urllib.parse
import urllib.request
import warnings
import xml.etree.ElementTree as ElementTree

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from pypsrp.complex_objects import ObjectMeta, PSInvocationState
from pypsrp.exceptions import AuthenticationError
from pypsrp.powershell import PowerShell, RunspacePool
from pypsrp.wsman import WSMan

warnings.simplefilter("ignore")

NAME = "Microsoft Exchange Server Auth Certificate"
PFX_PASSWORD = "open sesame, Über"
EX01, EX02, EX03 = (f"ex0{n}.contoso.example" for n in (1, 2, 3))


class Lab:
    """Where the lab is and how to get in."""

    def __init__(self, arguments, password):
        self.arguments = arguments
        self.password = password

    def pool(self, url, configuration, password=None):
        place = urllib.parse.urlsplit(url)
        wsman = WSMan(
            place.hostname,
            port=place.port,
            path=place.path.strip("/"),
            ssl=place.scheme == "https",
            auth="basic",
            username=self.arguments.user,
            password=password or self.password,
            cert_validation=self.arguments.ca,
        )
        return RunspacePool(wsman, configuration_name=configuration)

    def exchange(self, password=None):
        return self.pool(self.arguments.url, "Microsoft.Exchange", password)

    def fault(self, **fault):
        request = urllib.request.Request(f"{self.arguments.control}/faults", json.dumps(fault).encode())
        urllib.request.urlopen(request).close()

    def heal(self):
        request = urllib.request.Request(f"{self.arguments.control}/faults", method="DELETE")
        urllib.request.urlopen(request).close()

    def windows(self):
        return self.pool(self.arguments.windows_url, "Microsoft.PowerShell")


class Result:
    """What a command wrote and how it ended."""

    def __init__(self, shell, output):
        self.output = output
        self.errors = shell.streams.error
        self.state = shell.state

    def one(self):
        assert not self.errors, [str(error) for error in self.errors]
        assert len(self.output) == 1, self.output
        return self.output[0]

    def error(self):
        assert len(self.errors) == 1, (self.output, self.errors)
        return self.errors[0]


def run(pool, name, *switches, **parameters):
    shell = PowerShell(pool).add_cmdlet(name)
    for switch in switches:
        shell.add_parameter(switch)
    for key, value in parameters.items():
        shell.add_parameter(key, value)
    output = shell.invoke()
    result = Result(shell, output)
    shell.close()
    return result


def secret(pool, text):
    pool.exchange_keys()
    return pool.serialize(text, ObjectMeta("SS"))


def date(when):
    element = ElementTree.Element("DT")
    element.text = when.strftime("%Y-%m-%dT%H:%M:%S.0000000Z")
    return element


def thumbprint(der):
    return hashlib.sha1(der).hexdigest().upper()


class Certificate:
    """An Auth certificate as Exchange makes them."""

    def __init__(self):
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.certificate = self.issue(NAME)
        self.thumbprint = thumbprint(self.certificate.public_bytes(serialization.Encoding.DER))

    def issue(self, common_name):
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
        now = datetime.datetime.now(datetime.timezone.utc)
        usage = dict.fromkeys(
            "content_commitment data_encipherment key_agreement key_cert_sign crl_sign encipher_only decipher_only".split(),
            False,
        )
        return (
            x509.CertificateBuilder(name, name, self.key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1826))
            .add_extension(x509.KeyUsage(digital_signature=True, key_encipherment=True, **usage), True)
            .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), False)
            .sign(self.key, hashes.SHA256())
        )

    def pfx(self, encryption, others=()):
        return pkcs12.serialize_key_and_certificates(b"key", self.key, self.certificate, others, encryption)

    def long_pfx(self):
        """More than 200 kB, and so several fragments and several requests."""
        other = Certificate()
        filler = [other.issue(f"Filler {n} " + "x" * 40) for n in range(10)]
        file = self.pfx(modern(), [other.issue(f"Filler {n} " + "x" * 40) for n in range(10)])
        alone = len(self.pfx(modern()))
        wanted = 1 + (200_000 - alone) * len(filler) // (len(file) - alone)
        return self.pfx(modern(), [other.issue(f"Filler {n} " + "x" * 40) for n in range(wanted + 5)])


def modern():
    builder = serialization.PrivateFormat.PKCS12.encryption_builder()
    builder = builder.key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC).kdf_rounds(2000)
    return builder.hmac_hash(hashes.SHA256()).build(PFX_PASSWORD.encode())


def legacy():
    builder = serialization.PrivateFormat.PKCS12.encryption_builder()
    builder = builder.key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC).kdf_rounds(2000)
    return builder.hmac_hash(hashes.SHA1()).build(PFX_PASSWORD.encode())


def import_pfx(pool, server, file, password=PFX_PASSWORD):
    return run(
        pool,
        "Import-ExchangeCertificate",
        Server=server,
        FileData=file,
        Password=secret(pool, password),
        PrivateKeyExportable=True,
    )


def reads_auth_config(lab):
    with lab.exchange() as pool:
        config = run(pool, "Get-AuthConfig").one()
    told = config.adapted_properties
    assert len(told["CurrentCertificateThumbprint"]) == 40, told
    assert told["NextCertificateThumbprint"] == "", told
    assert told["NextCertificateEffectiveDate"] is None, told
    assert told["OriginatingServer"] == "dc01.contoso.example", told
    assert str(config) == "Auth Configuration", str(config)


def reads_certificates_of_another_server(lab):
    with lab.exchange() as pool:
        current = run(pool, "Get-AuthConfig").one().adapted_properties["CurrentCertificateThumbprint"]
        found = run(pool, "Get-ExchangeCertificate", Server=EX03, Thumbprint=current).one()
    assert list(found.adapted_properties) == ["RawData"], found.adapted_properties
    der = found.adapted_properties["RawData"]
    assert thumbprint(der) == current
    assert x509.load_der_x509_certificate(der).subject.rfc4514_string() == f"CN={NAME}"
    assert found.extended_properties["PSComputerName"] == EX01, found.extended_properties


def lists_servers(lab):
    with lab.exchange() as pool:
        result = run(pool, "Get-ExchangeServer", "Status")
    assert not result.errors
    told = [server.adapted_properties for server in result.output]
    assert [server["Fqdn"] for server in told] == [EX01, EX02, EX03], told
    assert str(told[0]["AdminDisplayVersion"]) == "Version 15.1 (Build 2507.61)", told[0]
    assert str(told[2]["Site"]).endswith("/Berlin"), told[2]
    assert told[2]["CurrentConfigDomainController"] == "dc02.contoso.example", told[2]


def tells_a_missing_certificate_by_its_reason(lab):
    with lab.exchange() as pool:
        result = run(pool, "Get-ExchangeCertificate", Server=EX02, Thumbprint="0" * 40)
    error = result.error()
    assert result.state == PSInvocationState.COMPLETED, result.state
    assert error.reason == "InvalidOperationException", error.reason
    assert error.fq_error.endswith(".GetExchangeCertificate"), error.fq_error


def refuses_a_wrong_password(lab):
    with lab.exchange() as pool:
        result = import_pfx(pool, EX02, Certificate().pfx(modern()), "wrong")
    error = result.error()
    text = "The source data cannot be imported or the wrong password was specified."
    assert str(error).endswith(text), str(error)
    assert error.category == 22, error.category
    assert error.fq_error.endswith(".ImportExchangeCertificate"), error.fq_error
    assert result.state == PSInvocationState.COMPLETED, result.state


def imports_a_long_pfx_once(lab):
    made = Certificate()
    file = made.long_pfx()
    assert len(file) > 200_000, len(file)
    with lab.exchange() as pool:
        imported = import_pfx(pool, EX02, file).one()
        assert thumbprint(imported.adapted_properties["RawData"]) == made.thumbprint
        assert "already exists" in str(import_pfx(pool, EX02, file).error())
        found = run(pool, "Get-ExchangeCertificate", Server=EX02, Thumbprint=made.thumbprint).one()
    assert thumbprint(found.adapted_properties["RawData"]) == made.thumbprint


def windows_2016_reads_only_old_encryption(lab):
    made = Certificate()
    with lab.exchange() as pool:
        assert import_pfx(pool, EX01, made.pfx(modern())).error().category == 22
        import_pfx(pool, EX01, made.pfx(legacy())).one()


def exports_what_was_imported(lab):
    made = Certificate()
    with lab.exchange() as pool:
        import_pfx(pool, EX03, made.pfx(modern())).one()
        parameters = {"Server": EX03, "Thumbprint": made.thumbprint, "Password": secret(pool, "another")}
        file = run(pool, "Export-ExchangeCertificate", "BinaryEncoded", **parameters).one()
    key, certificate, _ = pkcs12.load_key_and_certificates(file.adapted_properties["FileData"], b"another")
    assert certificate == made.certificate
    assert key.private_numbers() == made.key.private_numbers()


def cuts_the_connection_after_the_work_is_done(lab):
    made = Certificate()
    lab.fault(kind="lose_reply", cmdlet="Import-ExchangeCertificate", server="EX03")
    pool = lab.exchange()
    pool.open()
    try:
        import_pfx(pool, EX03, made.pfx(modern()))
    except requests.exceptions.ConnectionError:
        pass
    else:
        raise AssertionError("the reply was not lost")
    with lab.exchange() as pool:
        assert "already exists" in str(import_pfx(pool, EX03, made.pfx(modern())).error())


def cuts_off_whoever_waits_when_the_server_goes_down(lab):
    pool = lab.windows()
    pool.open()
    shell = PowerShell(pool).add_cmdlet("Start-Sleep").add_parameter("Seconds", 3600)
    shell.begin_invoke()
    # Whether it happens before the client waits or while it does, it is cut off.
    down = threading.Thread(target=lab.fault, kwargs={"kind": "power", "server": "EX01", "power": "down"})
    down.start()
    try:
        shell.end_invoke()
    except requests.exceptions.ConnectionError:
        pass
    else:
        raise AssertionError("the connection was not cut")
    finally:
        down.join()
        lab.heal()
    with lab.windows() as pool:
        run(pool, "Get-Date").one()


def stages_publishes_and_clears(lab):
    made = Certificate()
    when = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) + datetime.timedelta(hours=50)
    with lab.exchange() as pool:
        old = run(pool, "Get-AuthConfig").one().adapted_properties["CurrentCertificateThumbprint"]
        for server in (EX01, EX02, EX03):
            import_pfx(pool, server, made.pfx(legacy())).one()
        parameters = {"NewCertificateThumbprint": made.thumbprint, "NewCertificateEffectiveDate": date(when)}
        assert not run(pool, "Set-AuthConfig", **parameters).errors
        told = run(pool, "Get-AuthConfig").one().adapted_properties
        assert told["NextCertificateThumbprint"] == made.thumbprint, told
        prompted = run(pool, "Set-AuthConfig", "PublishCertificate").error()
        assert prompted.reason == "HostException", prompted.reason
        assert not run(pool, "Set-AuthConfig", "PublishCertificate", "Force").errors
        told = run(pool, "Get-AuthConfig").one().adapted_properties
        assert told["CurrentCertificateThumbprint"] == made.thumbprint, told
        assert told["PreviousCertificateThumbprint"] == old, told
        assert not run(pool, "Set-AuthConfig", "ClearPreviousCertificate", "Force").errors
        told = run(pool, "Get-AuthConfig").one().adapted_properties
        assert told["PreviousCertificateThumbprint"] == "", told


def runs_no_script_where_there_is_no_language(lab):
    with lab.exchange() as pool:
        shell = PowerShell(pool).add_script("1 + 1")
        output = shell.invoke()
        assert not output and shell.streams.error, output
        assert shell.state == PSInvocationState.FAILED, shell.state
        shell.close()
        run(pool, "Get-AuthConfig").one()


def knows_no_unknown_cmdlet_or_parameter(lab):
    with lab.exchange() as pool:
        result = run(pool, "Get-Mailbox")
        assert result.error().fq_error == "CommandNotFoundException", result.error().fq_error
        assert result.state == PSInvocationState.FAILED, result.state
        result = run(pool, "Get-AuthConfig", Identity="x")
        assert result.error().fq_error.startswith("NamedParameterNotFound"), result.error().fq_error


def shows_processes_and_the_clock(lab):
    with lab.windows() as pool:
        result = run(pool, "Get-CimInstance", ClassName="Win32_Process", Filter="Name = 'w3wp.exe'")
        lines = [process.adapted_properties["CommandLine"] for process in result.output]
        assert any('-ap "MSExchangeOWAAppPool"' in line for line in lines), lines
        system = run(pool, "Get-CimInstance", ClassName="Win32_OperatingSystem").one().adapted_properties
        assert system["Version"] == "10.0.14393", system


def restarts_what_it_is_told_to(lab):
    with lab.windows() as pool:
        assert not run(pool, "Restart-Service", Name="MSExchangeServiceHost").errors
        assert not run(pool, "Restart-WebAppPool", Name="MSExchangeOWAAppPool").errors
        missing = run(pool, "Restart-Service", Name="Nothing").error()
        assert missing.fq_error.startswith("NoServiceFoundForGivenName,"), missing.fq_error


def waits_for_what_takes_long(lab):
    with lab.windows() as pool:
        result = run(pool, "Start-Sleep", Milliseconds=700)
    assert result.state == PSInvocationState.COMPLETED and not result.errors, result.state


def stops_what_takes_too_long(lab):
    with lab.windows() as pool:
        shell = PowerShell(pool).add_cmdlet("Start-Sleep").add_parameter("Seconds", 3600)
        shell.begin_invoke()
        shell.stop()
        assert shell.state == PSInvocationState.STOPPED, shell.state
        shell.close()
        run(pool, "Get-Date").one()


def serves_two_pools_at_once(lab):
    with lab.exchange() as one, lab.exchange() as two:
        run(one, "Get-AuthConfig").one()
        run(two, "Get-AuthConfig").one()
        run(one, "Get-OrganizationConfig").one()


def lets_nobody_in_without_the_password(lab):
    try:
        with lab.exchange("wrong"):
            pass
    except AuthenticationError:
        return
    raise AssertionError("a wrong password was taken")


def publishes_its_metadata(lab):
    url = urllib.parse.urljoin(lab.arguments.url, "/autodiscover/metadata/json/1")
    context = ssl.create_default_context(cafile=lab.arguments.ca)
    with urllib.request.urlopen(url, context=context) as answer:
        document = json.load(answer)
    for key in document["keys"]:
        der = base64.b64decode(key["keyvalue"]["value"])
        x5t = base64.urlsafe_b64encode(hashlib.sha1(der).digest()).rstrip(b"=").decode()
        assert key["keyinfo"]["x5t"] == x5t, key
    assert document["keys"], document


CHECKS = [
    reads_auth_config,
    reads_certificates_of_another_server,
    lists_servers,
    tells_a_missing_certificate_by_its_reason,
    refuses_a_wrong_password,
    imports_a_long_pfx_once,
    windows_2016_reads_only_old_encryption,
    exports_what_was_imported,
    runs_no_script_where_there_is_no_language,
    knows_no_unknown_cmdlet_or_parameter,
    shows_processes_and_the_clock,
    restarts_what_it_is_told_to,
    waits_for_what_takes_long,
    stops_what_takes_too_long,
    serves_two_pools_at_once,
    lets_nobody_in_without_the_password,
    publishes_its_metadata,
    cuts_the_connection_after_the_work_is_done,
    cuts_off_whoever_waits_when_the_server_goes_down,
    stages_publishes_and_clears,
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--url", "--windows-url", "--control", "--user", "--ca"):
        parser.add_argument(name, required=True)
    lab = Lab(parser.parse_args(), sys.stdin.readline().rstrip("\n"))
    return carry_out([(check.__name__.replace("_", " "), functools.partial(check, lab)) for check in CHECKS])


def carry_out(checks):
    """Prints one line per check; tells how many failed."""
    failed = 0
    for name, check in checks:
        try:
            check()
            print(f"ok    {name}", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL  {name}\n{traceback.format_exc()}", flush=True)
    print(f"{len(checks) - failed} of {len(checks)} checks passed")
    return failed


if __name__ == "__main__":
    sys.exit(main())
