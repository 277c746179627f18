"""What this AWS knows beyond moto: the machines that were ever launched, how it is
told to behave, and the one lock under which moto is called."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass, field, fields
from typing import Any
from collections.abc import Callable

from buckets import Buckets
from calls import Call, Log
from life import ALIVE, OWN, Life, Reason
from rules import Rules


@dataclass
class Knobs:
    """How it behaves where no rule says otherwise. Times are milliseconds."""

    # How long a launch is pending, and an end or a stop lasts.
    pending_ms: float = 100
    shutting_down_ms: float = 100
    stopping_ms: float = 100
    # Describe lags: so long a new machine is not listed, and an old state is shown.
    hidden_ms: float = 0
    stale_ms: float = 0
    # So long after its end a machine is still listed. `None`: as long as this runs.
    gone_ms: float | None = None
    # So long status checks say `initializing` after the machine runs.
    initializing_ms: float = 0
    # What machines do: how long they boot before their unit starts, whether they never
    # do, whether the agent is the program (`real`) or played by the test (`none`), and
    # whether an end is told to it before its power is cut.
    boot_ms: float = 0
    silent: bool = False
    agent: str = "real"
    graceful: bool = False
    # By how much a parameter and a command's result are late.
    parameter_lag_ms: float = 0
    invocation_lag_ms: float = 0
    # `True`: AWS's usual buckets; or {"pattern": [most, refill per second]}.
    throttle: bool | dict[str, list[float]] = False
    # {"deployment": UUID}: the policies of deploy/iam hold, filled in with this.
    permissions: dict[str, str] | None = None

    def change(self, given: dict[str, Any]) -> None:
        unknown = set(given) - {it.name for it in fields(self)}
        if unknown:
            raise ValueError(f"there is no knob {sorted(unknown)}")
        for name, value in given.items():
            setattr(self, name, value)


@dataclass
class Machine:
    """One instance as EC2 sees it. What is inside is its guest."""

    instance: Any
    life: Life
    # The tags asked for at launch on each kind of thing.
    tagged: dict[str, dict[str, str]]
    client_token: str | None
    boot_ms: float
    silent: bool
    agent: str
    guest: Any = None
    # Until when listings leave it out, on the clock; `None`: they do not.
    hidden_until: float | None = None
    # Gone without a trace.
    vanished: bool = False
    # Status checks that fail.
    impaired: set[str] = field(default_factory=set)
    events: list[dict[str, Any]] = field(default_factory=list)
    # What listings say of it, made once for each state: (key, XML).
    fragment: tuple[Any, str] | None = None

    @property
    def id(self) -> str:
        return self.instance.id

    @property
    def spot(self) -> bool:
        return self.instance.lifecycle == "spot"


class Cloud:
    def __init__(self, account: str, region: str) -> None:
        self.account, self.region = account, region
        self.lock = threading.RLock()
        self.knobs = Knobs()
        self.rules = Rules()
        self.buckets = Buckets()
        self.log = Log()
        self.machines: dict[str, Machine] = {}
        # What moto could not answer: a test that gets there has found a hole.
        self.holes: list[str] = []
        # When each parameter was put, for its lag.
        self.parameters_put: dict[str, float] = {}
        # The launch of each client token, and each command that was sent to a machine.
        self.launches: dict[Any, Any] = {}
        self.commands: dict[str, Any] = {}
        # The call under way and what its rule says, under the lock.
        self.call: Call | None = None
        self.effects: dict[str, Any] = {}
        # Whether the call under way looks at things as listings show them.
        self.listing = False
        # Told of each machine that is born or that changes.
        self.born: Callable[[Machine], None] = lambda machine: None
        self.changed: Callable[[Machine], None] = lambda machine: None

    @staticmethod
    def now() -> float:
        return time.monotonic()

    # -- what is shown -------------------------------------------------------------

    def shown_at(self, machine: Machine) -> float:
        """The time whose state is shown: earlier, where listings lag."""
        now = self.now()
        if self.listing and self.knobs.stale_ms:
            return max(machine.life.launched, now - self.knobs.stale_ms / 1000)
        return now

    def visible(self, machine: Machine) -> bool:
        now = self.now()
        if machine.vanished:
            return False
        ended = machine.life.ended_at(now)
        if ended is not None and self.knobs.gone_ms is not None:
            if now > ended + self.knobs.gone_ms / 1000:
                return False
        if not self.listing:
            return True
        if machine.hidden_until is not None and now < machine.hidden_until:
            return False
        return now >= machine.life.launched + self.knobs.hidden_ms / 1000

    def state(self, machine: Machine) -> str:
        """Its true state."""
        return machine.life.at(self.now()).state

    def is_alive(self, machine: Machine) -> bool:
        return not machine.vanished and self.state(machine) in ALIVE

    # -- what happens to machines --------------------------------------------------

    def add(self, instance: Any) -> Machine:
        """A machine is launched, by the call under way or by the test itself."""
        knobs, effects = self.knobs, self.effects
        pending_ms = effects.get("pending_ms", knobs.pending_ms)
        pending_s = None if effects.get("stuck") else pending_ms / 1000
        now = self.now()
        life = Life.begun(now, pending_s)
        if dies := effects.get("dies"):
            reason = Reason(
                dies.get("code", "Client.InternalError"),
                dies.get("message", "Client.InternalError: Client error on launch"),
            )
            life.turns = life.turns[:1]
            life.turn(now, (dies.get("after_ms", pending_ms) / 1000, "terminated"), reason=reason)
        call = self.call
        launch = call if call is not None and call.action == "RunInstances" else None
        machine = Machine(
            instance=instance,
            life=life,
            tagged={kind: launch.tags(kind) for kind in launch.tagged_kinds()} if launch else {},
            client_token=launch.params.get("ClientToken") if launch else None,
            boot_ms=effects.get("boot_ms", knobs.boot_ms),
            silent=effects.get("silent", knobs.silent),
            agent=effects.get("agent", knobs.agent),
        )
        self.machines[instance.id] = machine
        return machine

    def reset(self) -> None:
        """Forgets all, as a new account does."""
        self.knobs = Knobs()
        self.rules = Rules()
        self.buckets = Buckets()
        self.log = Log()
        self.machines.clear()
        self.launches.clear()
        self.holes.clear()
        self.parameters_put.clear()
        self.commands.clear()

    def end(self, machine: Machine, reason: Reason) -> None:
        """Ends it, whoever asked."""
        with self.lock:
            if self.state(machine) in ("shutting-down", "terminated"):
                return
            machine.life.terminate(self.now(), self.knobs.shutting_down_ms / 1000, reason)
            release(machine.instance)
        self.changed(machine)

    def power_off(self, machine: Machine) -> None:
        """It ends itself, in the way that was asked for at its launch."""
        with self.lock:
            if self.state(machine) != "running":
                return
            if machine.instance.instance_initiated_shutdown_behavior == "terminate":
                machine.life.terminate(self.now(), self.knobs.shutting_down_ms / 1000, OWN)
                release(machine.instance)
            else:
                machine.life.stop(self.now(), self.knobs.stopping_ms / 1000, OWN)
        self.changed(machine)

    # -- reports -------------------------------------------------------------------

    def report(self, machine: Machine) -> dict[str, Any]:
        instance = machine.instance
        now = self.now()
        turn = machine.life.at(now)
        tags = {it["key"]: it["value"] for it in instance.get_tags()}
        options = instance.metadata_options
        return {
            "id": machine.id,
            "state": "vanished" if machine.vanished else turn.state,
            "reason": turn.reason.code,
            "age_ms": round((now - machine.life.launched) * 1000),
            "tags": tags,
            "row": tags.get("browserfleet:row", ""),
            "attempt": tags.get("browserfleet:attempt", ""),
            "tagged": machine.tagged,
            "client_token": machine.client_token,
            "type": instance.instance_type,
            "subnet": instance.subnet_id,
            "zone": instance.availability_zone,
            "image": instance.image_id,
            "market": "spot" if machine.spot else "on-demand",
            "address": instance.private_ip,
            "public_address": instance.public_ip,
            "shutdown_behavior": instance.instance_initiated_shutdown_behavior,
            "protected": bool(instance.disable_api_termination),
            "key_name": instance.key_name,
            "profile": getattr(instance.iam_instance_profile, "arn", ""),
            "metadata": {
                "tokens": options.http_tokens,
                "hop_limit": options.http_put_response_hop_limit,
                "tags": options.instance_metadata_tags,
                "endpoint": options.http_endpoint,
            },
            "impaired": sorted(machine.impaired),
            **(machine.guest.report() if machine.guest else {}),
        }

    def knobs_report(self) -> dict[str, Any]:
        return asdict(self.knobs)


def release(instance: Any) -> None:
    """Gives back what a machine had: volumes, interfaces, and addresses, which moto
    keeps for ever."""
    instance.let_go()
    subnet = instance.ec2_backend.get_subnet(instance.subnet_id)
    for address in instance._private_ips:
        subnet.del_subnet_ip(address)
    instance._private_ips = set()
