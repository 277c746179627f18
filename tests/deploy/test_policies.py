"""The policies of IAM: that AWS knows what they name, that each of their permissions is
bound to something, and that they give what the programs call and no more."""

from __future__ import annotations

import json
import re
import sys
import warnings
from pathlib import Path

import botocore.session
import pytest
from botocore import xform_name

from rendered import DEPLOY

sys.path.append(str(Path(__file__).resolve().parents[1] / "services" / "aws"))

from policies import fill  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import parliament  # noqa: E402

ROOT = DEPLOY.parent
IAM = DEPLOY / "iam"
POLICIES = ["agent", "agent-run-command", "control-plane"]
VALUES: dict[str, str | list[str]] = {
    "DEPLOYMENT": "0199b5a4-3c1e-7c7e-9a53-3a1f4e8b1d2c",
    "REGION": "eu-central-1",
    "ACCOUNT": "123456789012",
    "INSTANCE_TYPE": ["c7i.large", "m7i.large"],
    "SUBNET": ["subnet-0a1", "subnet-0b2"],
    "SECURITY_GROUP": "sg-01",
    "IMAGE_OWNER": "123456789012",
    "IMAGE_PARAMETER": "/browserfleet/image",
}
# Statements without a condition, each with the reason why it needs none.
BY_RESOURCE = {
    "LaunchIntoNetwork": "names the subnets and groups themselves",
    "HandTokens": "names the folder of this deployment's tokens",
    "ListTokens": "names the folder of this deployment's tokens",
    "FindTheImage": "names the one parameter",
    "RescueByOneDocument": "names the one document",
    "ReadTheOneDocument": "names the one document",
}
# Statements on any resource, each with the reason why it names none.
ON_ANY = {
    "LookAtMachines": "EC2 lets nobody restrict what is described; only where",
    "ReadWhatARescueSaid": "SSM has no resource for an invocation; its id is random",
    "TakeCommandsAsItself": "SSM's channels have no resource; they belong to who calls",
    "NeverTagLater": "it denies",
    "NeverTakeATagAway": "it denies",
    "NothingWithoutAMetadataToken": "it denies",
}
# What a call needs besides its own action.
WITH = {
    "RunInstances": {"ec2:CreateTags", "iam:PassRole"},
    "PutParameter": {"ssm:AddTagsToResource"},
}


def statements(name: str) -> list[dict]:
    return json.loads((IAM / f"{name}.json").read_text())["Statement"]


def listed(given: str | list[str]) -> list[str]:
    return given if isinstance(given, list) else [given]


def actions(name: str) -> set[str]:
    allowed = [it for it in statements(name) if it["Effect"] == "Allow"]
    return {action for it in allowed for action in listed(it["Action"])}


@pytest.mark.parametrize("name", POLICIES)
def test_aws_knows_what_they_name(name: str) -> None:
    found = parliament.analyze_policy_string(fill((IAM / f"{name}.json").read_text(), VALUES))
    issues = {(it.issue, str(it.detail)) for it in found.findings}
    # These two are allowed on their kinds of resources one by one, under conditions that
    # each of them has; that they are all there is shown by `test_permissions`.
    split = ("RunInstances", "SendCommand")
    issues = {
        it
        for it in issues
        if it[0] != "RESOURCE_MISMATCH" or not any(action in it[1] for action in split)
    }
    # A key of every request with a machine's role, which parliament knows for EC2 alone.
    issues = {it for it in issues if "Unknown condition ec2:SourceInstanceARN" not in it[1]}
    assert issues == set()


def test_the_linter_would_tell() -> None:
    text = fill((IAM / "control-plane.json").read_text(), VALUES)
    for right, wrong in (
        ("ec2:TerminateInstances", "ec2:TerminateMachines"),
        ("ec2:Encrypted", "ec2:Enciphered"),
        ("document/browserfleet", "dokument/browserfleet"),
    ):
        assert right in text
        found = parliament.analyze_policy_string(text.replace(right, wrong))
        issues = {it.issue for it in found.findings}
        assert issues & {"UNKNOWN_ACTION", "UNKNOWN_CONDITION_FOR_ACTION", "RESOURCE_MISMATCH"}, (
            wrong
        )


@pytest.mark.parametrize("name", POLICIES)
def test_every_permission_is_bound_to_something(name: str) -> None:
    for it in statements(name):
        sid, resources = it["Sid"], listed(it["Resource"])
        if it["Effect"] == "Allow":
            assert not any("*" in action for action in listed(it["Action"])), sid
        assert ("Condition" in it) != (sid in BY_RESOURCE), sid
        assert ("*" in resources) == (sid in ON_ANY), sid
        # A name that ends in `*` is a folder, or bound by what it is tagged with.
        for resource in resources:
            if resource.endswith(("instance/*", "volume/*", "network-interface/*", "image/*")):
                assert "Condition" in it, sid


def test_every_reason_is_needed() -> None:
    sids = {it["Sid"] for name in POLICIES for it in statements(name)}
    assert set(BY_RESOURCE) | set(ON_ANY) <= sids


def called(*folders: str) -> set[str]:
    """The actions that sources call: methods and inputs of the SDK's clients."""
    session = botocore.session.get_session()
    known = {
        xform_name(operation): f"{service}:{operation}"
        for service in ("ec2", "ssm")
        for operation in session.get_service_model(service).operation_names
    }
    words = set()
    for folder in folders:
        # Tests beside the code call nobody.
        texts = {
            path: path.read_text().split("#[cfg(test)]")[0]
            for path in (ROOT / folder).rglob("*.rs")
        }
        # A module's client is named in one of its files, and called in any.
        callers = {path.parent for path, text in texts.items() if "aws_sdk_" in text}
        for path, text in texts.items():
            if path.parent in callers:
                words |= set(re.findall(r"\.([a-z_]+)\(\)", text))
                words |= set(re.findall(r"operation::([a-z_]+)::", text))
    found = {known[it] for it in words if it in known}
    return found | {more for it in found for more in WITH.get(it.split(":")[1], ())}


@pytest.mark.parametrize(
    ("policy", "folder"), [("control-plane", "control-plane/src"), ("agent", "agent/src")]
)
def test_what_is_called_is_allowed_and_nothing_more(policy: str, folder: str) -> None:
    wanted = called(folder)
    if not wanted:
        pytest.skip(f"{folder} does not call AWS")
    assert actions(policy) == wanted
