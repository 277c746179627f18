"""User-data as an instance reads it: cloud-config, of which machines here know files
and commands."""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass
from typing import Any

import yaml


class BadUserData(ValueError):
    """What cloud-init would not run."""


@dataclass(frozen=True)
class File:
    path: str
    content: bytes
    mode: int


@dataclass(frozen=True)
class UserData:
    files: list[File]
    commands: list[list[str]]

    def file(self, path: str) -> File | None:
        return next((it for it in self.files if it.path == path), None)

    def started_units(self) -> list[str]:
        """The units that its commands switch on."""
        return [
            it.removesuffix(".service")
            for command in self.commands
            if command[:2] == ["systemctl", "enable"] and "--now" in command
            for it in command[2:]
            if not it.startswith("-") and not it.endswith(".timer")
        ]


def read(text: bytes) -> UserData:
    if not text.startswith(b"#cloud-config\n"):
        raise BadUserData("the first line has to be `#cloud-config`")
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadUserData(f"it is no YAML: {error}") from error
    if not isinstance(config, dict):
        raise BadUserData("it has to be a mapping")
    return UserData(
        files=[_file(it) for it in config.get("write_files", [])],
        commands=[it if isinstance(it, list) else it.split() for it in config.get("runcmd", [])],
    )


def _file(given: dict[str, Any]) -> File:
    content = given.get("content", "").encode()
    encoding = given.get("encoding", "text/plain")
    if encoding in ("b64", "base64", "gz+base64", "gzip+base64"):
        content = base64.b64decode(content)
    if encoding in ("gz+base64", "gzip+base64"):
        content = gzip.decompress(content)
    mode = given.get("permissions", "0644")
    if not isinstance(mode, str):
        raise BadUserData(f"permissions of {given.get('path')} have to be in quotes")
    return File(given["path"], content, int(mode, 8))
