"""Each fault as an SDK sees it."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    HTTPClientError,
    IncompleteReadError,
    ResponseStreamingError,
)
from botocore.parsers import ResponseParserError

from conftest import Aws, eventually
from rules import ERRORS

NO_ANSWER = (ConnectionClosedError, HTTPClientError)
HALF = (IncompleteReadError, ResponseStreamingError, ResponseParserError, HTTPClientError)


def refusal(call, **given):
    with pytest.raises(ClientError) as caught:
        call(**given)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_every_error_of_ec2_has_its_code_and_status(aws: Aws, code: str) -> None:
    aws.rules({"action": "RunInstances", "do": {"error": code}})
    assert refusal(aws.ec2.run_instances, **aws.request()) == (code, ERRORS[code][0])
    assert aws.door("machines") == []


def test_an_error_may_have_another_status_and_text(aws: Aws) -> None:
    aws.rules({"do": {"error": "Odd", "status": 418, "message": "short and stout"}})
    with pytest.raises(ClientError, match="short and stout") as caught:
        aws.ec2.describe_instances()
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 418


def test_rules_are_looked_through_from_the_top(aws: Aws) -> None:
    aws.rules(
        {
            "action": "RunInstances",
            "when": {"type": "c7i.*", "market": "spot"},
            "do": {"error": "MaxSpotInstanceCountExceeded"},
        },
        {
            "action": "RunInstances",
            "when": {"type": ["c7i.large", "m7i.large"], "subnet": aws.facts["subnets"][0]},
            "do": {"error": "InsufficientInstanceCapacity"},
        },
        {"action": "RunInstances", "skip": 1, "times": 1, "do": {"error": "VcpuLimitExceeded"}},
    )
    spot = aws.request() | {"InstanceMarketOptions": {"MarketType": "spot"}}
    assert refusal(aws.ec2.run_instances, **spot)[0] == "MaxSpotInstanceCountExceeded"
    assert refusal(aws.ec2.run_instances, **aws.request())[0] == "InsufficientInstanceCapacity"
    elsewhere = aws.request(subnet=1)
    aws.ec2.run_instances(**elsewhere)
    assert refusal(aws.ec2.run_instances, **elsewhere)[0] == "VcpuLimitExceeded"
    aws.ec2.run_instances(**elsewhere)
    assert [it["applied"] for it in aws.door("rules")] == [1, 1, 1]


def test_a_rule_that_nobody_understands_is_refused(aws: Aws) -> None:
    for rule in (
        {"do": {}},
        {"do": {"eror": "x"}},
        {"when": {"colour": "red"}, "do": {"lost": True}},
        {"do": {"lost": True, "error": "InternalError"}},
        {"do": {"error": "NobodyKnows"}},
    ):
        with pytest.raises(Exception, match="400"):
            aws.rules(rule)


@pytest.mark.parametrize(
    ("do", "error"),
    [
        ({"lost": True}, NO_ANSWER),
        ({"truncated": True}, HALF),
        ({"gateway": 502}, (ClientError, ResponseParserError)),
        ({"gateway": 503}, (ClientError, ResponseParserError)),
    ],
)
def test_an_answer_that_does_not_arrive_was_given(aws: Aws, do: dict, error: tuple) -> None:
    aws.rules({"action": "RunInstances", "times": 1, "do": do})
    launch = aws.request() | {"ClientToken": "bf-1-1"}
    with pytest.raises(error):
        aws.ec2.run_instances(**launch)
    made = aws.door("machines")
    assert len(made) == 1
    again = aws.ec2.run_instances(**launch)["Instances"][0]
    assert again["InstanceId"] == made[0]["id"]


def test_a_call_that_does_not_arrive_was_not_made(aws: Aws) -> None:
    aws.rules({"action": "RunInstances", "do": {"drop": True}})
    with pytest.raises(NO_ANSWER):
        aws.ec2.run_instances(**aws.request())
    assert aws.door("machines") == []


def test_an_answer_is_late(aws: Aws) -> None:
    aws.rules({"action": "RunInstances", "do": {"late_ms": 300}})
    began = time.monotonic()
    aws.run()
    assert 0.3 <= time.monotonic() - began


def test_others_are_answered_while_one_waits(aws: Aws) -> None:
    aws.rules({"action": "DescribeSubnets", "do": {"delay_ms": 3000}})
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(aws.client("ec2").describe_subnets)
        began = time.monotonic()
        aws.ec2.describe_instances()
        assert time.monotonic() - began < 2 and not slow.done()
        assert slow.result(timeout=10)["Subnets"]


def test_throttling_is_a_bucket(aws: Aws) -> None:
    aws.knobs(throttle={"RunInstances": [3, 0.5]})
    for _ in range(3):
        aws.run()
    assert refusal(aws.ec2.run_instances, **aws.request()) == ("RequestLimitExceeded", 503)
    time.sleep(2.2)
    aws.run()
    assert refusal(aws.ec2.run_instances, **aws.request())[0] == "RequestLimitExceeded"
    aws.knobs(throttle=True)
    results = []
    for number in range(8):
        try:
            aws.ssm.put_parameter(Name=f"/a/{number}", Value="x", Type="SecureString")
            results.append("ok")
        except ClientError as error:
            results.append(error.response["Error"]["Code"])
    assert results[:3] == ["ok"] * 3 and "ThrottlingException" in results
    aws.knobs(throttle=False)
    aws.run()


def test_a_terminate_may_be_accepted_and_not_done(aws: Aws) -> None:
    name = aws.run()["InstanceId"]
    aws.rules({"action": "TerminateInstances", "times": 1, "do": {"ignored": True}})
    aws.ec2.terminate_instances(InstanceIds=[name])
    eventually(lambda: aws.state(name) == "running")
    aws.ec2.terminate_instances(InstanceIds=[name])
    eventually(lambda: aws.state(name) == "terminated")


def test_calls_are_logged_with_what_matters_and_no_secret(aws: Aws) -> None:
    aws.rules({"action": "RunInstances", "times": 1, "do": {"lost": True}})
    launch = aws.request() | {"ClientToken": "bf-1-1"}
    with pytest.raises(NO_ANSWER):
        aws.ec2.run_instances(**launch)
    name = aws.ec2.run_instances(**launch)["Instances"][0]["InstanceId"]
    aws.ssm.put_parameter(
        Name=f"/browserfleet/x/enrol/{name}", Value="secret-1", Type="SecureString"
    )
    lost, again, put = aws.door("calls")
    assert lost["result"] == "lost (ok)" and lost["made"] == [name] and lost["rule"] == "0"
    assert again["result"] == "ok" and "made" not in again
    for call in (lost, again):
        assert call["token"] == "bf-1-1" and call["row"] == "ins_1" and call["attempt"] == "1"
        assert call["type"] == "c7i.large" and call["market"] == "on-demand"
        assert call["caller"] == "control-plane"
    assert put["name"] == f"/browserfleet/x/enrol/{name}"
    assert "secret-1" not in str([lost, again, put])
    assert aws.door(f"calls?after={put['number']}") == []
