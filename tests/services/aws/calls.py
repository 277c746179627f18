"""A call as AWS gets it, and the log of them all."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

# Calls that are remembered; the oldest go first. A test makes thousands, not more.
REMEMBERED = 100_000


@dataclass
class Call:
    """One request, read but not judged."""

    service: str
    action: str
    access_key: str
    # EC2, IAM, STS: the form's fields by their flat names. SSM: the JSON.
    params: dict[str, Any]
    body: bytes
    # What rules look at: names as in `rules.FIELDS`.
    fields: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_json(self) -> bool:
        return self.service == "ssm"

    def listed(self, prefix: str) -> list[str]:
        """The values of `prefix.1`, `prefix.2` …"""
        values: list[str] = []
        while (value := self.params.get(f"{prefix}.{len(values) + 1}")) is not None:
            values.append(value)
        return values

    def tags(self, resource: str = "instance") -> dict[str, str]:
        """The tags that a launch asks for, on one kind of thing."""
        found: dict[str, str] = {}
        number = 1
        while (kind := self.params.get(f"TagSpecification.{number}.ResourceType")) is not None:
            tag = 1
            while (key := self.params.get(f"TagSpecification.{number}.Tag.{tag}.Key")) is not None:
                if kind == resource:
                    found[key] = self.params.get(f"TagSpecification.{number}.Tag.{tag}.Value", "")
                tag += 1
            number += 1
        return found

    def tagged_kinds(self) -> list[str]:
        """The kinds of things that a launch puts tags on."""
        kinds: list[str] = []
        while kind := self.params.get(f"TagSpecification.{len(kinds) + 1}.ResourceType"):
            kinds.append(kind)
        return kinds


def read(environ: dict[str, Any], body: bytes) -> Call | None:
    """The call in a request; `None` where it is none of AWS's."""
    # AWS4-HMAC-SHA256 Credential=KEY/20260101/eu-central-1/ec2/aws4_request, …
    authorization = environ.get("HTTP_AUTHORIZATION", "")
    try:
        scope = authorization.split("Credential=", 1)[1].split(",", 1)[0].split("/")
        access_key, service = scope[0], scope[3]
    except IndexError:
        return None
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    if target:
        params = json.loads(body or b"{}")
        action = target.split(".")[-1]
    else:
        form = body.decode() or environ.get("QUERY_STRING", "")
        params = dict(parse_qsl(form, keep_blank_values=True))
        action = params.get("Action", "")
    call = Call(service, action, access_key, params, body)
    call.fields = _fields(call)
    return call


def _fields(call: Call) -> dict[str, list[str]]:
    given = call.params
    tags = call.tags()
    if call.is_json:
        names = given.get("Names") or [given.get("Name") or given.get("Path")]
        ids = given.get("InstanceIds") or [given.get("InstanceId")]
    else:
        names = []
        ids = call.listed("InstanceId") or [given.get("InstanceId")]
    page = given.get("NextToken", "")
    values: dict[str, list[Any]] = {
        "type": [given.get("InstanceType")],
        "subnet": [given.get("SubnetId") or given.get("NetworkInterface.1.SubnetId")],
        "zone": [given.get("Placement.AvailabilityZone")],
        "image": [given.get("ImageId")],
        "token": [given.get("ClientToken")] if call.action == "RunInstances" else [],
        "row": [tags.get("browserfleet:row")],
        "attempt": [tags.get("browserfleet:attempt")],
        "id": ids,
        "name": names,
        "document": [given.get("DocumentName")],
        "page": [page.split("-")[0][1:] if page.startswith("p") else "2" if page else "1"],
    }
    if call.action == "RunInstances":
        market = given.get("InstanceMarketOptions.MarketType")
        values["market"] = [market or "on-demand"]
    return {name: [str(it) for it in them if it] for name, them in values.items() if any(them)}


class Log:
    """What was called, in order. Never a value of a parameter, never user-data."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)
        self._number = 0
        self._begun = time.monotonic()

    def add(self, call: Call, began: float, result: str, status: int | None, **more: Any) -> None:
        fields = {
            name: them if name == "id" else them[0]
            for name, them in call.fields.items()
            if them and (name != "page" or them != ["1"])
        }
        with self._lock:
            self._number += 1
            self._entries.append(
                {
                    "number": self._number,
                    "at_ms": round((began - self._begun) * 1000, 1),
                    "took_ms": round((time.monotonic() - began) * 1000, 1),
                    "action": call.action,
                    **fields,
                    "result": result,
                    "status": status,
                    **{name: value for name, value in more.items() if value},
                }
            )

    def after(self, number: int) -> list[dict[str, Any]]:
        with self._lock:
            return [it for it in self._entries if it["number"] > number]
