"""Listings that lag, omit, and come in pages."""

import time

import pytest
from botocore.exceptions import ClientError

from conftest import Aws, eventually

DEPLOYMENT = "tag:browserfleet:deployment"
UUID = "11111111-2222-4333-8444-555555555555"


def listed(aws: Aws, *filters: tuple[str, list[str]], **more) -> list[str]:
    asked = [{"Name": name, "Values": values} for name, values in filters]
    pages = aws.ec2.get_paginator("describe_instances").paginate(Filters=asked, **more)
    return [
        it["InstanceId"]
        for page in pages
        for one in page["Reservations"]
        for it in one["Instances"]
    ]


def code(call, **given) -> str:
    with pytest.raises(ClientError) as caught:
        call(**given)
    return caught.value.response["Error"]["Code"]


def test_a_new_machine_is_hidden_for_a_while(aws: Aws) -> None:
    aws.knobs(hidden_ms=1500)
    name = aws.run()["InstanceId"]
    assert listed(aws) == []
    assert code(aws.ec2.describe_instances, InstanceIds=[name]) == "InvalidInstanceID.NotFound"
    eventually(lambda: listed(aws) == [name])
    aws.ec2.terminate_instances(InstanceIds=[name])


def test_a_dead_machine_is_shown_running_for_a_while(aws: Aws) -> None:
    name = aws.run()["InstanceId"]
    eventually(lambda: aws.state(name) == "running")
    aws.knobs(stale_ms=1500, shutting_down_ms=0)
    time.sleep(1.5)
    aws.ec2.terminate_instances(InstanceIds=[name])
    time.sleep(0.1)
    assert aws.state(name) == "running"
    assert aws.machine(name)["state"] == "terminated"
    eventually(lambda: aws.state(name) == "terminated")


def test_one_machine_is_omitted(aws: Aws) -> None:
    first, second = aws.run()["InstanceId"], aws.run()["InstanceId"]
    aws.verb(first, "hide")
    assert listed(aws) == [second]
    aws.verb(first, "show")
    assert listed(aws) == [first, second]
    aws.verb(first, "hide", for_ms=1500)
    assert listed(aws) == [second]
    eventually(lambda: listed(aws) == [first, second])


def test_an_ended_machine_is_forgotten_in_time(aws: Aws) -> None:
    aws.knobs(gone_ms=2000, shutting_down_ms=0)
    name = aws.run()["InstanceId"]
    aws.ec2.terminate_instances(InstanceIds=[name])
    eventually(lambda: aws.state(name) == "terminated")
    eventually(lambda: listed(aws) == [])
    assert code(aws.ec2.describe_instances, InstanceIds=[name]) == "InvalidInstanceID.NotFound"
    assert code(aws.ec2.terminate_instances, InstanceIds=[name]) == "InvalidInstanceID.NotFound"


def test_a_machine_vanishes_without_a_trace(aws: Aws) -> None:
    name = aws.run()["InstanceId"]
    aws.verb(name, "vanish")
    assert listed(aws) == []
    assert code(aws.ec2.terminate_instances, InstanceIds=[name]) == "InvalidInstanceID.NotFound"


def test_filters_are_those_of_aws(aws: Aws) -> None:
    first = aws.run(ClientToken="t-1")["InstanceId"]
    spot = aws.run(InstanceMarketOptions={"MarketType": "spot"})["InstanceId"]
    stranger = aws.door("machines", {"tags": {DEPLOYMENT[4:]: "another"}})["id"]
    assert listed(aws) == [first, spot, stranger]
    assert listed(aws, (DEPLOYMENT, [UUID])) == [first, spot]
    assert listed(aws, (DEPLOYMENT, ["*"])) == [first, spot, stranger]
    assert listed(aws, ("client-token", ["t-1"])) == [first]
    assert listed(aws, ("instance-lifecycle", ["spot"])) == [spot]
    eventually(lambda: listed(aws, ("instance-state-name", ["running"])) == [first, spot, stranger])
    aws.verb(first, "terminate")
    alive = ["pending", "running", "stopping", "stopped"]
    eventually(lambda: listed(aws, ("instance-state-name", alive)) == [spot, stranger])
    assert (
        code(aws.ec2.describe_instances, Filters=[{"Name": "x", "Values": ["y"]}])
        == "InvalidParameterValue"
    )


def test_pages_are_whole_and_one_may_fail(aws: Aws) -> None:
    made = [aws.run()["InstanceId"] for _ in range(12)]
    aws.verb(made[3], "hide")
    seen = listed(aws, (DEPLOYMENT, [UUID]), PaginationConfig={"PageSize": 5})
    assert seen == made[:3] + made[4:]
    assert len([it for it in aws.door("calls") if it["action"] == "DescribeInstances"]) == 3
    aws.rules(
        {"action": "DescribeInstances", "when": {"page": 2}, "do": {"error": "InternalError"}}
    )
    with pytest.raises(ClientError, match="InternalError"):
        listed(aws, PaginationConfig={"PageSize": 5})
    assert aws.door("calls")[-1]["page"] == "2"
    aws.rules()
    assert (
        code(aws.ec2.describe_instances, InstanceIds=made[:1], MaxResults=5)
        == "InvalidParameterCombination"
    )
    assert code(aws.ec2.describe_instances, NextToken="nonsense") == "InvalidNextToken"


def test_what_a_listing_says_follows_what_is_changed(aws: Aws) -> None:
    name = aws.run()["InstanceId"]
    eventually(lambda: aws.state(name) == "running")
    aws.ec2.create_tags(Resources=[name], Tags=[{"Key": "colour", "Value": "red"}])
    assert {"Key": "colour", "Value": "red"} in aws.described(name)["Tags"]
    assert listed(aws, ("tag:colour", ["red"])) == [name]
    launched = aws.described(name)["LaunchTime"]
    aws.verb(name, "age", ms=3_600_000)
    assert (launched - aws.described(name)["LaunchTime"]).total_seconds() == 3600


def test_malformed_ids_are_told_apart(aws: Aws) -> None:
    assert code(aws.ec2.describe_instances, InstanceIds=["i-x"]) == "InvalidInstanceID.Malformed"
    absent = "i-0123456789abcdef0"
    assert code(aws.ec2.describe_instances, InstanceIds=[absent]) == "InvalidInstanceID.NotFound"
    assert code(aws.ec2.terminate_instances, InstanceIds=[absent]) == "InvalidInstanceID.NotFound"
    assert (
        code(aws.ec2.describe_instance_status, InstanceIds=[absent]) == "InvalidInstanceID.NotFound"
    )


def test_status_checks_fail_and_events_are_announced(aws: Aws) -> None:
    aws.knobs(pending_ms=1500)
    name = aws.run()["InstanceId"]

    def status(**more) -> list[dict]:
        return aws.ec2.describe_instance_status(**more)["InstanceStatuses"]

    assert status(IncludeAllInstances=True)[0]["InstanceStatus"]["Status"] == "not-applicable"
    [fine] = eventually(status)
    assert fine["InstanceStatus"]["Status"] == fine["SystemStatus"]["Status"] == "ok"
    aws.verb(name, "impair", which=["instance"])
    assert status()[0]["InstanceStatus"]["Status"] == "impaired"
    assert status()[0]["SystemStatus"]["Status"] == "ok"
    impaired = [{"Name": "system-status.status", "Values": ["impaired"]}]
    assert status(Filters=impaired) == []
    aws.verb(name, "impair", which=["system"])
    assert len(status(Filters=impaired)) == 1
    aws.verb(name, "impair", which=[])
    assert status()[0]["SystemStatus"]["Status"] == "ok"
    aws.verb(name, "event", code="instance-retirement", in_ms=60_000)
    [event] = status()[0]["Events"]
    assert event["Code"] == "instance-retirement" and event["NotBefore"]
    aws.knobs(initializing_ms=60_000)
    assert status()[0]["InstanceStatus"]["Status"] == "initializing"


@pytest.mark.parametrize("count", [1, 50, 200])
def test_listing_many_is_cheap(aws: Aws, count: int) -> None:
    aws.knobs(agent="none")
    began = time.monotonic()
    for _ in range(count):
        aws.run()
    launching = (time.monotonic() - began) / count
    eventually(lambda: len(listed(aws, ("instance-state-name", ["running"]))) == count)
    began = time.monotonic()
    assert len(listed(aws, (DEPLOYMENT, [UUID]), PaginationConfig={"PageSize": 1000})) == count
    listing = time.monotonic() - began
    print(
        f"{count}: RunInstances {launching * 1e3:.1f} ms, DescribeInstances {listing * 1e3:.1f} ms"
    )
    # Generous: other work may share the machine.
    assert launching < 0.3 and listing < 0.1 + 0.01 * count
