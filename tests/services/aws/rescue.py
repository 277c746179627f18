"""Run Command, for the one document that is the rescue door: it acts on the machine
that is meant, and fails for those that nobody knows."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any

from moto.core.responses import ActionResult
from moto.ssm.responses import SimpleSystemManagerResponse as Response

from cloud import Cloud, Machine
from refusal import Refusal

# Characters of output that GetCommandInvocation gives back.
OUTPUT_MAX = 24_000
# Lines of the journal that the document asks for.
JOURNAL_LINES = 200


@dataclass
class Invocation:
    machine: Machine
    document: str
    status: str
    output: str
    at: float


def install(cloud: Cloud) -> None:
    def send_command(self: Any) -> ActionResult:
        name = self._get_param("DocumentName")
        ids = self._get_param("InstanceIds", [])
        document = self.ssm_backend._documents.get(name.split("/")[-1])
        if document is None:
            raise Refusal("InvalidDocument", "Document with that name does not exist.")
        action = _action(json.loads(document.get_default_version().content), self)
        machines = [cloud.machines.get(it) for it in ids]
        known = [it for it in machines if it is not None and _reachable(cloud, it)]
        if len(known) != len(ids) or not ids:
            raise Refusal(
                "InvalidInstanceId",
                f"Instances [[{', '.join(ids)}]] not in a valid state for account",
            )
        command = str(uuid.uuid4())
        for machine in known:
            status, output = _run(machine, action)
            cloud.commands[command + machine.id] = Invocation(
                machine, name, status, output, cloud.now()
            )
        return ActionResult(
            {
                "Command": {
                    "CommandId": command,
                    "DocumentName": name,
                    "InstanceIds": ids,
                    "Status": "Pending",
                }
            }
        )

    def get_command_invocation(self: Any) -> ActionResult:
        command, machine_id = self._get_param("CommandId"), self._get_param("InstanceId")
        it = cloud.commands.get(command + machine_id)
        if it is None or cloud.now() < it.at + cloud.knobs.invocation_lag_ms / 1000:
            raise Refusal("InvocationDoesNotExist", "")
        return ActionResult(
            {
                "CommandId": command,
                "InstanceId": machine_id,
                "DocumentName": it.document,
                "ResponseCode": 0 if it.status == "Success" else 1,
                "Status": it.status,
                "StatusDetails": it.status,
                "StandardOutputContent": it.output[:OUTPUT_MAX],
                "StandardErrorContent": "",
            }
        )

    Response.send_command = send_command
    Response.get_command_invocation = get_command_invocation


def _action(document: dict[str, Any], response: Any) -> str:
    """The one parameter, which has to be one of those that the document allows."""
    given = response._get_param("Parameters", {})
    declared = document.get("parameters", {})
    unknown = set(given) - set(declared)
    for name, values in given.items():
        allowed = declared.get(name, {}).get("allowedValues")
        if allowed is not None and not set(values) <= set(allowed):
            unknown.add(name)
    if unknown:
        raise Refusal("InvalidParameters", f"Invalid parameters: {', '.join(sorted(unknown))}")
    default = declared.get("Action", {}).get("default", "")
    return given.get("Action", [default])[0]


def _reachable(cloud: Cloud, machine: Machine) -> bool:
    return cloud.state(machine) == "running" and machine.guest.state == "up"


def _run(machine: Machine, action: str) -> tuple[str, str]:
    guest = machine.guest
    if action == "restart":
        guest.soon(guest.restart_agent)
        return "Success", ""
    if action == "journal":
        return "Success", "\n".join(list(guest.journal)[-JOURNAL_LINES:])
    return "Failed", ""
