"""Drives the API for services as a program does that has none of its files: what there
is, it learns by reflection. Says what it saw, as one line of JSON.

    client.py ADDRESS KEY PAGE
"""

import json
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status

# Seconds after which something is wrong.
DEADLINE = 30
SERVICE = "browserfleet.browser.v1.BrowserService"


class Service:
    """A service as its descriptor has it: a method for each of its calls."""

    def __init__(self, channel, pool, name, metadata=()):
        self.channel, self.name, self.metadata = channel, name, metadata
        self.methods = pool.FindServiceByName(name).methods_by_name

    def message(self, call, **fields):
        return GetMessageClass(self.methods[call].input_type)(**fields)

    def call(self, call, request, **options):
        method = self.methods[call]
        output = GetMessageClass(method.output_type)
        kinds = {
            (False, False): self.channel.unary_unary,
            (False, True): self.channel.unary_stream,
            (True, True): self.channel.stream_stream,
        }
        kind = kinds[method.client_streaming, method.server_streaming]
        stub = kind(
            f"/{self.name}/{call}",
            request_serializer=lambda it: it.SerializeToString(),
            response_deserializer=output.FromString,
        )
        return stub(request, metadata=self.metadata, timeout=DEADLINE, **options)

    def ask(self, call, **fields):
        return self.call(call, self.message(call, **fields))


def refusal_of(ask):
    """The status and the details of a call that is refused."""
    try:
        ask()
    except grpc.RpcError as error:
        seen = {"status": error.code().name}
        status = rpc_status.from_call(error)
        for detail in status.details if status else ():
            info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            if detail.Unpack(info):
                seen["reason"] = info.reason
            elif detail.Unpack(bad):
                seen["field"] = bad.field_violations[0].field
        return seen
    return {"status": "OK"}


def services_of_version_1(channel):
    """What the newer reflection lists; its messages are those of the older one."""
    list_them = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=lambda it: it.SerializeToString(),
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(list_them(iter([question]), timeout=DEADLINE))
    return [it.name for it in answer.list_services_response.service]


def main():
    address, key, page = sys.argv[1:]
    seen = {}
    with grpc.insecure_channel(address) as channel:
        described = ProtoReflectionDescriptorDatabase(channel)
        seen["services"] = sorted(described.get_services())
        seen["services_of_version_1"] = sorted(services_of_version_1(channel))
        pool = DescriptorPool(described)

        health = Service(channel, pool, "grpc.health.v1.Health")
        serving = lambda answer: answer.DESCRIPTOR.fields_by_name["status"].enum_type.values_by_number[answer.status].name
        seen["health"] = serving(health.ask("Check", service=SERVICE))
        seen["health_of_others"] = refusal_of(lambda: health.ask("Check", service="other"))
        watched = health.ask("Watch")
        seen["health_watched"] = serving(next(watched))
        watched.cancel()

        stranger = Service(channel, pool, SERVICE)
        seen["stranger"] = refusal_of(lambda: stranger.ask("ListSessions"))

        browsers = Service(channel, pool, SERVICE, [("authorization", f"Bearer {key}")])
        session = browsers.ask("OpenSession", name="from Python", wait_ms=20_000)
        seen["opened"] = session.status
        went = browsers.ask("Perform", session_id=session.id, action={"navigate": {"url": page}})
        seen["title"] = went.outcome.navigated.title
        picture = browsers.ask("Perform", session_id=session.id, action={"screenshot": {}})
        seen["picture"] = picture.payload[1:4].decode()
        seen["refused"] = refusal_of(
            lambda: browsers.ask(
                "Perform", session_id=session.id, action={"navigate": {"url": "file:///etc/passwd"}}
            )
        )
        seen["failed"] = refusal_of(
            lambda: browsers.ask(
                "Perform", session_id=session.id, action={"execute": {"expression": "null.x"}}
            )
        )

        events = browsers.ask("WatchEvents", session_id=session.id)
        standing = json.loads(next(events).standing.payload_json)
        seen["standing"] = standing["status"]
        asked = [
            browsers.message(
                "PerformStream",
                id=str(number),
                perform={
                    "session_id": session.id,
                    "action": {"execute": {"expression": f"{number} * 2"}},
                },
            )
            for number in range(10)
        ]
        answers = browsers.call("PerformStream", iter(asked))
        values = {it.id: json.loads(it.done.outcome.evaluated.value_json) for it in answers}
        seen["values"] = [values[str(number)] for number in range(10)]
        seen["told"] = next(events).event.type
        events.cancel()

        seen["listed"] = [it.name for it in browsers.ask("ListSessions", status="live").sessions]
        seen["ended"] = browsers.ask("EndSession", session_id=session.id).status
    print(json.dumps(seen))


main()
