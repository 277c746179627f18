"""What is inside machines: metadata, boot, agent, power."""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from conftest import USER_DATA, Aws, eventually

TTL = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "X-aws-ec2-metadata-token"
# An agent that tells its environment and lives.
TELLS = "#!/bin/sh\nenv > environment.$$; mv environment.$$ environment; echo started\nexec sleep 1000\n"


def asked(url: str, method: str = "GET", **headers: str) -> tuple[int, str, dict]:
    request = urllib.request.Request(url, method=method)
    for name, value in headers.items():
        request.add_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


class Imds:
    def __init__(self, aws: Aws, machine: str) -> None:
        self.base = aws.machine(machine)["metadata_endpoint"]
        status, self.token, headers = asked(f"{self.base}/latest/api/token", "PUT", **{TTL: "60"})
        assert status == 200
        self.ttl = {key.lower(): value for key, value in headers.items()}[TTL.lower()]

    def get(self, path: str) -> tuple[int, str]:
        return asked(f"{self.base}/latest/{path}", **{TOKEN: self.token})[:2]


def up(aws: Aws, **more) -> str:
    name = aws.run(**more)["InstanceId"]
    eventually(lambda: aws.machine(name)["guest"] == "up")
    return name


def running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(") ", 1)[1][0]
    except OSError:
        return False
    return state != "Z"


def test_metadata_asks_for_a_token(aws: Aws) -> None:
    name = up(aws)
    base = aws.machine(name)["metadata_endpoint"]
    assert asked(f"{base}/latest/meta-data/instance-id")[0] == 401
    assert asked(f"{base}/latest/meta-data/instance-id", **{TOKEN: "forged"})[0] == 401
    assert asked(f"{base}/latest/api/token", "PUT")[0] == 400
    assert asked(f"{base}/latest/api/token", "PUT", **{TTL: "21601"})[0] == 400
    forwarded = {TTL: "60", "X-Forwarded-For": "10.0.0.1"}
    assert asked(f"{base}/latest/api/token", "PUT", **forwarded)[0] == 403
    short = asked(f"{base}/latest/api/token", "PUT", **{TTL: "1"})[1]
    assert asked(f"{base}/latest/meta-data/instance-id", **{TOKEN: short})[0] == 200
    eventually(lambda: asked(f"{base}/latest/meta-data/instance-id", **{TOKEN: short})[0] == 401)


def test_metadata_tells_who_a_machine_is(aws: Aws) -> None:
    name = up(aws)
    imds = Imds(aws, name)
    machine = aws.described(name)
    assert imds.ttl == "60"
    assert imds.get("meta-data/instance-id") == (200, name)
    assert imds.get("meta-data/placement/region") == (200, "eu-central-1")
    zone = machine["Placement"]["AvailabilityZone"]
    assert imds.get("meta-data/placement/availability-zone") == (200, zone)
    assert imds.get("meta-data/local-ipv4") == (200, machine["PrivateIpAddress"])
    document = json.loads(imds.get("dynamic/instance-identity/document")[1])
    assert (document["instanceId"], document["imageId"]) == (name, machine["ImageId"])
    assert imds.get("user-data") == (200, USER_DATA)
    assert "instance-id" in imds.get("meta-data/")[1].splitlines()
    for absent in ("spot/instance-action", "events/recommendations/rebalance", "tags/instance/"):
        assert imds.get(f"meta-data/{absent}")[0] == 404


def test_the_role_of_a_machine_is_taken_by_aws(aws: Aws) -> None:
    imds = Imds(aws, name := up(aws))
    role = imds.get("meta-data/iam/security-credentials/")[1]
    keys = json.loads(imds.get(f"meta-data/iam/security-credentials/{role}")[1])
    assert keys["Code"] == "Success" and keys["Expiration"].endswith("Z")
    sts = aws.client(
        "sts",
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["Token"],
    )
    assert sts.get_caller_identity()["Arn"].endswith(f"assumed-role/{role}/{name}")
    assert aws.door("calls")[-1]["caller"] == name


def test_metadata_can_be_away(aws: Aws) -> None:
    name = up(aws)
    base = aws.machine(name)["metadata_endpoint"]
    aws.verb(name, "metadata", mode="error")
    assert asked(f"{base}/latest/api/token", "PUT", **{TTL: "60"})[0] == 500
    aws.verb(name, "metadata", mode="down")
    with pytest.raises(OSError):
        asked(f"{base}/latest/api/token", "PUT", **{TTL: "60"})
    aws.verb(name, "metadata", mode="silent")
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{base}/latest/meta-data/", timeout=0.3)
    aws.verb(name, "metadata", mode="up")
    Imds(aws, name)


def test_notices_are_told_and_kept(aws: Aws) -> None:
    name = up(aws, InstanceMarketOptions={"MarketType": "spot"})
    imds = Imds(aws, name)
    aws.verb(name, "rebalance")
    eventually(lambda: imds.get("meta-data/events/recommendations/rebalance")[0] == 200)
    aws.verb(name, "notice", in_ms=3000)
    eventually(lambda: imds.get("meta-data/spot/instance-action")[0] == 200)
    notice = json.loads(imds.get("meta-data/spot/instance-action")[1])
    assert notice["action"] == "terminate" and notice["time"].endswith("Z")
    assert aws.state(name) == "running"
    eventually(lambda: aws.state(name) == "terminated")
    assert aws.described(name)["StateReason"]["Code"] == "Server.SpotInstanceTermination"


def test_the_agent_is_started_as_user_data_says(aws: Aws) -> None:
    aws.agent(TELLS)
    name = up(aws)
    machine = aws.machine(name)
    folder = Path(machine["folder"])
    eventually((folder / "environment").exists)
    environment = dict(
        it.split("=", 1) for it in (folder / "environment").read_text().splitlines() if "=" in it
    )
    assert environment["BROWSERFLEET_CA_FILE"] == f"{folder}/etc/browserfleet/ca.pem"
    assert environment["BROWSERFLEET_DATA_DIR"] == f"{folder}/var/lib/browserfleet"
    assert environment["BROWSERFLEET_TOKEN_PARAMETERS"] == "/browserfleet/test/enrol/"
    assert environment["AWS_ENDPOINT_URL"] == aws.facts["endpoint"]
    assert environment["AWS_EC2_METADATA_SERVICE_ENDPOINT"] == machine["metadata_endpoint"]
    assert environment["BROWSERFLEET_ISOLATION"] == "off"
    assert "AWS_ACCESS_KEY_ID" not in environment
    assert machine["token_parameter"] == f"/browserfleet/test/enrol/{name}"
    env_file = folder / "etc/browserfleet/agent.env"
    assert env_file.stat().st_mode & 0o777 == 0o600
    eventually(lambda: "started" in aws.door(f"machines/{name}/journal"))


def test_the_end_of_a_machine_is_a_power_cut(aws: Aws) -> None:
    aws.agent("#!/bin/bash\ntrap 'echo told; exit 0' TERM\nsetsid sleep 1000 & wait $!\nwait\n")
    name = up(aws)
    agent = eventually(lambda: aws.machine(name)["agent_process"])
    [child] = eventually(lambda: children(agent))
    aws.ec2.terminate_instances(InstanceIds=[name])
    eventually(lambda: not running(agent) and not running(child))
    assert "told" not in aws.door(f"machines/{name}/journal")
    folder = Path(aws.machine(name)["folder"])
    eventually(lambda: not folder.exists())


def test_the_end_of_a_machine_may_be_told(aws: Aws) -> None:
    aws.knobs(graceful=True)
    aws.agent("#!/bin/bash\ntrap 'echo told; exit 0' TERM\necho up\nsleep 1000 & wait $!\n")
    name = up(aws)
    eventually(lambda: "up" in aws.door(f"machines/{name}/journal"))
    aws.ec2.terminate_instances(InstanceIds=[name])
    eventually(lambda: "told" in aws.door(f"machines/{name}/journal"))


def children(process: int) -> list[int]:
    found = subprocess.run(
        ["pgrep", "-P", str(process)], capture_output=True, text=True, check=False
    )
    return [int(it) for it in found.stdout.split()]


def test_a_reboot_is_a_new_process_on_the_same_disk(aws: Aws) -> None:
    aws.agent("#!/bin/sh\necho boot >> boots\nexec sleep 1000\n")
    name = up(aws)
    folder = Path(aws.machine(name)["folder"])
    eventually(lambda: (folder / "boots").exists())
    before = aws.machine(name)["agent_process"]
    aws.ec2.reboot_instances(InstanceIds=[name])
    eventually(lambda: (folder / "boots").read_text() == "boot\nboot\n")
    assert not running(before) and aws.machine(name)["boots"] == 2
    aws.rules({"action": "RebootInstances", "do": {"ignored": True}})
    aws.ec2.reboot_instances(InstanceIds=[name])
    time.sleep(0.3)
    assert aws.machine(name)["boots"] == 2


def test_a_stopped_machine_keeps_its_disk(aws: Aws) -> None:
    aws.agent("#!/bin/sh\necho boot >> boots\nexec sleep 1000\n")
    name = up(aws)
    folder = Path(aws.machine(name)["folder"])
    eventually(lambda: (folder / "boots").exists())
    aws.verb(name, "stop")
    eventually(lambda: aws.state(name) == "stopped")
    assert aws.machine(name)["guest"] == "off" and aws.machine(name)["agent_process"] is None
    aws.ec2.start_instances(InstanceIds=[name])
    eventually(lambda: (folder / "boots").read_text() == "boot\nboot\n")


@pytest.mark.parametrize(("behavior", "state"), [("terminate", "terminated"), ("stop", "stopped")])
def test_a_machine_that_powers_off_ends_as_asked_for(aws: Aws, behavior: str, state: str) -> None:
    aws.agent('#!/bin/sh\n"$BROWSERFLEET_POWER_OFF"\nexec sleep 1000\n')
    name = aws.run(InstanceInitiatedShutdownBehavior=behavior)["InstanceId"]
    eventually(lambda: aws.state(name) == state)
    assert aws.machine(name)["powered_off"]
    assert aws.described(name)["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


def test_an_agent_that_fails_is_started_again_until_it_is_enough(aws: Aws) -> None:
    aws.agent("#!/bin/sh\nexit 1\n")
    name = aws.run()["InstanceId"]
    eventually(lambda: aws.state(name) == "terminated")
    report = aws.machine(name)
    assert report["exits"] == [1] * 5 and report["powered_off"]


@pytest.mark.parametrize(("code", "again"), [(0, False), (2, False), (3, False), (4, True)])
def test_codes_that_the_unit_names_are_final(aws: Aws, code: int, again: bool) -> None:
    aws.agent(f"#!/bin/sh\n[ -e ran ] && exec sleep 1000\ntouch ran\nexit {code}\n")
    name = up(aws)
    eventually(lambda: aws.machine(name)["exits"] == [code])
    if again:
        eventually(lambda: aws.machine(name)["starts"] == 2)
    else:
        time.sleep(0.4)
        assert aws.machine(name)["starts"] == 1


def test_an_agent_is_killed_frozen_and_thawed(aws: Aws) -> None:
    name = up(aws)
    first = eventually(lambda: aws.machine(name)["agent_process"])
    aws.verb(name, "kill-agent")
    second = eventually(
        lambda: (it := aws.machine(name)["agent_process"]) not in (None, first) and it
    )
    aws.verb(name, "freeze-agent")
    eventually(lambda: stat(second) == "T")
    aws.verb(name, "thaw-agent")
    eventually(lambda: stat(second) == "S")
    aws.verb(name, "crash")
    eventually(lambda: not running(second))
    assert aws.state(name) == "running"


def stat(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rsplit(") ", 1)[1][0]


def test_machines_boot_slowly_or_never_or_are_played_by_the_test(aws: Aws) -> None:
    aws.rules(
        {"action": "RunInstances", "times": 1, "do": {"silent": True}},
        {"action": "RunInstances", "times": 1, "do": {"boot_ms": 3000}},
        {"action": "RunInstances", "times": 1, "do": {"agent": "none"}},
    )
    silent, slow, played = (aws.run()["InstanceId"] for _ in range(3))
    eventually(lambda: aws.machine(played)["guest"] == "up")
    assert aws.machine(slow)["guest"] == "booting"
    report = aws.machine(played)
    assert (
        report["starts"] == 0 and report["token_parameter"] == f"/browserfleet/test/enrol/{played}"
    )
    Imds(aws, played)
    eventually(lambda: aws.machine(slow)["starts"] == 1)
    assert aws.machine(silent)["guest"] == "booting" and aws.machine(silent)["starts"] == 0


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "#!/bin/sh\n",
        USER_DATA.replace("runcmd", "runcmds"),
        USER_DATA.replace("#cloud", "# cloud"),
    ],
)
def test_broken_user_data_boots_nothing_and_says_why(aws: Aws, broken: str) -> None:
    name = aws.run(UserData=broken)["InstanceId"]
    assert eventually(lambda: aws.machine(name)["fault"]).startswith("user-data: ")
    eventually(lambda: aws.state(name) == "running")
    time.sleep(0.2)
    assert aws.machine(name)["starts"] == 0


def test_nothing_runs_on_when_it_ends(tmp_path: Path) -> None:
    other = Aws(tmp_path)
    name = up(other)
    agent = eventually(lambda: other.machine(name)["agent_process"])
    os.kill(agent, 0)
    other.stop()
    eventually(lambda: not running(agent))


def test_an_unknown_verb_is_refused(aws: Aws) -> None:
    name = aws.run()["InstanceId"]
    with pytest.raises(urllib.error.HTTPError):
        aws.verb(name, "explode")
    with pytest.raises(urllib.error.HTTPError):
        aws.verb(name, "metadata", mode="odd")
    with pytest.raises(ClientError):
        aws.described("i-00000000000000000")
