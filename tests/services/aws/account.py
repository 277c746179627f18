"""The account that a test finds: a network in three zones, two images, a role for
machines, keys for the control plane, the rescue document."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, UTC
from pathlib import Path
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT
from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends
from moto.ssm.models import ssm_backends
from moto.sts.models import sts_backends

from cloud import Machine
from metadata import instant

REGION = "eu-central-1"
ROLE = "browserfleet-agent"
USER = "browserfleet-control-plane"
RESCUE = "browserfleet-rescue"
IMAGE_PARAMETER = "/browserfleet/test/image"
# Seconds that a role's credentials live.
ROLE_SESSION = 21_600


@dataclass(frozen=True)
class Account:
    """What it has, as the harness is told."""

    image: str
    next_image: str
    subnets: list[str]
    security_group: str
    access_key: str
    secret_key: str

    def report(self) -> dict[str, Any]:
        return {
            "region": REGION,
            "account": ACCOUNT,
            "image": self.image,
            "next_image": self.next_image,
            "image_parameter": IMAGE_PARAMETER,
            "subnets": self.subnets,
            "security_group": self.security_group,
            "instance_profile": ROLE,
            "rescue_document": RESCUE,
            "access_key": self.access_key,
            "secret_key": self.secret_key,
        }


def make(deploy: Path) -> Account:
    """Makes it anew; what was there before is gone."""
    for backends in (ec2_backends, ssm_backends, iam_backends, sts_backends):
        backends.reset()
    ec2 = ec2_backends[ACCOUNT][REGION]
    ssm = ssm_backends[ACCOUNT][REGION]
    iam = iam_backends[ACCOUNT]["aws"]

    vpc = ec2.create_vpc("10.20.0.0/16")
    subnets = [
        ec2.create_subnet(
            vpc.id, f"10.20.{16 * place}.0/20", availability_zone=f"{REGION}{zone}"
        ).id
        for place, zone in enumerate("abc")
    ]
    group = ec2.create_security_group("browserfleet", "machines of the test", vpc_id=vpc.id)
    images = [_image(ec2, name) for name in ("browserfleet-1", "browserfleet-2")]
    ssm.put_parameter(
        name=IMAGE_PARAMETER,
        description="the image of machines",
        value=images[0],
        parameter_type="String",
        allowed_pattern="",
        keyid="",
        overwrite=False,
        tags=[],
        data_type="text",
        tier=None,
        policies=None,
    )
    document = deploy / "ssm" / "rescue.json"
    if document.exists():
        ssm.create_document(
            content=document.read_text(),
            requires=[],
            attachments=[],
            name=RESCUE,
            version_name="",
            document_type="Command",
            document_format="JSON",
            target_type="",
            tags=[],
        )
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "ec2.amazonaws.com"},
                "Action": "sts:AssumeRole",
            }
        ],
    }
    iam.create_role(
        role_name=ROLE,
        assume_role_policy_document=json.dumps(trust),
        path="/",
        permissions_boundary=None,
        description="",
        tags=[],
        max_session_duration="3600",
    )
    iam.create_instance_profile(name=ROLE, path="/", role_names=[ROLE])
    iam.create_user(REGION, USER)
    key = iam.create_access_key(user_name=USER)
    return Account(
        image=images[0],
        next_image=images[1],
        subnets=subnets,
        security_group=group.id,
        access_key=key.access_key_id,
        secret_key=key.secret_access_key,
    )


def _image(ec2: Any, name: str) -> str:
    return ec2.register_image(name, description="an image with an agent in it").id


class RoleSessions:
    """Credentials of machines: whose a key is, and a new one where the old is spent."""

    def __init__(self) -> None:
        self._machines: dict[str, str] = {}
        self._given: dict[str, dict[str, str]] = {}

    def credentials(self, machine: Machine) -> dict[str, str]:
        """Those that the metadata service hands to this machine."""
        if machine.id not in self._given:
            role = sts_backends[ACCOUNT]["aws"].assume_role(
                region_name=REGION,
                role_session_name=machine.id,
                role_arn=f"arn:aws:iam::{ACCOUNT}:role/{ROLE}",
                policy="",
                duration=ROLE_SESSION,
                external_id="",
            )
            self._machines[role.access_key_id] = machine.id
            self._given[machine.id] = {
                "LastUpdated": instant(datetime.now(UTC)),
                "AccessKeyId": role.access_key_id,
                "SecretAccessKey": role.secret_access_key,
                "Token": role.session_token,
                "Expiration": instant(role.expiration),
            }
        return self._given[machine.id]

    def machine(self, access_key: str) -> str | None:
        return self._machines.get(access_key)
