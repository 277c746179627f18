"""The metadata service of one machine: IMDSv2 alone, on a port of its own.

Runs on the loop of the machines; answers from what it is told, never from moto.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import time
from datetime import datetime, UTC
from typing import Any
from collections.abc import Awaitable, Callable

# Seconds that a metadata token may live, as AWS has it.
TOKEN_TTL_MAX = 21_600
# Bytes of a request's head.
HEAD_MAX = 16_384
TTL = "x-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "x-aws-ec2-metadata-token"
REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden"}
REASONS |= {404: "Not Found", 500: "Internal Server Error"}


def instant(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


class Metadata:
    """What it says is in `facts` (paths below /latest/), and what is not there is 404."""

    def __init__(self, credentials: Callable[[], dict[str, str]]) -> None:
        self._credentials = credentials
        self._tokens: dict[str, float] = {}
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.facts: dict[str, str] = {}
        self.role = ""
        # `up`; `down`: connections are closed; `silent`: nobody answers; `error`: 500.
        self.mode = "down"
        # Other doors on the same port, for the machine itself.
        self.doors: dict[str, Callable[[], Awaitable[None]]] = {}
        # Bound at once, so that its address can be told before the loop gets to it.
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        # What was asked, newest last: method, path and status.
        self.asked: list[str] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._socket)

    async def stop(self) -> None:
        self.mode = "down"
        if self._server is not None:
            self._server.close()
        for writer in list(self._open):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n"))[:HEAD_MAX].decode("latin-1")
        request, *lines = head.split("\r\n")
        method, path, *_ = request.split(" ")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        if (length := int(headers.get("content-length", "0"))) > 0:
            await reader.readexactly(length)
        if method == "POST" and (door := self.doors.get(path)) is not None:
            await door()
            status, text, more = 200, "", {}
        else:
            if self.mode == "down":
                return False
            if self.mode == "silent":
                await reader.read()
                return False
            if self.mode == "error":
                status, text, more = 500, "", {}
            else:
                status, text, more = self._answer(method, path.split("?")[0], headers)
            self.asked.append(f"{method} {path} {status}")
        body = text.encode()
        kept = headers.get("connection", "").lower() != "close"
        lines = [f"HTTP/1.1 {status} {REASONS[status]}", f"Content-Length: {len(body)}"]
        lines += ["Content-Type: text/plain", *(f"{key}: {value}" for key, value in more.items())]
        lines += [] if kept else ["Connection: close"]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()
        return kept

    def _answer(
        self, method: str, path: str, headers: dict[str, str]
    ) -> tuple[int, str, dict[str, str]]:
        if method == "PUT" and path == "/latest/api/token":
            if "x-forwarded-for" in headers:
                return 403, "", {}
            ttl = headers.get(TTL, "")
            if not ttl.isdigit() or not 1 <= int(ttl) <= TOKEN_TTL_MAX:
                return 400, "", {}
            token = secrets.token_urlsafe(40)
            self._tokens[token] = time.monotonic() + int(ttl)
            return 200, token, {TTL: ttl}
        if method != "GET" or not path.startswith("/latest/"):
            return 404, "", {}
        if self._tokens.get(headers.get(TOKEN, ""), 0) < time.monotonic():
            return 401, "", {}
        text = self._look_up(path.removeprefix("/latest/"))
        return (404, "", {}) if text is None else (200, text, {})

    def _look_up(self, path: str) -> str | None:
        role = "meta-data/iam/security-credentials"
        if self.role and path.rstrip("/") == role:
            return self.role
        if self.role and path == f"{role}/{self.role}":
            return json.dumps({"Code": "Success", "Type": "AWS-HMAC", **self._credentials()})
        if path in self.facts:
            return self.facts[path]
        folder = path.rstrip("/") + "/"
        below = {
            it.removeprefix(folder).split("/")[0] for it in self.facts if it.startswith(folder)
        }
        return "\n".join(sorted(below)) if below else None

    def tell(self, path: str, text: str | None) -> None:
        """Puts a fact there, or takes it away."""
        if text is None:
            self.facts.pop(path, None)
        else:
            self.facts[path] = text


def facts(report: dict[str, Any], account: str, region: str, user_data: bytes) -> dict[str, str]:
    """What every machine is told of itself."""
    document = {
        "accountId": account,
        "architecture": "x86_64",
        "availabilityZone": report["zone"],
        "billingProducts": None,
        "devpayProductCodes": None,
        "imageId": report["image"],
        "instanceId": report["id"],
        "instanceType": report["type"],
        "kernelId": None,
        "marketplaceProductCodes": None,
        "pendingTime": instant(datetime.now(UTC)),
        "privateIp": report["address"],
        "ramdiskId": None,
        "region": region,
        "version": "2017-09-30",
    }
    name = f"ip-{report['address'].replace('.', '-')}.{region}.compute.internal"
    return {
        "meta-data/ami-id": report["image"],
        "meta-data/iam/info": json.dumps({"Code": "Success", "InstanceProfileArn": report["profile"]}),
        "meta-data/hostname": name,
        "meta-data/instance-id": report["id"],
        "meta-data/instance-life-cycle": report["market"],
        "meta-data/instance-type": report["type"],
        "meta-data/local-hostname": name,
        "meta-data/local-ipv4": report["address"],
        "meta-data/placement/availability-zone": report["zone"],
        "meta-data/placement/region": region,
        "meta-data/services/domain": "amazonaws.com",
        "meta-data/services/partition": "aws",
        "dynamic/instance-identity/document": json.dumps(document, indent=2),
        "user-data": user_data.decode(errors="replace"),
    }
