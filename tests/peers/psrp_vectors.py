#!/usr/bin/env python3
"""Speaks PowerShell remoting with psrpcore, so that the crate psrp is not tested against itself alone.

    psrp_vectors.py make     prints psrp/tests/data/psrpcore.json: values, described and as psrpcore writes them
    psrp_vectors.py server   is a server: reads one request as JSON per line, answers each with one line
    psrp_vectors.py client   is a client, likewise

A request is {"do": "feed", "pipeline": id or null, "data": hex of fragments} or one that the side below names. The
answer is {"data": [[pipeline, hex of fragments], ...], "events": [...]}. Values are described as `describe` does it.
"""

import datetime
import decimal
import enum
import json
import queue
import sys
import uuid

import psrpcore
import psrpcore.types as t

NUMBERS = {
    t.PSByte: "By",
    t.PSChar: "C",
    t.PSDecimal: "D",
    t.PSDouble: "Db",
    t.PSInt16: "I16",
    t.PSInt: "I32",
    t.PSInt64: "I64",
    t.PSSByte: "SB",
    t.PSSingle: "Sg",
    t.PSUInt16: "U16",
    t.PSUInt: "U32",
    t.PSUInt64: "U64",
}
TEXTS = {t.PSGuid: "G", t.PSScriptBlock: "SBK", t.PSUri: "URI", t.PSVersion: "Version", t.PSXml: "XD", t.PSString: "S"}
LISTS = {t.PSIEnumerable: "IE", t.PSStackBase: "STK", t.PSListBase: "LST"}


def describe(value):
    """A value as JSON: {"t": element, "v": text} or {"t": "Obj", ...}."""
    if isinstance(value, enum.Enum):
        return an_object(value, {"k": "primitive", "v": describe(t.PSInt(value.value))}, [], [])
    base = base_of(value)
    adapted, extended = properties(value, "adapted_properties"), properties(value, "extended_properties")
    if base and base["k"] == "primitive" and not adapted and not extended:
        return base["v"]
    return an_object(value, base, adapted, extended)


def an_object(value, base, adapted, extended):
    shown = getattr(value, "name", None) if isinstance(value, enum.Enum) else None
    is_plain = base is None or base["k"] != "primitive"
    names = [sent(name) for name in value.PSObject.type_names] if is_plain or isinstance(value, enum.Enum) else []
    if base is None:
        shown = value.PSObject.to_string
    return {"t": "Obj", "types": names, "shown": shown, "base": base, "props": adapted, "members": extended}


def sent(type_name):
    """psrpcore puts a prefix before type names that it does not know when it reads them."""
    return type_name.removeprefix("Deserialized.")


def base_of(value):
    scalar = scalar_of(value)
    if scalar:
        return {"k": "primitive", "v": scalar}
    if isinstance(value, dict):
        return {"k": "DCT", "v": [[describe(key), describe(item)] for key, item in value.items()]}
    if isinstance(value, queue.Queue):
        return {"k": "QUE", "v": [describe(item) for item in list(value.queue)]}
    for kind, name in LISTS.items():
        if isinstance(value, kind):
            return {"k": name, "v": [describe(item) for item in value]}
    return None


def scalar_of(value):
    if value is None:
        return {"t": "Nil", "v": ""}
    if isinstance(value, bool):
        return {"t": "B", "v": "true" if value else "false"}
    if isinstance(value, t.PSSecureString):
        return {"t": "SS", "v": str(value.decrypt())}
    if isinstance(value, bytes):
        return {"t": "BA", "v": value.hex()}
    if isinstance(value, datetime.datetime):
        return {"t": "DT", "v": date_time(value)}
    if isinstance(value, datetime.timedelta):
        whole = (value.days * 86400 + value.seconds) * 10_000_000 + value.microseconds * 10
        return {"t": "TS", "v": str(whole + getattr(value, "nanoseconds", 0) // 100)}
    for kind, name in NUMBERS.items():
        if type(value) is kind:
            return {"t": name, "v": str(int(value)) if isinstance(value, int) else repr_of(value)}
    for kind, name in TEXTS.items():
        if type(value) is kind:
            return {"t": name, "v": str(value)}
    if type(value) is str:
        return {"t": "S", "v": value}
    return None


def repr_of(value):
    return str(value) if isinstance(value, decimal.Decimal) else float.__repr__(value)


def date_time(value):
    fraction = f".{value.microsecond:06}{getattr(value, 'nanosecond', 0) // 100}"
    offset = value.strftime("%z")
    return value.strftime("%Y-%m-%dT%H:%M:%S") + fraction + (offset and f"{offset[:3]}:{offset[3:5]}")


def properties(value, kind):
    if value is None or not isinstance(value, t.PSObject):
        return []
    return [[prop.name, describe(prop.get_value(value))] for prop in getattr(value.PSObject, kind)]


def samples():
    """One of each type, and what is difficult about some."""
    yield from scalars()
    yield from collections()
    yield from objects()


def scalars():
    zone = datetime.timezone(datetime.timedelta(hours=-9, minutes=-30))
    yield from [None, True, False]
    yield from [t.PSByteArray(b""), t.PSByteArray(bytes(range(256)))]
    yield from [t.PSByte(255), t.PSSByte(-128), t.PSChar("\u20ac"), t.PSInt16(-32768), t.PSUInt16(65535)]
    yield from [t.PSInt(-(2**31)), t.PSUInt(2**32 - 1), t.PSInt64(-(2**63)), t.PSUInt64(2**64 - 1)]
    yield from [t.PSSingle(1.5), t.PSDouble(-1.5e300), t.PSDouble(float("inf")), t.PSDouble(float("-inf"))]
    yield t.PSDecimal("-79228162514264337593543.950335")
    yield t.PSDateTime(2026, 11, 23, 10, 20, 30)
    yield t.PSDateTime(2026, 11, 23, 10, 20, 30, 123456, nanosecond=700, tzinfo=datetime.timezone.utc)
    yield t.PSDateTime(2026, 11, 23, 10, 20, 30, 500000, tzinfo=zone)
    # Not ten seconds: psrpcore 0.3.1 writes them as one.
    yield t.PSDuration(days=1, hours=2, minutes=3, seconds=4, microseconds=500000)
    yield t.PSDuration(days=-2, seconds=-1)
    yield t.PSDuration(0)
    yield t.PSGuid("00112233-4455-6677-8899-aabbccddeeff")
    yield from [t.PSScriptBlock("{ $_ -lt 3 }"), t.PSUri("https://mail.contoso.example/owa?a=1&b=2")]
    yield from [t.PSVersion("15.2.1118.7"), t.PSXml("<a b=\"c\">d</a>")]
    for text in ["", " plain ", "\0\t\r\n\x7f\x85", "_x0041_ _X0041_ __x_", "<&>\"'", "äöü €", "\U0001f600 \U0010fffd"]:
        yield t.PSString(text)


def collections():
    shared = t.PSCustomObject(A=t.PSInt(1))
    dictionary = t.PSDict()
    dictionary[t.PSString("key \n")] = t.PSList([t.PSInt(1), None])
    dictionary[t.PSInt(2)] = t.PSString("two")
    waiting = t.PSQueue()
    waiting.put(t.PSString("first"))
    waiting.put(t.PSString("second"))
    yield from [t.PSList(), t.PSList([t.PSString("a"), t.PSList([shared, shared])])]
    yield from [t.PSStack([t.PSInt(1), t.PSInt(2)]), t.PSIEnumerable([t.PSBool(True)]), t.PSDict(), dictionary, waiting]
    with_member = t.PSList([t.PSInt(1)])
    t.add_note_property(with_member, "Count of _x0041_", t.PSInt(1))
    yield with_member


def objects():
    text = t.PSString("extended")
    t.add_note_property(text, "PSPath", t.PSString("C:\\"))
    yield from [text, t.ConsoleColor.DarkRed]
    certificate = t.PSObject()
    certificate.PSObject.type_names = ["Contoso.Certificate`1[[T]]", "System.Object"]
    certificate.PSObject.to_string = "CN=mail\n"
    certificate.PSObject.adapted_properties.append(t.PSNoteProperty("Thumbprint", t.PSString("AB")))
    certificate.PSObject.adapted_properties.append(t.PSNoteProperty("Services", t.ConsoleColor.Black))
    t.add_note_property(certificate, "PSComputerName", t.PSString("ex01"))
    yield certificate


def make():
    cipher = psrpcore._crypto.PSRemotingCrypto()
    serialize = lambda value: psrpcore._base.ElementTree.tostring(t.serialize(value, cipher), encoding="unicode")
    # A queue is empty once it is serialized, so describe first.
    vectors = [{"value": describe(value), "clixml": serialize(value)} for value in samples()]
    print(json.dumps({"written_by": f"psrpcore {version()}", "vectors": vectors}, indent=1))


def version():
    import importlib.metadata

    return importlib.metadata.version("psrpcore")


class Side:
    """What both sides have in common."""

    def answer(self, request):
        events = getattr(self, request["do"])(request) or []
        data = []
        while payload := self.pool.data_to_send(400):
            data.append([payload.pipeline_id and str(payload.pipeline_id), payload.data.hex()])
        return {"data": data, "events": events}

    def feed(self, request):
        pipeline = request["pipeline"] and uuid.UUID(request["pipeline"])
        self.expect(pipeline)
        data = bytes.fromhex(request["data"])
        self.pool.receive_data(psrpcore.PSRPPayload(data, psrpcore.StreamType.default, pipeline))
        events = []
        while event := self.pool.next_event():
            events.append({"event": type(event).__name__, **(self.happened(event) or {})})
        return events


class Server(Side):
    def __init__(self):
        self.pool = psrpcore.ServerRunspacePool()

    def expect(self, pipeline):
        if pipeline and pipeline not in self.pool.pipeline_table:
            psrpcore.ServerPipeline(self.pool, pipeline)

    def happened(self, event):
        if isinstance(event, psrpcore.InitRunspacePoolEvent):
            return {"runspaces": [event.min_runspaces, event.max_runspaces], "no_host": event.host_info.IsHostNull}
        if isinstance(event, psrpcore.CreatePipelineEvent):
            return self.created(event)
        if isinstance(event, (psrpcore.PipelineHostResponseEvent, psrpcore.RunspacePoolHostResponseEvent)):
            return {"ci": event.ci, "method": event.method_identifier.name, "error": str(event.error)}

    def created(self, event):
        shell = event.pipeline
        self.pipeline = self.pool.pipeline_table[event.pipeline_id]
        return {
            "no_input": shell.no_input,
            "add_to_history": shell.add_to_history,
            "is_nested": shell.is_nested,
            "no_host": shell.host.IsHostNull,
            "uses_host_of_pool": shell.host.UseRunspaceHost,
            "apartment": shell.apartment_state.name,
            "commands": [describe_command(command) for command in shell.commands],
        }

    def run(self, request):
        """Writes a record of each kind, and all samples, and completes."""
        self.pipeline.start()
        for value in samples():
            self.pipeline.write_output(value)
        self.pipeline.write_output(t.PSSecureString("päss 😀"))
        self.pipeline.write_debug("a debug line")
        self.pipeline.write_verbose("a verbose line")
        self.pipeline.write_warning("a warning")
        self.pipeline.write_progress("Copying", 1, "half", percent_complete=50)
        self.pipeline.write_information("information", "source")
        self.pipeline.write_error(**an_error())
        self.pipeline.complete()

    def ask(self, request):
        """Calls the host: once without and once with an answer."""
        self.pipeline.start()
        self.pipeline.host_call(t.HostMethodIdentifier.WriteLine2, ["hello"])
        self.pipeline.host_call(t.HostMethodIdentifier.ReadLine)

    def stop(self, request):
        self.pipeline.stop()

    def breaks(self, request):
        self.pool.set_broken(t.ErrorRecord(Exception=t.NETException(Message="broken"), CategoryInfo=t.ErrorCategoryInfo()))


class Client(Side):
    def __init__(self):
        self.pool = psrpcore.ClientRunspacePool()

    def expect(self, pipeline):
        pass

    def open(self, request):
        self.pool.open()

    def exchange_key(self, request):
        self.pool.exchange_key()

    def start(self, request):
        """Starts a pipeline with each sample as a parameter, and tells what it started."""
        shell = psrpcore.ClientPowerShell(self.pool)
        shell.add_command("Get-Everything").add_parameter("Switch")
        for number, value in enumerate(samples()):
            shell.add_parameter(f"P{number}", value)
        shell.add_command("Out-Null").add_argument(t.PSSecureString("päss 😀")).add_argument(None)
        # Queues are empty once they are serialized, so describe first.
        told = [describe_command(command) for command in shell.metadata.commands]
        shell.start()
        return [{"event": "started", "commands": told}]

    def happened(self, event):
        if isinstance(event, psrpcore.PipelineOutputEvent):
            return {"value": describe(event.data)}
        if isinstance(event, psrpcore.ErrorRecordEvent):
            return describe_error(event.record)
        if isinstance(event, psrpcore.PipelineStateEvent):
            return {"state": event.state.name, **(describe_error(event.reason) if event.reason else {})}
        if isinstance(event, psrpcore.RunspacePoolStateEvent):
            return {"state": event.state.name, **(describe_error(event.reason) if event.reason else {})}
        if isinstance(event, (psrpcore.DebugRecordEvent, psrpcore.VerboseRecordEvent, psrpcore.WarningRecordEvent)):
            return {"text": event.record.Message}


def an_error():
    exception = t.NETException(Message="The server EX01 has no such certificate.")
    name = "Microsoft.Exchange.Configuration.Tasks.ManagementObjectNotFoundException"
    exception.PSObject.type_names = [name, *exception.PSObject.type_names]
    category = t.ErrorCategoryInfo(
        Category=t.ErrorCategory.InvalidData,
        Activity="Get-ExchangeCertificate",
        Reason="ManagementObjectNotFoundException",
        TargetName="AB",
        TargetType="String",
    )
    return {
        "exception": exception,
        "category_info": category,
        "target_object": t.PSString("AB"),
        "fully_qualified_error_id": "[Server=EX01] 1A2B,GetExchangeCertificate",
    }


def describe_command(command):
    parameters = [[name, describe(value)] for name, value in command.parameters]
    return {"name": command.command_text, "is_script": command.is_script, "parameters": parameters}


def describe_error(record):
    return {
        "message": record.Exception.Message,
        "exception": sent(record.Exception.PSTypeNames[0]),
        "fully_qualified_error_id": record.FullyQualifiedErrorId,
        "category": record.CategoryInfo.Category.value,
        "activity": record.CategoryInfo.Activity,
        "reason": record.CategoryInfo.Reason,
        "target_name": record.CategoryInfo.TargetName,
        "target_type": record.CategoryInfo.TargetType,
        "category_message": str(record.CategoryInfo),
    }


def main():
    if sys.argv[1:] == ["make"]:
        return make()
    side = {"server": Server, "client": Client}[sys.argv[1]]()
    for line in sys.stdin:
        print(json.dumps(side.answer(json.loads(line))), flush=True)


main()
