"""Parameters that are late or refused, and the rescue door."""

import json

import pytest
from botocore.exceptions import ClientError

from account import RESCUE
from conftest import Aws, eventually

DOCUMENT = {
    "schemaVersion": "2.2",
    "parameters": {"Action": {"type": "String", "allowedValues": ["restart", "journal"]}},
    "mainSteps": [
        {
            "action": "aws:runShellScript",
            "name": "rescue",
            "inputs": {"runCommand": ["exec /usr/local/sbin/browserfleet-rescue {{ Action }}"]},
        }
    ],
}


def code(call, **given) -> str:
    with pytest.raises(ClientError) as caught:
        call(**given)
    return caught.value.response["Error"]["Code"]


def put(aws: Aws, name: str) -> None:
    aws.ssm.put_parameter(
        Name=name, Value="token", Type="SecureString", Tags=[{"Key": "InstanceId", "Value": "i-1"}]
    )


def test_a_parameter_is_there_once_and_gone_once(aws: Aws) -> None:
    name = "/browserfleet/x/enrol/i-1"
    put(aws, name)
    assert aws.door("parameters")[-1] == {
        "name": name,
        "type": "SecureString",
        "tags": {"InstanceId": "i-1"},
    }
    assert aws.door("parameters", {"name": name})["value"] == "token"
    found = aws.ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]
    assert found["Value"] == "token"
    assert (
        code(aws.ssm.put_parameter, Name=name, Value="x", Type="SecureString")
        == "ParameterAlreadyExists"
    )
    below = aws.ssm.get_parameters_by_path(Path="/browserfleet/x/enrol/")["Parameters"]
    assert [it["Name"] for it in below] == [name]
    aws.ssm.delete_parameter(Name=name)
    assert code(aws.ssm.get_parameter, Name=name) == "ParameterNotFound"
    assert code(aws.ssm.delete_parameter, Name=name) == "ParameterNotFound"


def test_a_parameter_is_seen_late(aws: Aws) -> None:
    aws.knobs(parameter_lag_ms=1500)
    put(aws, "/a/late")
    assert code(aws.ssm.get_parameter, Name="/a/late") == "ParameterNotFound"

    def seen() -> bool:
        try:
            return bool(aws.ssm.get_parameter(Name="/a/late"))
        except ClientError:
            return False

    eventually(seen)


def test_parameters_fail_by_name(aws: Aws) -> None:
    aws.rules(
        {
            "action": "PutParameter",
            "when": {"name": "/a/*"},
            "do": {"error": "ThrottlingException"},
        },
        {
            "action": "PutParameter",
            "when": {"name": "/b/*"},
            "do": {"error": "InternalServerError"},
        },
        {"action": "GetParameter", "times": 1, "do": {"error": "AccessDeniedException"}},
    )
    for name, expected in (("/a/1", "ThrottlingException"), ("/b/1", "InternalServerError")):
        assert code(aws.ssm.put_parameter, Name=name, Value="x", Type="String") == expected
    put(aws, "/c/1")
    assert code(aws.ssm.get_parameter, Name="/c/1") == "AccessDeniedException"
    aws.ssm.get_parameter(Name="/c/1")


def test_the_image_is_found_by_its_parameter(aws: Aws) -> None:
    name = aws.facts["image_parameter"]
    assert aws.ssm.get_parameter(Name=name)["Parameter"]["Value"] == aws.facts["image"]
    aws.door("parameters", {"name": name, "value": aws.facts["next_image"]})
    assert aws.ssm.get_parameter(Name=name)["Parameter"]["Value"] == aws.facts["next_image"]
    images = aws.ec2.describe_images(ImageIds=[aws.facts["image"], aws.facts["next_image"]])
    assert len(images["Images"]) == 2


@pytest.fixture
def rescue(aws: Aws) -> Aws:
    names = [it["Name"] for it in aws.ssm.list_documents()["DocumentIdentifiers"]]
    if RESCUE not in names:
        aws.ssm.create_document(
            Name=RESCUE, Content=json.dumps(DOCUMENT), DocumentType="Command", DocumentFormat="JSON"
        )
    return aws


def send(aws: Aws, machine: str, action: str, document: str = RESCUE) -> str:
    sent = aws.ssm.send_command(
        DocumentName=document, InstanceIds=[machine], Parameters={"Action": [action]}
    )
    return sent["Command"]["CommandId"]


def test_the_rescue_door_restarts_an_agent_and_reads_its_journal(rescue: Aws) -> None:
    aws = rescue
    aws.agent("#!/bin/sh\necho hello from $$\nexec sleep 1000\n")
    name = aws.run()["InstanceId"]
    eventually(lambda: aws.machine(name)["guest"] == "up")
    first = eventually(lambda: aws.machine(name)["agent_process"])
    eventually(lambda: aws.door(f"machines/{name}/journal"))
    command = send(aws, name, "journal")
    result = aws.ssm.get_command_invocation(CommandId=command, InstanceId=name)
    assert result["Status"] == "Success"
    assert f"hello from {first}" in result["StandardOutputContent"]
    send(aws, name, "restart")
    eventually(lambda: aws.machine(name)["agent_process"] not in (None, first))


def test_the_rescue_door_starts_an_agent_that_stays_down(rescue: Aws) -> None:
    aws = rescue
    aws.agent("#!/bin/sh\n[ -e ran ] && exec sleep 1000\ntouch ran\nexit 3\n")
    name = aws.run()["InstanceId"]
    eventually(lambda: aws.machine(name)["exits"] == [3])
    assert aws.machine(name)["agent_process"] is None
    send(aws, name, "restart")
    eventually(lambda: aws.machine(name)["agent_process"])


def test_the_rescue_door_is_closed_for_strangers(rescue: Aws) -> None:
    aws = rescue
    aws.rules({"action": "RunInstances", "do": {"silent": True}})
    silent = aws.run()["InstanceId"]
    for machine in ("i-0123456789abcdef0", silent):
        call = {
            "DocumentName": RESCUE,
            "InstanceIds": [machine],
            "Parameters": {"Action": ["journal"]},
        }
        assert code(aws.ssm.send_command, **call) == "InvalidInstanceId"
    aws.rules()
    name = aws.run()["InstanceId"]
    eventually(lambda: aws.machine(name)["guest"] == "up")
    call = {"DocumentName": "AWS-RunShellScript-of-mine", "InstanceIds": [name]}
    assert code(aws.ssm.send_command, **call) == "InvalidDocument"
    call = {"DocumentName": RESCUE, "InstanceIds": [name], "Parameters": {"Action": ["rm -rf /"]}}
    assert code(aws.ssm.send_command, **call) == "InvalidParameters"
    aws.knobs(invocation_lag_ms=5000)
    command = send(aws, name, "journal")
    asked = {"CommandId": command, "InstanceId": name}
    assert code(aws.ssm.get_command_invocation, **asked) == "InvocationDoesNotExist"
