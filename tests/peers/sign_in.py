#!/usr/bin/env python3
"""Signs in to a tenant with Microsoft's own libraries.

Reads one line of JSON: {"how": "msal|msal-x5c|azure-identity", "authority": URL
without tenant, "tenant", "client_id", "certificate": PEM file, "key": PEM file,
"ca": PEM file, "scope"}.  Succeeds when a token was issued, else says why.
"""

import json
import sys
import tempfile

import msal
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import CertificateCredential
from cryptography import x509
from cryptography.hazmat.primitives import hashes


def with_msal(given: dict[str, str], certificate: str, key: str) -> None:
    credential = {"private_key": key, "thumbprint": x509.load_pem_x509_certificate(certificate.encode()).fingerprint(hashes.SHA1()).hex()}
    if given["how"] == "msal-x5c":
        credential = {"private_key": key, "public_certificate": certificate}
    application = msal.ConfidentialClientApplication(
        given["client_id"], authority=f"{given['authority']}/{given['tenant']}", instance_discovery=False, verify=given["ca"],
        client_credential=credential)
    answer = application.acquire_token_for_client([given["scope"]])
    if "access_token" not in answer:
        sys.exit(answer.get("error_description", "no token"))


def with_azure_identity(given: dict[str, str], certificate: str, key: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as both:
        both.write(key + certificate)
        both.flush()
        credential = CertificateCredential(
            given["tenant"], given["client_id"], certificate_path=both.name, authority=given["authority"], disable_instance_discovery=True,
            connection_verify=given["ca"])
        try:
            credential.get_token(given["scope"])
        except ClientAuthenticationError as error:
            sys.exit(str(error))


def main() -> None:
    given = json.loads(sys.stdin.readline())
    with open(given["certificate"], encoding="ascii") as file:
        certificate = file.read()
    with open(given["key"], encoding="ascii") as file:
        key = file.read()
    (with_azure_identity if given["how"] == "azure-identity" else with_msal)(given, certificate, key)
    print("signed in")


if __name__ == "__main__":
    main()
