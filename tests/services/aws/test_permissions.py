"""The policies of `deploy/iam`, held against what the control plane and machines do."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from account import RESCUE
from conftest import Aws, eventually
from policies import Policy, Unknown, fill
from test_machines import Imds, up

DEPLOYMENT = "11111111-2222-4333-8444-555555555555"
# The device of the images' disk.
ROOT = "/dev/sda1"
PATH = f"/browserfleet/{DEPLOYMENT}/enrol"


def code(call: Any, **given: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**given)
    return caught.value.response["Error"]["Code"]


@pytest.fixture
def held(aws: Aws) -> Aws:
    """The policies hold, and machines are there for the sake of their roles."""
    aws.knobs(permissions={"deployment": DEPLOYMENT, "types": ["c7i.*", "m7i.large"]}, agent="none")
    return aws


def launch(aws: Aws) -> dict[str, Any]:
    """A launch as the control plane sends it."""
    volume = {"Encrypted": True, "VolumeType": "gp3", "DeleteOnTermination": True}
    mapping = {"DeviceName": ROOT, "Ebs": volume}
    return copy.deepcopy(aws.request()) | {"BlockDeviceMappings": [mapping]}


def test_the_control_plane_may_do_its_work(held: Aws) -> None:
    image = held.ssm.get_parameter(Name=held.facts["image_parameter"])["Parameter"]["Value"]
    [described] = held.ec2.describe_images(ImageIds=[image])["Images"]
    assert described["RootDeviceName"] == ROOT
    name = held.ec2.run_instances(**launch(held))["Instances"][0]["InstanceId"]
    spot = {"InstanceMarketOptions": {"MarketType": "spot"}}
    held.ec2.run_instances(**launch(held) | spot)
    held.ec2.describe_instances()
    held.ec2.describe_instance_status()
    eventually(lambda: held.machine(name)["guest"] == "up")
    tags = [{"Key": "InstanceId", "Value": name}]
    held.ssm.put_parameter(Name=f"{PATH}/{name}", Value="t", Type="SecureString", Tags=tags)
    assert held.ssm.get_parameters_by_path(Path=PATH)["Parameters"]
    held.ssm.delete_parameter(Name=f"{PATH}/{name}")
    held.ec2.get_console_output(InstanceId=name)
    held.ec2.reboot_instances(InstanceIds=[name])
    sent = held.ssm.send_command(
        DocumentName=RESCUE, InstanceIds=[name], Parameters={"Action": ["journal"]}
    )
    command = sent["Command"]["CommandId"]
    held.ssm.get_command_invocation(CommandId=command, InstanceId=name)
    held.ec2.stop_instances(InstanceIds=[name])
    eventually(lambda: held.state(name) == "stopped")
    held.ec2.start_instances(InstanceIds=[name])
    held.ec2.terminate_instances(InstanceIds=[name])


def without_tag(launch: dict[str, Any], kind: str) -> None:
    for it in launch["TagSpecifications"]:
        if it["ResourceType"] == kind:
            it["Tags"] = [tag for tag in it["Tags"] if "deployment" not in tag["Key"]]


CHANGES = {
    "another type": lambda it: it.update(InstanceType="m5.large"),
    "metadata without a token": lambda it: it["MetadataOptions"].update(HttpTokens="optional"),
    "metadata over a router": lambda it: it["MetadataOptions"].update(HttpPutResponseHopLimit=2),
    "no profile": lambda it: it.pop("IamInstanceProfile"),
    "an open disk": lambda it: it["BlockDeviceMappings"][0]["Ebs"].update(Encrypted=False),
    "a machine without our tag": lambda it: without_tag(it, "instance"),
    "a volume without our tag": lambda it: without_tag(it, "volume"),
    "an interface without our tag": lambda it: without_tag(it, "network-interface"),
    "another group": lambda it: it["NetworkInterfaces"][0].update(Groups=["sg-00000001"]),
    "another subnet": lambda it: it["NetworkInterfaces"][0].update(SubnetId="subnet-00000001"),
    "a key pair": lambda it: it.update(KeyName="mine"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_launch_of_anything_else_is_refused(held: Aws, what: str) -> None:
    request = launch(held)
    CHANGES[what](request)
    assert code(held.ec2.run_instances, **request) == "UnauthorizedOperation"
    assert held.door("machines") == []


def test_strangers_are_out_of_reach(held: Aws) -> None:
    other = {"tags": {"browserfleet:deployment": "another"}}
    for machine in (held.door("machines", other), held.door("machines", {})):
        name = machine["id"]
        eventually(lambda: held.machine(name)["guest"] == "up")
        for call in (
            held.ec2.terminate_instances,
            held.ec2.stop_instances,
            held.ec2.reboot_instances,
        ):
            assert code(call, InstanceIds=[name]) == "UnauthorizedOperation"
        command = {"DocumentName": RESCUE, "Parameters": {"Action": ["journal"]}}
        assert code(held.ssm.send_command, InstanceIds=[name], **command) == "AccessDeniedException"


def test_nothing_beside_the_work_is_allowed(held: Aws) -> None:
    name = held.ec2.run_instances(**launch(held))["Instances"][0]["InstanceId"]
    tag = [{"Key": "browserfleet:row", "Value": "ins_2"}]
    assert code(held.ec2.create_tags, Resources=[name], Tags=tag) == "UnauthorizedOperation"
    for call, given in (
        (held.ec2.describe_subnets, {}),
        (held.ec2.modify_instance_metadata_options, {"InstanceId": name, "HttpTokens": "optional"}),
        (held.ec2.create_security_group, {"GroupName": "a", "Description": "b"}),
    ):
        assert code(call, **given) == "UnauthorizedOperation"
    for call, given in (
        (held.ssm.get_parameter, {"Name": f"{PATH}/{name}"}),
        (held.ssm.put_parameter, {"Name": "/a", "Value": "b", "Type": "String"}),
        (held.ssm.get_parameters_by_path, {"Path": "/browserfleet"}),
        (
            held.ssm.send_command,
            {"DocumentName": "AWS-RunShellScript", "InstanceIds": [name]},
        ),
    ):
        assert code(call, **given) == "AccessDeniedException"


def test_a_machine_gets_its_own_token_and_nothing_else(held: Aws) -> None:
    mine, other = (up(held, **launch(held)) for _ in range(2))
    for name in (mine, other):
        tags = [{"Key": "InstanceId", "Value": name}]
        held.ssm.put_parameter(Name=f"{PATH}/{name}", Value=name, Type="SecureString", Tags=tags)
    imds = Imds(held, mine)
    role = imds.get("meta-data/iam/security-credentials/")[1]
    keys = json.loads(imds.get(f"meta-data/iam/security-credentials/{role}")[1])
    as_machine = {
        "aws_access_key_id": keys["AccessKeyId"],
        "aws_secret_access_key": keys["SecretAccessKey"],
        "aws_session_token": keys["Token"],
    }
    ssm, ec2 = held.client("ssm", **as_machine), held.client("ec2", **as_machine)
    assert code(ssm.get_parameter, Name=f"{PATH}/{other}") == "AccessDeniedException"
    assert code(ssm.delete_parameter, Name=f"{PATH}/{other}") == "AccessDeniedException"
    # What is not there looks as what is another's.
    assert code(ssm.get_parameter, Name=f"{PATH}/i-0") == "AccessDeniedException"
    found = ssm.get_parameter(Name=f"{PATH}/{mine}", WithDecryption=True)["Parameter"]
    assert found["Value"] == mine
    ssm.delete_parameter(Name=f"{PATH}/{mine}")
    for call, given in (
        (ec2.describe_instances, {}),
        (ec2.terminate_instances, {"InstanceIds": [mine]}),
        (ec2.run_instances, launch(held)),
    ):
        assert code(call, **given) == "UnauthorizedOperation"


def test_the_judge_knows_iams_language() -> None:
    def policy(**statement: Any) -> Policy:
        whole = {"Sid": "A", "Effect": "Allow", "Action": "a:B*", "Resource": "r/*"} | statement
        return Policy(json.dumps({"Version": "2012-10-17", "Statement": [whole]}))

    assert policy().allows("a:Bc", "r/1", {})
    assert not policy().allows("a:C", "r/1", {}) and not policy().allows("a:B", "s/1", {})
    assert not policy(Effect="Deny").allows("a:B", "r/1", {})
    equal = policy(Condition={"StringEquals": {"k": ["x", "y"]}})
    assert equal.allows("a:B", "r/1", {"k": ["y"]})
    assert not equal.allows("a:B", "r/1", {}) and not equal.allows("a:B", "r/1", {"k": ["z"]})
    other = policy(Condition={"StringNotEquals": {"k": "x"}})
    assert other.allows("a:B", "r/1", {}) and not other.allows("a:B", "r/1", {"k": ["x"]})
    less = policy(Condition={"NumericLessThanEquals": {"k": "1"}})
    assert less.allows("a:B", "r/1", {"k": ["1"]}) and not less.allows("a:B", "r/1", {"k": ["2"]})
    filled = policy(Condition={"StringEquals": {"k": "a/${other}"}})
    assert filled.allows("a:B", "r/1", {"k": ["a/b"], "other": ["b"]})
    assert not filled.allows("a:B", "r/1", {"k": ["a/"]})
    with pytest.raises(Unknown):
        policy(Condition={"DateLessThan": {"k": "x"}}).allows("a:B", "r/1", {"k": ["x"]})
    with pytest.raises(Unknown):
        policy(NotAction="x")


def test_placeholders_are_words_in_capitals() -> None:
    filled = json.loads(
        fill(
            '{"Resource": ["a:REGION:SUBNET"], "k": "SUBNETS"}',
            {"REGION": "r", "SUBNET": ["1", "2"]},
        )
    )
    assert filled == {"Resource": ["a:r:1", "a:r:2"], "k": "SUBNETS"}
