"""Who calls, and whether the policies of `deploy/iam` let them: with the resources and
the conditions that AWS judges by, which moto does not look at.

Off until a test names its deployment; then the control plane has what
`control-plane.json` gives, each machine what `agent.json` does, and the test everything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from collections.abc import Iterator

from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT
from moto.ec2.models import ec2_backends
from moto.ssm.models import ssm_backends

from account import IMAGE_PARAMETER, REGION, RESCUE, ROLE
from calls import Call
from policies import Context, Policy, fill
from refusal import Refusal

# Calls that act on machines, and those whose resource nobody can name.
ON_MACHINES = (
    "GetConsoleOutput",
    "ModifyInstanceAttribute",
    "ModifyInstanceMetadataOptions",
    "RebootInstances",
    "StartInstances",
    "StopInstances",
    "TerminateInstances",
)
# Calls that anybody may make.
FREE = ("GetCallerIdentity",)
# What is asked for: an action, the name of its resource, and what is known.
Asked = tuple[str, str, Context]


def ec2(what: str, account: str = ACCOUNT) -> str:
    return f"arn:aws:ec2:{REGION}:{account}:{what}"


def parameter(name: str) -> str:
    # A path ends where its last name does.
    return f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter{name.rstrip('/')}"


class Judge:
    def __init__(self, aws: Any, policies: Path) -> None:
        self._aws, self._policies = aws, policies

    def who(self, access_key: str) -> str:
        if access_key == self._aws.account.access_key:
            return "control-plane"
        return self._aws.sessions.machine(access_key) or "test"

    def judge(self, call: Call) -> None:
        """Refuses what the policies of who calls do not allow."""
        given = self._aws.cloud.knobs.permissions
        who = call.fields["caller"][0]
        if given is None or who == "test" or call.action in FREE:
            return
        file = "control-plane.json" if who == "control-plane" else "agent.json"
        policy = Policy(fill((self._policies / file).read_text(), self._values(given)))
        known: Context = {"aws:requestedregion": [REGION]}
        if who != "control-plane":
            known["ec2:sourceinstancearn"] = [ec2(f"instance/{who}")]
            known["ec2:roledelivery"] = ["2.0"]
        for action, resource, context in self._asked(call):
            if not policy.allows(action, resource, known | context):
                text = f"{who} is not authorized to perform: {action} on resource: {resource}"
                if call.service == "ssm":
                    raise Refusal("AccessDeniedException", text, 400)
                raise Refusal("UnauthorizedOperation", text, 403)

    def _values(self, given: dict[str, Any]) -> dict[str, str | list[str]]:
        account = self._aws.account
        return {
            "DEPLOYMENT": given["deployment"],
            "REGION": REGION,
            "ACCOUNT": ACCOUNT,
            "INSTANCE_TYPE": given.get("types", "*"),
            "SUBNET": account.subnets,
            "SECURITY_GROUP": account.security_group,
            "IMAGE_OWNER": ACCOUNT,
            "IMAGE_PARAMETER": IMAGE_PARAMETER,
        }

    # -- what a call asks for --------------------------------------------------------

    def _asked(self, call: Call) -> Iterator[Asked]:
        action = f"{call.service}:{call.action}"
        if call.action == "RunInstances":
            yield from self._launch(call)
        elif call.action in ("CreateTags", "DeleteTags"):
            keys = [it["Key"] for it in _numbered(call, "Tag")]
            for it in call.listed("ResourceId"):
                yield action, ec2(f"{_kind(it)}/{it}"), {"aws:tagkeys": keys}
        elif call.action in ON_MACHINES:
            for it in call.fields.get("id", []):
                # AWS says of a machine that is not there that it is not there.
                if it in self._aws.cloud.machines:
                    yield action, ec2(f"instance/{it}"), self._tags("ec2", it)
        elif call.action == "SendCommand":
            document = call.params.get("DocumentName", "").split("/")[-1]
            owner = ACCOUNT if document == RESCUE else ""
            yield action, f"arn:aws:ssm:{REGION}:{owner}:document/{document}", {}
            for it in call.params.get("InstanceIds", []):
                if it in self._aws.cloud.machines:
                    yield action, ec2(f"instance/{it}"), self._tags("ssm", it)
        elif call.service == "ssm" and "Parameter" in call.action:
            for name in call.fields.get("name", []):
                yield action, parameter(name), _parameter_tags(name)
                if call.action == "PutParameter" and call.params.get("Tags"):
                    yield "ssm:AddTagsToResource", parameter(name), {}
        else:
            yield action, "*", {}

    def _launch(self, call: Call) -> Iterator[Asked]:
        run, given = "ec2:RunInstances", call.params
        profile = given.get("IamInstanceProfile.Name")

        def requested(kind: str) -> Context:
            tags = call.tags(kind)
            known = {f"aws:requesttag/{key}".lower(): [value] for key, value in tags.items()}
            return known | {"aws:tagkeys": list(tags)}

        machine: Context = {
            "ec2:instancetype": [given.get("InstanceType", "m1.small")],
            "ec2:metadatahttptokens": [given.get("MetadataOptions.HttpTokens", "optional")],
            "ec2:metadatahttpputresponsehoplimit": [
                given.get("MetadataOptions.HttpPutResponseHopLimit", "1")
            ],
        }
        if profile is not None:
            name = f"arn:aws:iam::{ACCOUNT}:instance-profile/{profile}"
            machine["ec2:instanceprofile"] = [name]
        yield run, ec2("instance/*"), machine | requested("instance")
        encrypted = given.get("BlockDeviceMapping.1.Ebs.Encrypted", "false")
        yield run, ec2("volume/*"), {"ec2:encrypted": [encrypted]} | requested("volume")
        yield run, ec2("network-interface/*"), requested("network-interface")
        for it in call.fields.get("subnet", []):
            yield run, ec2(f"subnet/{it}"), {}
        groups = call.listed("SecurityGroupId")
        groups += call.listed("NetworkInterface.1.SecurityGroupId")
        for it in groups:
            yield run, ec2(f"security-group/{it}"), {}
        image = given.get("ImageId", "")
        found = ec2_backends[ACCOUNT][REGION].amis.get(image)
        owner = {"ec2:owner": [found.owner_id]} if found is not None else {}
        yield run, ec2(f"image/{image}", account=""), owner
        if key := given.get("KeyName"):
            yield run, ec2(f"key-pair/{key}"), {}
        for kind in call.tagged_kinds():
            tagging = {"ec2:createaction": ["RunInstances"]} | requested(kind)
            yield "ec2:CreateTags", ec2(f"{kind}/*"), tagging
        if profile is not None:
            passed = {"iam:passedtoservice": ["ec2.amazonaws.com"]}
            role = ROLE if profile == ROLE else f"role-of-{profile}"
            yield "iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/{role}", passed

    def _tags(self, service: str, machine: str) -> Context:
        tags = self._aws.cloud.machines[machine].instance.get_tags()
        prefixes = ("aws:resourcetag", f"{service}:resourcetag")
        return {
            f"{prefix}/{it['key']}".lower(): [it["value"]] for it in tags for prefix in prefixes
        }


def _parameter_tags(name: str) -> Context:
    ssm = ssm_backends[ACCOUNT][REGION]
    if ssm.get_parameter(name) is None:
        return {}
    tags = ssm.list_tags_for_resource("Parameter", name)
    return {f"aws:resourcetag/{key}".lower(): [value] for key, value in tags.items()}


def _numbered(call: Call, name: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    while (key := call.params.get(f"{name}.{len(found) + 1}.Key")) is not None:
        found.append({"Key": key})
    return found


def _kind(identifier: str) -> str:
    prefixes = {"i": "instance", "vol": "volume", "eni": "network-interface"}
    return prefixes.get(identifier.split("-")[0], "resource")
