"""One AWS for a test, and clients for it: those that the control plane has, those of a
machine, and the test's own doors."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any
from collections.abc import Callable, Iterator

import boto3
import pytest
from botocore.config import Config

HERE = Path(__file__).resolve().parent
# How long a level may take to be reached, in seconds.
WITHIN = 10

SLEEPS = "#!/bin/sh\nexec sleep 1000\n"
USER_DATA = """#cloud-config
write_files:
- path: /etc/browserfleet/agent.env
  permissions: "0600"
  content: |
    BROWSERFLEET_CONTROL_PLANE=https://127.0.0.1:1
    BROWSERFLEET_CA_FILE=/etc/browserfleet/ca.pem
    BROWSERFLEET_DATA_DIR=/var/lib/browserfleet
    BROWSERFLEET_TOKEN_PARAMETERS=/browserfleet/test/enrol/
- path: /etc/systemd/system/browserfleet-agent.service
  content: |
    [Unit]
    StartLimitIntervalSec=600
    StartLimitBurst=5
    StartLimitAction=poweroff
    [Service]
    EnvironmentFile=/etc/browserfleet/agent.env
    ExecStart=/usr/local/bin/browserfleet-agent
    Restart=on-failure
    RestartSec=5s
    RestartPreventExitStatus=2 3
runcmd:
- [systemctl, enable, --now, browserfleet-agent.service]
"""


class Aws:
    """A running one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = folder / "agent"
        self.agent(SLEEPS)
        began = time.monotonic()
        self.process = subprocess.Popen(
            [
                sys.executable,
                HERE / "serve.py",
                "--agent",
                self.program,
                "--folder",
                folder / "machines",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "errors").open("wb"),
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (folder / "errors").read_text()
        self.started_in = time.monotonic() - began
        self._have(json.loads(line))

    def _have(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        self.ec2 = self.client("ec2")
        self.ssm = self.client("ssm")

    def reset(self) -> None:
        self.agent(SLEEPS)
        self._have(self.door("reset", {}))

    def agent(self, script: str) -> None:
        """What machines run from now on."""
        self.program.write_text(script)
        self.program.chmod(0o755)

    def client(self, service: str, **more: Any) -> Any:
        """As the control plane has it, and with one try for each call."""
        given = {
            "aws_access_key_id": self.facts["access_key"],
            "aws_secret_access_key": self.facts["secret_key"],
            **more,
        }
        config = Config(
            retries={"total_max_attempts": 1}, read_timeout=10, inject_host_prefix=False
        )
        return boto3.client(
            service,
            region_name=self.facts["region"],
            endpoint_url=self.facts["endpoint"],
            config=config,
            **given,
        )

    def door(self, path: str, given: Any = None) -> Any:
        body = None if given is None else json.dumps(given).encode()
        request = urllib.request.Request(f"{self.facts['endpoint']}/_test/{path}", data=body)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def rules(self, *rules: dict[str, Any]) -> None:
        self.door("rules", list(rules))

    def knobs(self, **knobs: Any) -> None:
        self.door("knobs", knobs)

    def verb(self, machine: str, verb: str, **given: Any) -> dict[str, Any]:
        return self.door(f"machines/{machine}/{verb}", given)

    def machine(self, machine: str) -> dict[str, Any]:
        return next(it for it in self.door("machines") if it["id"] == machine)

    def run(self, **more: Any) -> dict[str, Any]:
        """Launches one; its description."""
        return self.ec2.run_instances(**(self.request() | more))["Instances"][0]

    def request(self, subnet: int = 0) -> dict[str, Any]:
        """What the control plane asks for."""
        tags = [
            {"Key": "Name", "Value": "browserfleet-default"},
            {"Key": "browserfleet:deployment", "Value": "11111111-2222-4333-8444-555555555555"},
            {"Key": "browserfleet:row", "Value": "ins_1"},
            {"Key": "browserfleet:attempt", "Value": "1"},
        ]
        kinds = ("instance", "volume", "network-interface")
        return {
            "ImageId": self.facts["image"],
            "InstanceType": "c7i.large",
            "MinCount": 1,
            "MaxCount": 1,
            "NetworkInterfaces": [
                {
                    "DeviceIndex": 0,
                    "SubnetId": self.facts["subnets"][subnet],
                    "Groups": [self.facts["security_group"]],
                    "AssociatePublicIpAddress": False,
                    "DeleteOnTermination": True,
                }
            ],
            "IamInstanceProfile": {"Name": self.facts["instance_profile"]},
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {
                "HttpTokens": "required",
                "HttpPutResponseHopLimit": 1,
                "InstanceMetadataTags": "disabled",
            },
            "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in kinds],
            "UserData": USER_DATA,
        }

    def described(self, machine: str) -> dict[str, Any]:
        found = self.ec2.describe_instances(InstanceIds=[machine])
        return found["Reservations"][0]["Instances"][0]

    def state(self, machine: str) -> str:
        return self.described(machine)["State"]["Name"]

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(WITHIN)


def eventually(so: Callable[[], Any], within: float = WITHIN) -> Any:
    """Waits until this is so; what it is then."""
    latest = time.monotonic() + within
    while not (it := so()):
        assert time.monotonic() < latest, "not in time"
        time.sleep(0.02)
    return it


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    aws = Aws(tmp_path_factory.mktemp("aws"))
    yield aws
    aws.stop()


@pytest.fixture
def aws(running: Aws) -> Iterator[Aws]:
    """An account of the test's own."""
    running.reset()
    yield running
    assert running.door("holes") == []
