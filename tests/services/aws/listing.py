"""Listings of machines and of their status: lag, omissions, pages, filters.

What a listing says of a machine is what moto says, made once for each state that the
machine is shown in, since making it costs two milliseconds. Any other call that
changes something throws all of it away.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, UTC
from fnmatch import fnmatchcase
from types import SimpleNamespace
from typing import Any
from collections.abc import Callable, Iterator

from moto.core.responses import ActionResult
from moto.core.serialize import XFormedAttributePicker, get_serializer_class
from moto.core.utils import get_service_model
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.responses._base_response import EC2BaseResponse
from moto.ec2.responses.instances import InstanceResponse
from moto.ec2.utils import (
    EC2_PREFIX_TO_RESOURCE,
    filter_dict_attribute_mapping,
    get_prefix,
    passes_filter_dict,
)

from cloud import Cloud, Machine
from life import CODES
from refusal import REQUEST_ID, Refusal

NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
XML = {"Content-Type": "text/xml;charset=UTF-8"}
# Machines on a page where the caller does not say, and what a caller may say.
PAGE = 100
PAGE_RANGE = (5, 1000)
INSTANCE_ID = re.compile(r"i-([0-9a-f]{8}|[0-9a-f]{17})")
# Filters of ours beside those that moto has.
FILTERS: dict[str, Callable[[Machine], str]] = {
    "client-token": lambda it: it.client_token or "",
    "instance-lifecycle": lambda it: it.instance.lifecycle or "",
    "launch-time": lambda it: it.instance.launch_time.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
}


def install(cloud: Cloud) -> None:
    def get_tags(self: Any) -> list[dict[str, str]]:
        # moto looks at every tag of the account for each.
        tags = self.ec2_backend.tags.get(self.id, {})
        kind = EC2_PREFIX_TO_RESOURCE.get(get_prefix(self.id), "") if tags else ""
        return [
            {"resource_id": self.id, "key": key, "value": value, "resource_type": kind}
            for key, value in tags.items()
        ]

    def describe_instances(self: Any) -> Any:
        self.error_on_dryrun()
        found, token = _page(self, cloud, _filtered)
        items = "".join(reservation(cloud, it) for it in found)
        more = f"<nextToken>{token}</nextToken>" if token else ""
        return (
            200,
            dict(XML),
            (
                f'<?xml version="1.0" encoding="UTF-8"?><DescribeInstancesResponse xmlns="{NAMESPACE}">'
                f"<requestId>{REQUEST_ID}</requestId><reservationSet>{items}</reservationSet>{more}"
                "</DescribeInstancesResponse>"
            ),
        )

    def describe_instance_status(self: Any) -> Any:
        self.error_on_dryrun()
        found, token = _page(self, cloud, _filtered_status)
        return ActionResult(
            {"InstanceStatuses": [_status(cloud, it) for it in found], "NextToken": token}
        )

    TaggedEC2Resource.get_tags = get_tags
    InstanceResponse.describe_instances = describe_instances
    InstanceResponse.describe_instance_status = describe_instance_status


def reservation(cloud: Cloud, machine: Machine) -> str:
    """One machine as a listing says it, with the launch that it belongs to."""
    turn = machine.life.at(cloud.shown_at(machine))
    key = (turn.state, turn.reason.code, turn.at)
    if machine.fragment is None or machine.fragment[0] != key:
        machine.fragment = (key, _serialized(cloud, machine))
    return machine.fragment[1]


def instance(cloud: Cloud, machine: Machine) -> str:
    """The machine alone."""
    return reservation(cloud, machine).split("<instancesSet>")[1].split("</instancesSet>")[0]


def _serialized(cloud: Cloud, machine: Machine) -> str:
    operation = get_service_model("ec2").operation_model("DescribeInstances")
    serializer = get_serializer_class("ec2", "ec2")(
        operation_model=operation,
        pretty_print=False,
        value_picker=XFormedAttributePicker(
            response_transformers=EC2BaseResponse.RESPONSE_KEY_PATH_TO_TRANSFORMER
        ),
    )
    wrapped = SimpleNamespace(
        id=_reservation_id(machine), owner_id=cloud.account, groups=[], instances=[machine.instance]
    )
    # `Reservation` is the name that moto takes the id's alias from.
    wrapped.reservation_id = wrapped.id
    text = serializer.serialize({"Reservations": [wrapped]})["body"]
    start = text.index("<reservationSet>") + len("<reservationSet>")
    return text[start : text.rindex("</reservationSet>")]


def _reservation_id(machine: Machine) -> str:
    return f"r-{machine.id[2:]}"


# -- pages and filters -----------------------------------------------------------------


def _asked(response: Any) -> dict[str, list[str]]:
    return response._filters_from_querystring()


def _page(
    response: Any, cloud: Cloud, passing: Callable[..., Iterator[Machine]]
) -> tuple[list[Machine], str | None]:
    ids = response._get_param("InstanceIds", [])
    size = response._get_param("MaxResults")
    if ids and size is not None:
        raise Refusal(
            "InvalidParameterCombination",
            "The parameter instancesSet cannot be used with the parameter maxResults",
        )
    if size is not None and not PAGE_RANGE[0] <= int(size) <= PAGE_RANGE[1]:
        raise Refusal(
            "InvalidParameterValue", f"Value ( {size} ) for parameter maxResults is invalid."
        )
    candidates = (
        _named(cloud, ids) if ids else [it for it in cloud.machines.values() if cloud.visible(it)]
    )
    found = list(passing(response, cloud, candidates))
    if ids:
        return found, None
    places = {it: place for place, it in enumerate(cloud.machines)}
    number, last = 1, -1
    if token := response._get_param("NextToken"):
        match = re.fullmatch(r"p(\d+)-(i-[0-9a-f]+)", token)
        if match is None or match[2] not in places:
            raise Refusal("InvalidNextToken", "The token is not valid.")
        number, last = int(match[1]), places[match[2]]
    rest = [it for it in found if places[it.id] > last]
    page = rest[: int(size or PAGE)]
    return page, f"p{number + 1}-{page[-1].id}" if len(rest) > len(page) else None


def _named(cloud: Cloud, ids: list[str]) -> list[Machine]:
    for it in ids:
        if not INSTANCE_ID.fullmatch(it):
            raise Refusal("InvalidInstanceID.Malformed", f'Invalid id: "{it}"')
    absent = [it for it in ids if it not in cloud.machines or not cloud.visible(cloud.machines[it])]
    if absent:
        what = f"ID '{absent[0]}' does" if len(absent) == 1 else f"IDs '{', '.join(absent)}' do"
        raise Refusal("InvalidInstanceID.NotFound", f"The instance {what} not exist")
    return [cloud.machines[it] for it in dict.fromkeys(ids)]


def _filtered(response: Any, cloud: Cloud, machines: list[Machine]) -> Iterator[Machine]:
    asked = _asked(response)
    for name in asked:
        known = name in filter_dict_attribute_mapping or name in FILTERS
        if not known and not name.startswith("tag:") and name != "tag-key":
            raise Refusal("InvalidParameterValue", f"The filter '{name}' is invalid")
    ours = {name: values for name, values in asked.items() if name in FILTERS}
    motos = {name: values for name, values in asked.items() if name not in FILTERS}
    for machine in machines:
        if all(
            any(fnmatchcase(FILTERS[name](machine), it) for it in values)
            for name, values in ours.items()
        ) and passes_filter_dict(machine.instance, motos):
            yield machine


# -- status ----------------------------------------------------------------------------


def _check(cloud: Cloud, machine: Machine, which: str) -> dict[str, Any]:
    turn = machine.life.at(cloud.now())
    if turn.state != "running":
        return {"Status": "not-applicable"}
    if which in machine.impaired:
        since = datetime.now(UTC)
        details = {"Name": "reachability", "Status": "failed", "ImpairedSince": since}
        return {"Status": "impaired", "Details": [details]}
    if cloud.now() < turn.at + cloud.knobs.initializing_ms / 1000:
        return {
            "Status": "initializing",
            "Details": [{"Name": "reachability", "Status": "initializing"}],
        }
    return {"Status": "ok", "Details": [{"Name": "reachability", "Status": "passed"}]}


def _status(cloud: Cloud, machine: Machine) -> dict[str, Any]:
    state = machine.life.at(cloud.shown_at(machine)).state
    return {
        "AvailabilityZone": machine.instance.availability_zone,
        "Events": machine.events,
        "InstanceId": machine.id,
        "InstanceState": {"Code": CODES[state], "Name": state},
        "InstanceStatus": _check(cloud, machine, "instance"),
        "SystemStatus": _check(cloud, machine, "system"),
    }


def event(code: str, description: str, in_ms: float) -> dict[str, Any]:
    """An event that AWS announces for a machine."""
    begins = datetime.now(UTC) + timedelta(milliseconds=in_ms)
    return {
        "InstanceEventId": "instance-event-0123456789abcdef0",
        "Code": code,
        "Description": description,
        "NotBefore": begins,
        "NotAfter": begins + timedelta(hours=2),
    }


def _filtered_status(response: Any, cloud: Cloud, machines: list[Machine]) -> Iterator[Machine]:
    everything = response._get_bool_param("IncludeAllInstances", False)
    looks: dict[str, Callable[[dict[str, Any]], list[str]]] = {
        "availability-zone": lambda it: [it["AvailabilityZone"]],
        "event.code": lambda it: [event["Code"] for event in it["Events"]],
        "instance-state-code": lambda it: [str(it["InstanceState"]["Code"])],
        "instance-state-name": lambda it: [it["InstanceState"]["Name"]],
        "instance-status.status": lambda it: [it["InstanceStatus"]["Status"]],
        "system-status.status": lambda it: [it["SystemStatus"]["Status"]],
    }
    asked = _asked(response)
    for name in asked:
        if name not in looks:
            raise Refusal("InvalidParameterValue", f"The filter '{name}' is invalid")
    for machine in machines:
        status = _status(cloud, machine)
        if not everything and status["InstanceState"]["Name"] != "running":
            continue
        if all(
            any(fnmatchcase(value, it) for value in looks[name](status) for it in values)
            for name, values in asked.items()
        ):
            yield machine
