"""EC2's machines as AWS has them, where moto has them otherwise: states that take
time, client tokens, refusals before anything is made.

Each patch replaces one method of moto's. The versions are pinned beside this file.
"""

from __future__ import annotations

from base64 import b64decode
from typing import Any

from moto.core.responses import ActionResult, EmptyResult
from moto.core.types import Base64EncodedString
from moto.core.utils import utcnow
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS
from moto.ec2.models.instances import (
    Instance,
    InstanceBackend,
    InstanceState,
    StateReason,
)
from moto.ec2.responses.general import General
from moto.ec2.responses.instances import InstanceResponse
from moto.iam.models import iam_backends

import listing
import tokens
from cloud import Cloud, Machine, release
from life import CODES, Turn
from refusal import Refusal

# Bytes of user-data that AWS takes.
USER_DATA_MAX = 16_384
# Characters of a client token that AWS takes.
CLIENT_TOKEN_MAX = 64
# GiB of an image's disk.
IMAGE_GIB = 8


def install(cloud: Cloud) -> None:
    """Puts the patches in, once for a process."""
    _states(cloud)
    _transitions(cloud)
    _launches(cloud)
    _answers(cloud)
    listing.install(cloud)


def _states(cloud: Cloud) -> None:
    made = Instance.__init__
    unborn = Turn(0, "pending")

    def init(self: Any, *args: Any, **more: Any) -> None:
        made(self, *args, **more)
        # The tags come after the constructor; nobody looks in between.
        cloud.add(self)

    def turn(self: Any) -> Turn:
        machine = cloud.machines.get(self.__dict__.get("id", ""))
        return machine.life.at(cloud.shown_at(machine)) if machine else unborn

    def state(self: Any) -> InstanceState:
        name = turn(self).state
        return InstanceState(name, CODES[name])

    def reason(self: Any) -> StateReason:
        why = turn(self).reason
        return StateReason(why.message, why.code)

    def transition(self: Any) -> str:
        why = turn(self).reason
        return "User initiated" if why.code.startswith("Client.User") else why.message

    def ignored(self: Any, value: Any) -> None:
        """What moto sets, life decides."""

    Instance.__init__ = init

    def all_reservations(self: Any, filters: Any = None) -> list[Any]:
        found = every(self, filters)
        for it in found:
            it.instances = [
                one
                for one in it.instances
                if (known := cloud.machines.get(one.id)) is None or cloud.visible(known)
            ]
        return [it for it in found if it.instances]

    every = InstanceBackend.all_reservations
    InstanceBackend.all_reservations = all_reservations
    Instance._state = property(state, ignored)
    Instance.state_reason = property(reason, ignored)
    Instance._reason = property(transition, ignored)


def _transitions(cloud: Cloud) -> None:
    Instance.let_go = Instance.terminate

    def machine_in(self: Any, *states: str) -> Machine:
        machine = cloud.machines[self.id]
        state = cloud.state(machine)
        if state not in states:
            raise Refusal(
                "IncorrectInstanceState",
                f"The instance '{self.id}' is not in a state from which this can be done: {state}.",
            )
        return machine

    def terminate(self: Any) -> InstanceState:
        before = self._state
        machine = cloud.machines[self.id]
        if cloud.effects.get("ignored") or cloud.state(machine) in ("shutting-down", "terminated"):
            return before
        machine.life.terminate(cloud.now(), cloud.knobs.shutting_down_ms / 1000)
        release(self)
        cloud.changed(machine)
        return before

    def stop(self: Any) -> InstanceState:
        before = self._state
        machine = machine_in(self, "running", "stopping", "stopped")
        if machine.spot:
            raise Refusal(
                "UnsupportedOperation",
                f"You can't stop the Spot Instance '{self.id}' because it is associated with a "
                "one-time Spot Instance request.",
            )
        if before.name == "running":
            machine.life.stop(cloud.now(), cloud.knobs.stopping_ms / 1000)
            cloud.changed(machine)
        return before

    def start(self: Any) -> InstanceState:
        before = self._state
        machine = machine_in(self, "stopped", "pending", "running")
        if before.name == "stopped":
            machine.life.start(cloud.now(), cloud.knobs.pending_ms / 1000)
            cloud.changed(machine)
        return before

    def reboot(self: Any) -> None:
        machine = machine_in(self, "running")
        if not cloud.effects.get("ignored") and machine.guest:
            machine.guest.reboot()

    Instance.terminate = terminate
    Instance.stop = stop
    Instance.start = start
    Instance.reboot = reboot


def _launches(cloud: Cloud) -> None:
    run = InstanceResponse.run_instances

    def run_instances(self: Any) -> ActionResult:
        call = cloud.call
        assert call is not None
        key = tokens.key(call, _zone(self, call))
        if key is not None and (former := tokens.find(cloud, key, call)) is not None:
            if all(cloud.state(it) == "terminated" for it in former.machines):
                raise Refusal(
                    "IdempotentInstanceTerminated",
                    "The client token belongs to an instance that was terminated.",
                )
            return former.answer(cloud)
        _refuse(self, call)
        answer = run(self)
        machines = [cloud.machines[it.id] for it in answer.result.instances]
        for machine in machines:
            # Known to its guest only now that it has its tags and its profile.
            cloud.born(machine)
        if key is not None:
            cloud.launches[key] = tokens.Launch(call.params, answer.result, machines)
        return answer

    parse = InstanceResponse._parse_block_device_mapping

    def parse_block_devices(self: Any) -> list[dict[str, Any]]:
        # The root's disk is as large as the image's where nobody says how large.
        image = self.ec2_backend.amis.get(self._get_param("ImageId"))
        for it in self._get_param("BlockDeviceMappings", []):
            disk = it.get("Ebs", {})
            if image is not None and it.get("DeviceName") == image.root_device_name:
                if "VolumeSize" not in disk and "SnapshotId" not in disk:
                    disk["VolumeSize"] = IMAGE_GIB
        return parse(self)

    InstanceResponse.run_instances = run_instances
    InstanceResponse._parse_block_device_mapping = parse_block_devices


def _zone(response: Any, call: Any) -> str | None:
    """The zone that a launch names; a token counts for that zone only."""
    subnet = call.fields.get("subnet", [None])[0]
    for it in response.ec2_backend.describe_subnets():
        if it.id == subnet:
            call.fields["zone"] = [it.availability_zone]
            return it.availability_zone
    return call.params.get("Placement.AvailabilityZone")


def _refuse(response: Any, call: Any) -> None:
    """What AWS refuses and moto takes, or answers with a page of HTML."""
    given = call.params
    if len(given.get("ClientToken", "")) > CLIENT_TOKEN_MAX:
        raise Refusal("InvalidParameterValue", "The client token is too long.")
    if len(b64decode(given.get("UserData", ""))) > USER_DATA_MAX:
        raise Refusal("InvalidParameterValue", "User data is limited to 16384 bytes")
    kind = given.get("InstanceType", "m1.small")
    if kind not in {
        it["InstanceType"] for it in INSTANCE_TYPE_OFFERINGS["region"][response.region]
    }:
        raise Refusal("InvalidParameterValue", f"Invalid value '{kind}' for InstanceType.")
    for kind in call.tagged_kinds():
        if any(key.startswith("aws:") for key in call.tags(kind)):
            raise Refusal(
                "InvalidParameterValue",
                "Tag keys starting with 'aws:' are reserved for internal use",
            )
    profile = given.get("IamInstanceProfile.Name")
    if profile is not None:
        iam = iam_backends[response.current_account]["aws"]
        names = {it.name for it in iam.instance_profiles.values()}
        if profile not in names:
            raise Refusal(
                "InvalidParameterValue",
                f"Value ({profile}) for parameter iamInstanceProfile.name is invalid. "
                "Invalid IAM Instance Profile name",
            )
    for subnet in response.ec2_backend.describe_subnets():
        if subnet.id in call.fields.get("subnet", []):
            if subnet.available_ip_address_count < int(given.get("MaxCount", "1")):
                raise Refusal(
                    "InsufficientFreeAddressesInSubnet",
                    "There are not enough free addresses in the subnet to satisfy the "
                    "requested number of instances.",
                )


def _answers(cloud: Cloud) -> None:
    def changed(key: str, after: Any) -> Any:
        def answer(self: Any) -> ActionResult:
            ids = self._get_param("InstanceIds", [])
            self.error_on_dryrun()
            done = after(self, ids)
            return ActionResult(
                {
                    key: [
                        {"InstanceId": it.id, "CurrentState": it._state, "PreviousState": before}
                        for it, before in done
                    ]
                }
            )

        return answer

    # moto says `shutting-down` of what ended long ago, and imports load balancers to.
    InstanceResponse.terminate_instances = changed(
        "TerminatingInstances", lambda self, ids: self.ec2_backend.terminate_instances(ids)
    )
    InstanceResponse.stop_instances = changed(
        "StoppingInstances", lambda self, ids: self.ec2_backend.stop_instances(ids)
    )
    InstanceResponse.start_instances = changed(
        "StartingInstances", lambda self, ids: self.ec2_backend.start_instances(ids)
    )

    def reboot_instances(self: Any) -> EmptyResult:
        ids = self._get_param("InstanceIds", [])
        self.error_on_dryrun()
        self.ec2_backend.reboot_instances(ids)
        return EmptyResult()

    def get_console_output(self: Any) -> ActionResult:
        self.error_on_dryrun()
        name = self._get_param("InstanceId")
        machine = cloud.machines[self.ec2_backend.get_instance(name).id]
        lines = machine.guest.console() if machine.guest else []
        text = Base64EncodedString.from_raw_string("\r\n".join(lines))
        return ActionResult({"InstanceId": name, "Timestamp": utcnow(), "Output": text})

    InstanceResponse.reboot_instances = reboot_instances
    General.get_console_output = get_console_output
