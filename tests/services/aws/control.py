"""The test's own doors, on the same port as AWS's:

GET  /_test/knobs                   POST: some of them, the others stay
GET  /_test/rules                   POST: a list, in place of all there are
GET  /_test/calls?after=NUMBER
GET  /_test/machines                POST: launches one past everybody
POST /_test/machines/ID/VERB        a JSON object; see `VERBS`
GET  /_test/machines/ID/journal
GET  /_test/parameters              names and tags
POST /_test/parameters              {"name", "value"}: puts one; {"name"}: reads it
POST /_test/reset                   a new account; what it has
GET  /_test/holes                   what was asked for and is not played here
"""

from __future__ import annotations

import json
import signal
from datetime import timedelta
from typing import Any
from collections.abc import Callable

from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT
from moto.ec2.models import ec2_backends
from moto.ssm.models import ssm_backends

import listing
from account import REGION, ROLE
from cloud import Cloud, Machine
from life import USER
from rules import BadRule

SIGNALS = {
    "kill": signal.SIGKILL,
    "terminate": signal.SIGTERM,
    "freeze": signal.SIGSTOP,
    "thaw": signal.SIGCONT,
}


class Control:
    def __init__(self, aws: Any) -> None:
        self._aws = aws
        self._cloud: Cloud = aws.cloud

    def __call__(
        self, method: str, path: str, query: dict[str, str], body: bytes
    ) -> tuple[int, Any]:
        try:
            given = json.loads(body) if body else {}
            return self._route(method, path.removeprefix("/_test/").split("/"), query, given)
        except (BadRule, ValueError, TypeError, KeyError) as error:
            return 400, {"error": repr(error)}

    def _route(
        self, method: str, path: list[str], query: dict[str, str], given: Any
    ) -> tuple[int, Any]:
        cloud = self._cloud
        match (method, *path):
            case ("GET", "knobs"):
                return 200, cloud.knobs_report()
            case ("POST", "knobs"):
                with cloud.lock:
                    cloud.knobs.change(given)
                    if "throttle" in given:
                        cloud.buckets.switch(given["throttle"])
                return 200, cloud.knobs_report()
            case ("GET", "rules"):
                return 200, cloud.rules.report()
            case ("POST", "rules"):
                with cloud.lock:
                    cloud.rules.replace(given)
                return 200, cloud.rules.report()
            case ("GET", "calls"):
                return 200, cloud.log.after(int(query.get("after", "0")))
            case ("GET", "machines"):
                with cloud.lock:
                    return 200, [cloud.report(it) for it in cloud.machines.values()]
            case ("POST", "machines"):
                return 200, self._launch(given)
            case ("GET", "machines", machine, "journal"):
                return 200, list(cloud.machines[machine].guest.journal)
            case ("POST", "machines", machine, verb):
                it = cloud.machines[machine]
                VERBS[verb](cloud, it, **given)
                return 200, cloud.report(it)
            case ("GET", "parameters"):
                return 200, self._parameters()
            case ("POST", "parameters"):
                return 200, self._parameter(**given)
            case ("POST", "reset"):
                with cloud.lock:
                    return 200, self._aws.reset()
            case ("GET", "holes"):
                return 200, cloud.holes
        return 404, {"error": "there is no such door"}

    def _launch(self, given: dict[str, Any]) -> dict[str, Any]:
        """A machine that somebody launched who is not the control plane."""
        cloud = self._cloud
        ec2 = ec2_backends[ACCOUNT][REGION]
        with cloud.lock:
            cloud.effects = {"agent": given.get("agent", "none")}
            try:
                made = ec2.run_instances(
                    given.get("image", self._aws.account.image),
                    1,
                    given.get("user_data"),
                    [],
                    instance_type=given.get("type", "c7i.large"),
                    is_instance_type_default=False,
                    region_name=REGION,
                    subnet_id=given.get("subnet", self._aws.account.subnets[0]),
                    security_group_ids=[self._aws.account.security_group],
                    tags={"instance": given.get("tags", {})},
                    instance_initiated_shutdown_behavior="terminate",
                )
            finally:
                cloud.effects = {}
            machine = cloud.machines[made.instances[0].id]
            ec2.associate_iam_instance_profile(machine.id, iam_instance_profile_name=ROLE)
            _age(cloud, machine, given.get("age_ms", 0))
            cloud.born(machine)
        return cloud.report(machine)

    def _parameters(self) -> list[dict[str, Any]]:
        ssm = ssm_backends[ACCOUNT][REGION]
        return [
            {
                "name": name,
                "type": versions[-1].parameter_type,
                "tags": ssm.list_tags_for_resource("Parameter", name),
            }
            for name, versions in list(ssm._parameters.items())
            if versions and not name.startswith("/aws/")
        ]

    def _parameter(self, name: str, value: str | None = None) -> dict[str, Any]:
        ssm = ssm_backends[ACCOUNT][REGION]
        if value is not None:
            ssm.put_parameter(name, "", value, "String", "", "", True, [], "text", None, None)
        found = ssm.get_parameter(name)
        return {"name": name, "value": None if found is None else found.decrypt(found.value)}


# -- verbs -------------------------------------------------------------------------------


def _terminate(cloud: Cloud, machine: Machine) -> None:
    cloud.end(machine, USER)


def _stop(cloud: Cloud, machine: Machine) -> None:
    with cloud.lock:
        machine.life.stop(cloud.now(), cloud.knobs.stopping_ms / 1000)
    cloud.changed(machine)


def _start(cloud: Cloud, machine: Machine) -> None:
    with cloud.lock:
        machine.life.start(cloud.now(), cloud.knobs.pending_ms / 1000)
    cloud.changed(machine)


def _vanish(cloud: Cloud, machine: Machine) -> None:
    with cloud.lock:
        machine.vanished = True
    cloud.changed(machine)


def _impair(cloud: Cloud, machine: Machine, which: tuple[str, ...] = ("instance",)) -> None:
    machine.impaired = set(which)


def _event(
    cloud: Cloud,
    machine: Machine,
    code: str | None = "system-maintenance",
    description: str = "The instance is running on degraded hardware",
    in_ms: float = 86_400_000,
) -> None:
    machine.events = [] if code is None else [listing.event(code, description, in_ms)]


def _hide(cloud: Cloud, machine: Machine, for_ms: float | None = None) -> None:
    machine.hidden_until = float("inf") if for_ms is None else cloud.now() + for_ms / 1000


def _show(cloud: Cloud, machine: Machine) -> None:
    machine.hidden_until = None


def _age(cloud: Cloud, machine: Machine, ms: float) -> None:
    """Makes it look so much older than it is, to everybody."""
    with cloud.lock:
        machine.instance.launch_time -= timedelta(milliseconds=ms)
        machine.fragment = None


def _protect(cloud: Cloud, machine: Machine, on: bool = True) -> None:
    machine.instance.disable_api_termination = on


def _guest(name: str) -> Callable[..., None]:
    def verb(cloud: Cloud, machine: Machine, **given: Any) -> None:
        machine.guest.soon(lambda: getattr(machine.guest, name)(**given))

    return verb


def _notice(
    cloud: Cloud,
    machine: Machine,
    action: str | None = "terminate",
    in_ms: float = 120_000,
    interrupts: bool = True,
) -> None:
    machine.guest.soon(machine.guest.notice, action, in_ms, interrupts)


def _rebalance(cloud: Cloud, machine: Machine, recommended: bool = True) -> None:
    machine.guest.soon(machine.guest.rebalance, recommended)


def _metadata(cloud: Cloud, machine: Machine, mode: str) -> None:
    if mode not in ("up", "down", "silent", "error"):
        raise ValueError(mode)
    machine.guest.metadata.mode = mode


def _signal(name: str) -> Callable[..., None]:
    def verb(cloud: Cloud, machine: Machine) -> None:
        machine.guest.soon(machine.guest.signal, SIGNALS[name])

    return verb


VERBS: dict[str, Callable[..., None]] = {
    # From outside, as by somebody at the console.
    "terminate": _terminate,
    "stop": _stop,
    "start": _start,
    "vanish": _vanish,
    "protect": _protect,
    # What AWS says of it.
    "impair": _impair,
    "event": _event,
    "hide": _hide,
    "show": _show,
    "age": _age,
    # What it is told.
    "notice": _notice,
    "rebalance": _rebalance,
    "metadata": _metadata,
    # What happens inside.
    "crash": _guest("crash"),
    "restart-agent": _guest("restart_agent"),
    "kill-agent": _signal("kill"),
    "terminate-agent": _signal("terminate"),
    "freeze-agent": _signal("freeze"),
    "thaw-agent": _signal("thaw"),
    "power-off": lambda cloud, machine: cloud.power_off(machine),
    "reboot": lambda cloud, machine: machine.guest.reboot(),
}
