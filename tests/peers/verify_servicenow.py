#!/usr/bin/env python3
"""Works with the lab's ServiceNow through pysnc, ServiceNow's own client.

Reads the password of the integration from one line of input.
"""

import argparse
import functools
import os
import sys
import uuid

import requests
from pysnc import ServiceNowClient
from pysnc.auth import ServiceNowClientCredentialsFlow
from pysnc.exceptions import AuthenticationException

from verify_lab import carry_out


class Instance:
    def __init__(self, arguments, password):
        self.url, self.control, self.user, self.ca = arguments.url, arguments.control, arguments.user, arguments.ca
        self.password = password
        # Whoever checks the same instance again finds only their own changes.
        self.mark = uuid.uuid4().hex
        self.made = []
        # The flow for client credentials asks for its token without the session's trust.
        os.environ["REQUESTS_CA_BUNDLE"] = self.ca

    def client(self):
        return ServiceNowClient(self.url, (self.user, self.password), verify=self.ca)

    def act(self, **what):
        answer = requests.post(f"{self.control}/tickets/servicenow", json=what)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def fault(self, **what):
        answer = requests.post(f"{self.control}/faults", json=what)
        assert answer.status_code == 204, answer.text

    def change(self, **fields):
        change = self.act(do="create", fields={"short_description": "A change", **fields})
        self.made.append(change["number"])
        return change

    def clean_up(self):
        """Calls off what was made: nobody may delete a change."""
        for number in self.made:
            self.act(do="cancel", ticket=number)


def read(instance, sys_id):
    record = instance.client().GlideRecord("change_request")
    assert record.get(sys_id), sys_id
    return record


def inserts_and_gets(instance):
    record = instance.client().GlideRecord("change_request")
    record.initialize()
    record.short_description = "Made by pysnc"
    record.type = "normal"
    sys_id = record.insert()
    found = instance.client().GlideRecord("change_request")
    assert found.get("number", record.get_value("number")), record.number
    instance.made.append(found.get_value("number"))
    assert found.get_value("sys_id") == sys_id and found.get_value("state") == "-5", found.serialize()
    assert found.get_display_value("state") == "New" and found.get_display_value("approval") == "Not Yet Requested"
    assert not instance.client().GlideRecord("change_request").get("0" * 32)


def queries(instance):
    numbers = [instance.change(u_organization=instance.mark, risk=risk)["number"] for risk in ("1", "2", "3")]
    record = instance.client().GlideRecord("change_request", batch_size=2)
    record.add_query("u_organization", instance.mark)
    record.add_query("risk", "IN", "1,3")
    record.order_by_desc("number")
    record.query()
    assert record.get_row_count() == 2
    assert [one.get_value("number") for one in record] == [numbers[2], numbers[0]]
    every = instance.client().GlideRecord("change_request", batch_size=2)
    every.add_encoded_query(f"u_organization={instance.mark}^numberSTARTSWITHCHG")
    every.query()
    assert sorted(one.get_value("number") for one in every) == numbers


def updates(instance):
    change = instance.change()
    record = read(instance, change["sys_id"])
    record.correlation_id = "one"
    assert record.update() == change["sys_id"]
    again = read(instance, change["sys_id"])
    assert again.get_value("correlation_id") == "one" and again.get_value("sys_mod_count") == "1", again.serialize()


def journals_read_back_empty(instance):
    change = instance.change()
    record = read(instance, change["sys_id"])
    record.work_notes = "Looked at it"
    record.update()
    assert not read(instance, change["sys_id"]).get_value("work_notes")
    journal = instance.client().GlideRecord("sys_journal_field")
    journal.add_query("element_id", change["sys_id"])
    journal.query()
    assert [one.get_value("value") for one in journal] == ["Looked at it"]


def wrong_states_are_aborted_and_nobody_is_told(instance):
    change = instance.change()
    record = read(instance, change["sys_id"])
    record.state = "-1"
    record.update()
    assert read(instance, change["sys_id"]).get_value("state") == "-5"


def people_approve(instance):
    change = instance.change()
    record = read(instance, change["sys_id"])
    record.state = "-4"
    record.update()
    instance.act(do="approve", ticket=change["number"])
    approvals = instance.client().GlideRecord("sysapproval_approver")
    approvals.add_query("sysapproval", change["sys_id"])
    approvals.add_query("state", "requested")
    approvals.query()
    assert approvals.get_row_count() == 2
    names = sorted(one.get_display_value("approver") for one in approvals)
    assert names == ["Dave of the CAB", "Erin of the CAB"], names
    instance.act(do="approve", ticket=change["number"], by="dave")
    assert read(instance, change["sys_id"]).get_value("approval") == "requested"
    instance.act(do="approve", ticket=change["number"], by="erin")
    done = read(instance, change["sys_id"])
    assert (done.get_value("state"), done.get_value("approval")) == ("-2", "approved"), done.serialize()


def attaches(instance):
    change = instance.change()
    record = read(instance, change["sys_id"])
    record.add_attachment("plan.json", b'{"steps": []}', "application/json")
    files = record.get_attachments()
    names = [(str(one.file_name), one.read()) for one in files]
    assert names == [("plan.json", b'{"steps": []}')], names


def waits_as_it_is_told(instance):
    change = instance.change()
    instance.fault(kind="ticket", system="servicenow", **{"do": {"throttle": 1}})
    assert read(instance, change["sys_id"]).get_value("number") == change["number"]


def signs_in_with_client_credentials(instance):
    flow = ServiceNowClientCredentialsFlow(instance.user, instance.password)
    record = ServiceNowClient(instance.url, flow, verify=instance.ca).GlideRecord("change_request")
    record.query()


def is_told_that_it_may_not_come_in(instance):
    client = ServiceNowClient(instance.url, (instance.user, "wrong"), verify=instance.ca)
    try:
        client.GlideRecord("change_request").query()
    except AuthenticationException:
        return
    raise AssertionError("it was let in")


CHECKS = [
    inserts_and_gets,
    queries,
    updates,
    journals_read_back_empty,
    wrong_states_are_aborted_and_nobody_is_told,
    people_approve,
    attaches,
    waits_as_it_is_told,
    signs_in_with_client_credentials,
    is_told_that_it_may_not_come_in,
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--url", "--control", "--user", "--ca"):
        parser.add_argument(name, required=True)
    instance = Instance(parser.parse_args(), sys.stdin.readline().strip())
    try:
        return carry_out([(one.__name__.replace("_", " "), functools.partial(one, instance)) for one in CHECKS])
    finally:
        instance.clean_up()


if __name__ == "__main__":
    sys.exit(main())
