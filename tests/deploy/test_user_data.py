"""User-data: what cloud-init, systemd and EC2 take, and what a machine does with it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rendered import AUTHORITY, DEPLOY, FILES, MACHINE, VALUES, render

sys.path.append(str(Path(__file__).resolve().parents[1] / "services" / "aws"))

import unit  # noqa: E402
import user_data  # noqa: E402

# Bytes of user-data that EC2 takes, before base64.
USER_DATA_MAX = 16_384
CLOUD_INIT = Path(sys.prefix) / "cloud-init" / "usr" / "lib" / "python3" / "dist-packages"
SCRIPTS = [it for it in FILES.values() if "." not in it]


def test_it_fits_with_two_authorities() -> None:
    url = "https://example-bucket.s3.eu-central-1.amazonaws.com/browserfleet-agent-1.2.3"
    data = render(AGENT_URL=url, AGENT_SHA256="0" * 64)
    print(f"user-data: {len(data)} bytes")
    assert len(AUTHORITY) >= 2048
    assert len(data) < USER_DATA_MAX
    assert re.search(b"@[A-Z0-9_]+@", data) is None


def test_every_file_is_installed_as_it_is() -> None:
    installed = {it.content.decode() for it in user_data.read(render()).files}
    assert sorted(it.name for it in MACHINE.iterdir()) == sorted(FILES.values())
    for name in FILES.values():
        assert (MACHINE / name).read_text() in installed, name


def test_cloud_init_takes_it(tmp_path: Path) -> None:
    def schema(text: bytes) -> subprocess.CompletedProcess:
        (tmp_path / "user-data").write_bytes(text)
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "cloudinit.config.schema"]
            + ["--config-file", tmp_path / "user-data"],
            env={"PYTHONPATH": str(CLOUD_INIT), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
        )

    valid = schema(render())
    assert valid.returncode == 0 and "Valid cloud-config" in valid.stdout, valid
    # That it would tell.
    wrong = schema(render().replace(b'permissions: "0644"', b"permissions: 644"))
    assert wrong.returncode == 1 and "is not of type 'string'" in wrong.stderr + wrong.stdout


def test_values_cannot_break_out() -> None:
    hostile = "\"'\n- [reboot]\nruncmd: #@AUTHORITY@ \\ $(reboot)"
    data = render(CONTROL_PLANE="https://a/b", AUTHORITY=hostile, AGENT_URL=hostile)
    read = user_data.read(data)
    assert read.file("/etc/browserfleet/ca.pem").content.decode() == hostile
    assert len(read.commands) == 4 and read.commands[2][1] == hostile


def test_the_settings_are_read_as_they_were_meant() -> None:
    file = user_data.read(render()).file("/etc/browserfleet/agent.env")
    settings = unit.read_environment(file.content.decode())
    for name in ("CONTROL_PLANE", "TOKEN_PARAMETERS", "SESSIONS_MAX", "SPARES", "DEAD_MAN_MS"):
        assert settings[f"BROWSERFLEET_{name}"] == VALUES[name]
    assert settings["BROWSERFLEET_MACHINE"] == "ec2"
    assert settings["BROWSERFLEET_ISOLATION"] == "required"
    # Root reads it, and so may everybody: there is no secret in it.
    assert not any(re.search("TOKEN$|SECRET|PASSWORD", name) for name in settings)


def test_the_order_of_a_boot() -> None:
    commands = user_data.read(render()).commands
    # Who looks after the machine comes first, and the agent last.
    assert commands[1][-1] == "browserfleet-dead-man.timer"
    assert commands[2][0] == "/usr/local/sbin/browserfleet-install"
    assert commands[3] == ["systemctl", "enable", "--now", "browserfleet-agent.service"]


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.fail("systemd-analyze is missing; install systemd")
    # A machine's disk, as far as the units name it.
    for command in (
        "usr/local/bin/browserfleet-agent",
        *(f"usr/local/sbin/{it}" for it in SCRIPTS),
    ):
        path = tmp_path / command
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    shutil.copytree("/lib/systemd/system", tmp_path / "lib/systemd/system", symlinks=True)
    (tmp_path / "usr/lib").mkdir(exist_ok=True)
    (tmp_path / "usr/lib/systemd").symlink_to("/lib/systemd")
    names = [it for it in FILES.values() if it.endswith((".service", ".timer"))]
    for name in names:
        shutil.copy(MACHINE / name, units / name)

    def verify(name: str) -> str:
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", units / name],
            capture_output=True,
            text=True,
            check=False,
        )
        return "\n".join(it for it in done.stderr.splitlines() if "browserfleet" in it)

    for name in names:
        assert verify(name) == ""
    # That it would tell.
    broken = units / "browserfleet-agent.service"
    broken.write_text(broken.read_text().replace("RestartSec=5s", "RestartSec=soon"))
    assert "Failed to parse sec value" in verify("browserfleet-agent.service")


def test_the_unit_restarts_what_can_be_mended() -> None:
    service = unit.read((MACHINE / "browserfleet-agent.service").read_text())
    assert [service.restarts_after(it) for it in (0, 1, 2, 3, 4, -9)] == [
        False,
        True,
        False,
        False,
        True,
        True,
    ]
    assert (service.burst, service.interval_s, service.limit_action) == (5, 600, "poweroff")
    assert service.command == ["/usr/local/bin/browserfleet-agent"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_what_sh_reads(name: str) -> None:
    script = MACHINE / name
    assert script.read_text().startswith("#!/bin/sh\n") and os.access(script, os.X_OK)
    subprocess.run(["sh", "-n", script], check=True)


def test_the_policy_is_json_and_closes_local_schemes() -> None:
    policy = json.loads((MACHINE / "chrome-policy.json").read_text())
    assert {"file://*", "view-source:*", "chrome://*"} <= set(policy["URLBlocklist"])
    # What would take CDP from the agent.
    assert not {"DeveloperToolsAvailability", "RemoteDebuggingAllowed"} & set(policy)


def test_the_template_is_yaml_before_it_is_filled_in() -> None:
    text = (DEPLOY / "user-data.yaml").read_text()
    assert text.startswith("#cloud-config\n")
    assert yaml.safe_load(re.sub("@([A-Z0-9_]+)@", '""', text))["write_files"]
