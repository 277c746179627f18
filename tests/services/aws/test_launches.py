"""Launches: what a client token promises, and what is refused."""

import threading

import pytest
from botocore.exceptions import ClientError

from conftest import Aws, eventually


def refusal(call, **given):
    with pytest.raises(ClientError) as caught:
        call(**given)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def test_a_machine_goes_its_way(aws: Aws) -> None:
    aws.knobs(pending_ms=1500, shutting_down_ms=1500)
    machine = aws.run()
    assert machine["State"]["Name"] == "pending"
    name = machine["InstanceId"]
    assert aws.state(name) == "pending"
    eventually(lambda: aws.state(name) == "running")
    ended = aws.ec2.terminate_instances(InstanceIds=[name])["TerminatingInstances"][0]
    assert ended["PreviousState"]["Name"] == "running"
    assert ended["CurrentState"]["Name"] == "shutting-down"
    assert aws.state(name) == "shutting-down"
    eventually(lambda: aws.state(name) == "terminated")
    again = aws.ec2.terminate_instances(InstanceIds=[name])["TerminatingInstances"][0]
    assert again["CurrentState"]["Name"] == "terminated"
    assert aws.described(name)["StateReason"]["Code"] == "Client.UserInitiatedShutdown"


def test_a_launch_is_what_was_asked_for(aws: Aws) -> None:
    name = aws.run()["InstanceId"]
    machine = aws.described(name)
    assert machine["IamInstanceProfile"]["Arn"].endswith("/browserfleet-agent")
    assert machine["MetadataOptions"]["HttpTokens"] == "required"
    assert machine["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert machine["SubnetId"] == aws.facts["subnets"][0]
    assert machine["NetworkInterfaces"][0]["Groups"][0]["GroupId"] == aws.facts["security_group"]
    assert "PublicIpAddress" not in machine
    assert {"Key": "browserfleet:row", "Value": "ins_1"} in machine["Tags"]
    report = aws.machine(name)
    assert (report["row"], report["attempt"]) == ("ins_1", "1")
    assert set(report["tagged"]) == {"instance", "volume", "network-interface"}
    assert report["shutdown_behavior"] == "terminate"
    assert report["public_address"] is None


def test_as_many_are_launched_as_there_may_be(aws: Aws) -> None:
    launched = aws.ec2.run_instances(**(aws.request() | {"MaxCount": 3}))
    assert len(launched["Instances"]) == 3


def test_a_token_again_is_the_same_machine_in_its_state_of_now(aws: Aws) -> None:
    first = aws.run(ClientToken="bf-1-1")
    eventually(lambda: aws.state(first["InstanceId"]) == "running")
    again = aws.run(ClientToken="bf-1-1")
    assert again["InstanceId"] == first["InstanceId"]
    assert again["State"]["Name"] == "running"
    assert again["Tags"] == aws.described(first["InstanceId"])["Tags"]
    assert len(aws.door("machines")) == 1


def test_a_token_at_the_same_time_is_one_machine(aws: Aws) -> None:
    launched = []
    clients = [aws.client("ec2") for _ in range(6)]

    def launch(client) -> None:
        answer = client.run_instances(**(aws.request() | {"ClientToken": "bf-1-1"}))
        launched.append(answer["Instances"][0]["InstanceId"])

    threads = [threading.Thread(target=launch, args=[it]) for it in clients]
    for it in threads:
        it.start()
    for it in threads:
        it.join()
    assert len(launched) == 6 and len(set(launched)) == 1


def test_a_token_with_other_parameters_is_refused(aws: Aws) -> None:
    aws.run(ClientToken="bf-1-1")
    other = aws.request() | {"ClientToken": "bf-1-1", "InstanceType": "c7i.xlarge"}
    assert refusal(aws.ec2.run_instances, **other) == ("IdempotentParameterMismatch", 400)
    assert len(aws.door("machines")) == 1


def test_a_token_counts_for_one_zone(aws: Aws) -> None:
    first = aws.run(ClientToken="bf-1-1")
    second = aws.ec2.run_instances(**(aws.request(subnet=1) | {"ClientToken": "bf-1-1"}))
    assert second["Instances"][0]["InstanceId"] != first["InstanceId"]


def test_a_token_of_a_machine_that_ended_is_refused(aws: Aws) -> None:
    name = aws.run(ClientToken="bf-1-1")["InstanceId"]
    aws.verb(name, "terminate")
    eventually(lambda: aws.state(name) == "terminated")
    again = aws.request() | {"ClientToken": "bf-1-1"}
    assert refusal(aws.ec2.run_instances, **again) == ("IdempotentInstanceTerminated", 400)


def test_a_refused_launch_does_not_spend_its_token(aws: Aws) -> None:
    aws.rules({"do": {"error": "InsufficientInstanceCapacity"}, "times": 1})
    launch = aws.request() | {"ClientToken": "bf-1-1"}
    assert refusal(aws.ec2.run_instances, **launch) == ("InsufficientInstanceCapacity", 500)
    aws.ec2.run_instances(**launch)
    assert len(aws.door("machines")) == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"InstanceType": "c99.large"}, "InvalidParameterValue"),
        ({"ImageId": "ami-0123456789abcdef0"}, "InvalidAMIID.NotFound"),
        ({"IamInstanceProfile": {"Name": "nobodys"}}, "InvalidParameterValue"),
        ({"UserData": "x" * 16_385}, "InvalidParameterValue"),
        ({"ClientToken": "x" * 65}, "InvalidParameterValue"),
    ],
)
def test_what_aws_would_refuse_is_refused(aws: Aws, change: dict, code: str) -> None:
    assert refusal(aws.ec2.run_instances, **(aws.request() | change)) == (code, 400)
    assert aws.door("machines") == []


def test_a_full_subnet_is_told(aws: Aws) -> None:
    vpc = aws.ec2.describe_subnets(SubnetIds=[aws.facts["subnets"][0]])["Subnets"][0]["VpcId"]
    small = aws.ec2.create_subnet(VpcId=vpc, CidrBlock="10.20.64.0/28")["Subnet"]["SubnetId"]
    request = aws.request()
    request["NetworkInterfaces"][0]["SubnetId"] = small
    full = [aws.ec2.run_instances(**request)["Instances"][0]["InstanceId"] for _ in range(11)]
    assert refusal(aws.ec2.run_instances, **request)[0] == "InsufficientFreeAddressesInSubnet"
    aws.verb(full[0], "terminate")
    aws.ec2.run_instances(**request)


def test_a_launch_that_dies_says_why(aws: Aws) -> None:
    aws.rules({"action": "RunInstances", "do": {"dies": {"after_ms": 50}}})
    name = aws.run()["InstanceId"]
    eventually(lambda: aws.state(name) == "terminated")
    assert aws.described(name)["StateReason"]["Code"] == "Client.InternalError"


def test_a_launch_that_is_stuck_stays_pending(aws: Aws) -> None:
    aws.knobs(pending_ms=0)
    aws.rules({"action": "RunInstances", "do": {"stuck": True}, "times": 1})
    stuck, other = aws.run()["InstanceId"], aws.run()["InstanceId"]
    eventually(lambda: aws.state(other) == "running")
    assert aws.state(stuck) == "pending"
    aws.ec2.terminate_instances(InstanceIds=[stuck])
    eventually(lambda: aws.state(stuck) == "terminated")


def test_what_ended_is_not_revived(aws: Aws) -> None:
    name = aws.run()["InstanceId"]
    aws.verb(name, "terminate")
    eventually(lambda: aws.state(name) == "terminated")
    for call in (aws.ec2.start_instances, aws.ec2.reboot_instances, aws.ec2.stop_instances):
        assert refusal(call, InstanceIds=[name]) == ("IncorrectInstanceState", 400)
    assert aws.state(name) == "terminated"


def test_a_stopped_machine_starts_again(aws: Aws) -> None:
    name = aws.run()["InstanceId"]
    eventually(lambda: aws.state(name) == "running")
    aws.ec2.stop_instances(InstanceIds=[name])
    eventually(lambda: aws.state(name) == "stopped")
    aws.ec2.start_instances(InstanceIds=[name])
    eventually(lambda: aws.state(name) == "running")


def test_a_spot_machine_cannot_be_stopped(aws: Aws) -> None:
    name = aws.run(InstanceMarketOptions={"MarketType": "spot"})["InstanceId"]
    assert aws.described(name)["InstanceLifecycle"] == "spot"
    eventually(lambda: aws.state(name) == "running")
    assert refusal(aws.ec2.stop_instances, InstanceIds=[name])[0] == "UnsupportedOperation"


def test_a_protected_machine_stays(aws: Aws) -> None:
    name = aws.run()["InstanceId"]
    aws.verb(name, "protect")
    assert refusal(aws.ec2.terminate_instances, InstanceIds=[name])[0] == "OperationNotPermitted"
