#!/usr/bin/env python3
"""Signs in to a hybrid lab's tenant with Microsoft's own Python libraries and does with them what rekey does with its client.

    verify_cloud.py --url URL --control URL --tenant ID --client ID --certificate FILE --key FILE --ca FILE

The lab must be a fresh one, in real time. Prints one line per check; the exit code is the number of checks that failed.
"""

import argparse
import asyncio
import base64
import datetime
import functools
import hashlib
import json
import os
import pathlib
import sys
import urllib.request
import uuid

# Whatever a machine says of certificate authorities beats what a client is told here.
for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
    os.environ.pop(name, None)

import httpx
import jwt
import msal
import requests
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import CertificateCredential
from cryptography.hazmat.primitives import serialization
from kiota_abstractions.base_request_configuration import RequestConfiguration
from kiota_authentication_azure.azure_identity_authentication_provider import AzureIdentityAuthenticationProvider
from msgraph import GraphRequestAdapter, GraphServiceClient
from msgraph.generated.applications.applications_request_builder import ApplicationsRequestBuilder
from msgraph.generated.applications.item.add_key.add_key_post_request_body import AddKeyPostRequestBody
from msgraph.generated.applications.item.application_item_request_builder import ApplicationItemRequestBuilder
from msgraph.generated.applications.item.remove_key.remove_key_post_request_body import RemoveKeyPostRequestBody
from msgraph.generated.models.application import Application
from msgraph.generated.models.key_credential import KeyCredential
from msgraph.generated.models.o_data_errors.o_data_error import ODataError
from msgraph_core import GraphClientFactory

from verify_lab import Certificate, carry_out

GRAPH = "https://graph.microsoft.com/.default"
EXCHANGE = "https://outlook.office365.com/.default"
PROOF_AUDIENCE = "00000002-0000-0000-c000-000000000000"


class Cloud:
    """Where the tenant is and how to sign in."""

    def __init__(self, arguments):
        self.url, self.control, self.tenant, self.client = (
            arguments.url,
            arguments.control,
            arguments.tenant,
            arguments.client,
        )
        self.ca = arguments.ca
        self.certificate = pathlib.Path(arguments.certificate).read_text()
        self.key = pathlib.Path(arguments.key).read_text()

    def fault(self, **fault):
        request = urllib.request.Request(f"{self.control}/faults", json.dumps(fault).encode())
        urllib.request.urlopen(request).close()

    def credential(self, pem=None):
        """azure-identity: RS256, and x5t with padding."""
        return CertificateCredential(
            self.tenant,
            self.client,
            certificate_data=(pem or self.certificate + self.key).encode(),
            authority=self.url,
            disable_instance_discovery=True,
            connection_verify=self.ca,
        )

    def application(self, client_credential):
        return msal.ConfidentialClientApplication(
            self.client,
            authority=f"{self.url}/{self.tenant}",
            instance_discovery=False,
            verify=self.ca,
            client_credential=client_credential,
        )

    def graph(self):
        host = self.url.removeprefix("https://").split(":")[0]
        provider = AzureIdentityAuthenticationProvider(self.credential(), scopes=[GRAPH], allowed_hosts=[host])
        http = GraphClientFactory.create_with_default_middleware(client=httpx.AsyncClient(verify=self.ca), host=self.url)
        adapter = GraphRequestAdapter(provider, http)
        adapter.base_url = f"{self.url}/v1.0"
        return GraphServiceClient(request_adapter=adapter)

    def invoke(self, cmdlet, **parameters):
        token = self.credential().get_token(EXCHANGE).token
        return requests.post(
            f"{self.url}/adminapi/beta/{self.tenant}/InvokeCommand",
            json={"CmdletInput": {"CmdletName": cmdlet, "Parameters": parameters}},
            headers={"Authorization": f"Bearer {token}"},
            verify=self.ca,
        )


def thumbprint(pem):
    der = base64.b64decode("".join(pem.strip().splitlines()[1:-1]))
    return hashlib.sha1(der).hexdigest().upper()


def claims(token):
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def msal_signs_in_by_thumbprint(cloud):
    """RS256, x5t with padding, times with fractions."""
    application = cloud.application({"thumbprint": thumbprint(cloud.certificate), "private_key": cloud.key})
    got = application.acquire_token_for_client([GRAPH])
    assert claims(got["access_token"])["roles"] == ["Application.ReadWrite.OwnedBy", "Policy.Read.All"], got


def msal_signs_in_by_certificate(cloud):
    """PS256, x5t#S256 and the certificate itself."""
    application = cloud.application({"public_certificate": cloud.certificate, "private_key": cloud.key})
    got = application.acquire_token_for_client([EXCHANGE])
    told = claims(got["access_token"])
    assert told["roles"] == ["Exchange.ManageAsApp"] and told["tid"] == cloud.tenant, told


def msal_is_told_why_not(cloud):
    application = cloud.application({"thumbprint": "0" * 40, "private_key": cloud.key})
    got = application.acquire_token_for_client([GRAPH])
    assert got["error"] == "invalid_client" and got["error_codes"] == [700027], got


def azure_identity_signs_in(cloud):
    token = cloud.credential().get_token(GRAPH)
    left = token.expires_on - datetime.datetime.now(datetime.timezone.utc).timestamp()
    assert 3000 < left < 4000, left


def azure_identity_is_told_why_not(cloud):
    made = Certificate()
    pem = made.certificate.public_bytes(serialization.Encoding.PEM) + made.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        cloud.credential(pem.decode()).get_token(GRAPH)
    except ClientAuthenticationError as error:
        assert "AADSTS700027" in str(error), str(error)
        return
    raise AssertionError("it was let in")


async def find(graph, start):
    parameters = ApplicationsRequestBuilder.ApplicationsRequestBuilderGetQueryParameters(
        filter=f"startswith(displayName,'{start}')"
    )
    found = await graph.applications.get(request_configuration=RequestConfiguration(query_parameters=parameters))
    assert len(found.value) == 1, found.value
    return found.value[0]


async def keys(graph, application):
    parameters = ApplicationItemRequestBuilder.ApplicationItemRequestBuilderGetQueryParameters(
        select=["id", "appId", "keyCredentials"]
    )
    configuration = RequestConfiguration(query_parameters=parameters)
    read = await graph.applications.by_application_id(application.id).get(request_configuration=configuration)
    return read.key_credentials


def new_key():
    der = Certificate().certificate.public_bytes(serialization.Encoding.DER)
    return KeyCredential(type="AsymmetricX509Cert", usage="Verify", key=der, display_name="by msgraph-sdk")


async def msgraph_lists_and_reads(cloud):
    graph = cloud.graph()
    application = await find(graph, "ExchangeServerApp-")
    assert all(key.key is None for key in application.key_credentials), application.key_credentials
    read = await keys(graph, application)
    assert len(read) == 2 and all(key.key for key in read), read


async def msgraph_adds_a_key_beside_the_others_and_takes_it_away(cloud):
    graph = cloud.graph()
    application = await find(graph, "ExchangeServerApp-")
    one = graph.applications.by_application_id(application.id)
    before = application.key_credentials
    await one.patch(Application(key_credentials=[*before, new_key()]))
    after = await keys(graph, application)
    assert [key.key_id for key in after[:2]] == [key.key_id for key in before], after
    assert len(after) == 3 and after[2].display_name == "by msgraph-sdk", after
    await one.patch(Application(key_credentials=before))
    assert len(await keys(graph, application)) == 2


async def msgraph_is_told_that_a_key_may_not_change(cloud):
    graph = cloud.graph()
    application = await find(graph, "ExchangeServerApp-")
    changed = application.key_credentials
    changed[0].display_name = "changed"
    try:
        await graph.applications.by_application_id(application.id).patch(Application(key_credentials=changed))
    except ODataError as error:
        assert error.response_status_code == 400, error
        assert "Update to existing credential with KeyId" in error.error.message, error
        return
    raise AssertionError("it was taken")


async def msgraph_waits_as_it_is_told(cloud):
    cloud.fault(kind="cloud", service="graph", **{"do": {"throttle": 1}})
    await find(cloud.graph(), "ExchangeServerApp-")


def proof(cloud, object_id):
    now = datetime.datetime.now(datetime.timezone.utc)
    x5t = base64.urlsafe_b64encode(bytes.fromhex(thumbprint(cloud.certificate))).rstrip(b"=").decode()
    told = {"aud": PROOF_AUDIENCE, "iss": object_id, "nbf": now, "exp": now + datetime.timedelta(minutes=10)}
    return jwt.encode(told, cloud.key, algorithm="RS256", headers={"x5t": x5t})


async def msgraph_rolls_a_key_with_a_proof(cloud):
    graph = cloud.graph()
    application = await find(graph, "rekey")
    one = graph.applications.by_application_id(application.id)
    token = proof(cloud, application.id)
    added = await one.add_key.post(AddKeyPostRequestBody(key_credential=new_key(), proof=token))
    assert isinstance(added.key_id, uuid.UUID), added
    assert len(await keys(graph, application)) == 2
    await one.remove_key.post(RemoveKeyPostRequestBody(key_id=added.key_id, proof=token))
    assert len(await keys(graph, application)) == 1
    try:
        await one.add_key.post(AddKeyPostRequestBody(key_credential=new_key(), proof=token + "="))
    except ODataError as error:
        assert error.error.code == "Authentication_MissingOrMalformed", error
        return
    raise AssertionError("it was taken")


def exchange_online_takes_its_token(cloud):
    answer = cloud.invoke("Get-OrganizationRelationship")
    assert answer.status_code == 200, answer.text
    assert answer.json()["value"][0]["DomainNames"] == ["contoso.example"], answer.text
    assert answer.headers["Rate-Limit-Limit"] == "30000", answer.headers


def exchange_online_tells_what_went_wrong(cloud):
    answer = cloud.invoke("Get-OrganizationRelationship", Identity="nobody")
    _, kind, _ = answer.json()["error"]["details"][0]["message"].split("|")
    assert kind.endswith(".ManagementObjectNotFoundException"), answer.text


CHECKS = [
    msal_signs_in_by_thumbprint,
    msal_signs_in_by_certificate,
    msal_is_told_why_not,
    azure_identity_signs_in,
    azure_identity_is_told_why_not,
    msgraph_lists_and_reads,
    msgraph_adds_a_key_beside_the_others_and_takes_it_away,
    msgraph_is_told_that_a_key_may_not_change,
    msgraph_waits_as_it_is_told,
    msgraph_rolls_a_key_with_a_proof,
    exchange_online_takes_its_token,
    exchange_online_tells_what_went_wrong,
]


def check(function, cloud):
    outcome = function(cloud)
    if asyncio.iscoroutine(outcome):
        asyncio.run(outcome)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--url", "--control", "--tenant", "--client", "--certificate", "--key", "--ca"):
        parser.add_argument(name, required=True)
    cloud = Cloud(parser.parse_args())
    # Everything is seen at once: how long it takes is for other tests.
    cloud.fault(kind="tenant_lag", replica_seconds=0, cache_seconds=0, write_gap_seconds=0)
    return carry_out([(one.__name__.replace("_", " "), functools.partial(check, one, cloud)) for one in CHECKS])


if __name__ == "__main__":
    sys.exit(main())
