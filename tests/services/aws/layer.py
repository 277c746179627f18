"""What every request goes through before and after moto: the test's own doors, rules,
buckets, permissions, and answers that are lost on their way."""

from __future__ import annotations

import io
import json
import socket
import sys
import time
import traceback
from typing import Any
from collections.abc import Callable, Iterable

import calls
from calls import Call
from cloud import Cloud
from refusal import Refusal
from rules import Rule

Answer = tuple[int, list[tuple[str, str]], bytes]
# Calls that look at machines as listings show them.
LISTINGS = ("DescribeInstances", "DescribeInstanceStatus")
# Calls that leave what listings say of other machines as it is.
QUIET = ("RunInstances", "TerminateInstances", "StopInstances", "StartInstances", "RebootInstances")
# The longest that an answer is held back, in seconds.
HELD_MAX = 60
REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}
REASONS |= {500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable"}
REASONS |= {502: "Bad Gateway", 504: "Gateway Timeout"}


class Cut(ConnectionError):
    """The connection is closed; there is nothing to answer with."""


class Layer:
    """A WSGI application around moto's."""

    def __init__(
        self,
        cloud: Cloud,
        moto: Callable[..., Iterable[bytes]],
        control: Callable[[str, str, dict[str, str], bytes], tuple[int, Any]],
        judge: Callable[[Call], None],
        who: Callable[[str], str],
    ) -> None:
        self._cloud, self._moto, self._control = cloud, moto, control
        self._judge, self._who = judge, who

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
        path = environ.get("PATH_INFO", "")
        if path.startswith("/_test/"):
            query = dict(calls.parse_qsl(environ.get("QUERY_STRING", "")))
            status, reply = self._control(environ["REQUEST_METHOD"], path, query, body)
            answer: Answer = (
                status,
                [("Content-Type", "application/json")],
                json.dumps(reply, default=str).encode(),
            )
        else:
            environ["wsgi.input"] = io.BytesIO(body)
            call = calls.read(environ, body)
            if call is None:
                answer = self._pass(environ, None)
            else:
                answer = self._called(environ, call)
        status, headers, text = answer
        headers = [it for it in headers if it[0].lower() != "content-length"]
        headers.append(("Content-Length", str(len(text))))
        start(f"{status} {REASONS.get(status, 'Other')}", headers)
        return [text]

    # -- one call ------------------------------------------------------------------

    def _called(self, environ: dict[str, Any], call: Call) -> Answer:
        cloud, began = self._cloud, time.monotonic()
        call.fields["caller"] = [self._who(call.access_key)]
        with cloud.lock:
            picked = cloud.rules.pick(call.action, call.fields)
        place, rule = picked if picked is not None else (None, None)
        do = rule.do if rule is not None else {}
        time.sleep(min(do.get("delay_ms", 0) / 1000, HELD_MAX))
        made: list[str] = []
        try:
            answer = self._answered(environ, call, rule, made)
            result = "ok"
        except Refusal as refusal:
            content_type, text = refusal.body(call.service)
            answer = refusal.status, [("Content-Type", content_type)], text
            result = refusal.code
        if answer[0] >= 400 and result == "ok":
            result = _code(answer[2])
        time.sleep(min(do.get("late_ms", 0) / 1000, HELD_MAX))
        broken = next((it for it in ("lost", "drop", "gateway", "truncated") if do.get(it)), None)
        if broken is not None:
            result = f"{broken} ({result})"
        cloud.log.add(
            call, began, result, answer[0], rule=None if place is None else str(place), made=made
        )
        return self._break(environ, answer, do, broken)

    def _answered(
        self, environ: dict[str, Any], call: Call, rule: Rule | None, made: list[str]
    ) -> Answer:
        cloud = self._cloud
        if rule is not None and "error" in rule.do:
            code, status, message = rule.error()
            raise Refusal(code, message, status)
        if rule is not None and rule.do.get("drop"):
            return 0, [], b""
        if not cloud.buckets.allow(call.action, cloud.now()):
            if call.service == "ssm":
                raise Refusal("ThrottlingException", "Rate exceeded", 400)
            raise Refusal("RequestLimitExceeded", "Request limit exceeded.", 503)
        self._judge(call)
        if call.action == "RunInstances":
            # moto launches as few as are asked for; AWS as many as it has.
            call_body = call.body.replace(b"MinCount=", b"WasMinCount=", 1)
            call_body += b"&MinCount=" + str(call.params.get("MaxCount", "1")).encode()
            environ["wsgi.input"] = io.BytesIO(call_body)
            environ["CONTENT_LENGTH"] = str(len(call_body))
        if call.action == "GetParameter" and self._is_late(call):
            raise Refusal("ParameterNotFound", "")
        before = len(cloud.machines)
        with cloud.lock:
            cloud.call, cloud.effects = call, rule.do if rule is not None else {}
            cloud.listing = call.action in LISTINGS
            try:
                answer = self._pass(environ, call)
            finally:
                cloud.call, cloud.effects, cloud.listing = None, {}, False
            made += list(cloud.machines)[before:]
            if call.action == "PutParameter" and answer[0] == 200:
                cloud.parameters_put[call.params["Name"]] = cloud.now()
            if call.service == "ec2" and not call.action.startswith(("Describe", "Get")):
                if call.action not in QUIET:
                    for machine in cloud.machines.values():
                        machine.fragment = None
        return answer

    def _is_late(self, call: Call) -> bool:
        put = self._cloud.parameters_put.get(call.params.get("Name", ""))
        lag = self._cloud.knobs.parameter_lag_ms / 1000
        return put is not None and self._cloud.now() < put + lag

    def _pass(self, environ: dict[str, Any], call: Call | None) -> Answer:
        """moto's answer, whole."""
        kept: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> None:
            kept[:] = [int(status.split(" ")[0]), headers]

        try:
            text = b"".join(self._moto(environ, start))
        except Refusal:
            raise
        except Exception as error:  # noqa: BLE001 - moto raises what it has no answer for
            name = call.action if call is not None else environ.get("PATH_INFO", "")
            self._cloud.holes.append(f"{name}: {error!r}")
            traceback.print_exc(file=sys.stderr)
            raise Refusal("NotImplemented", f"this is not played here: {error}", 501) from error
        return kept[0], list(kept[1]), text

    # -- what becomes of the answer ------------------------------------------------

    def _break(
        self, environ: dict[str, Any], answer: Answer, do: dict[str, Any], broken: str | None
    ) -> Answer:
        status, headers, text = answer
        connection: socket.socket = environ["werkzeug.socket"]
        if broken in ("lost", "drop"):
            connection.shutdown(socket.SHUT_RDWR)
            raise Cut
        if broken == "gateway":
            status = do["gateway"] if isinstance(do["gateway"], int) and do["gateway"] > 1 else 502
            page = b"<html><body><h1>The gateway had a bad day</h1></body></html>"
            return status, [("Content-Type", "text/html")], page
        if broken == "truncated":
            head = f"HTTP/1.1 {status} {REASONS.get(status, 'Other')}\r\n"
            head += "".join(
                f"{key}: {value}\r\n" for key, value in headers if key.lower() != "content-length"
            )
            head += f"Content-Length: {len(text)}\r\n\r\n"
            connection.sendall(head.encode() + text[: len(text) // 2])
            connection.shutdown(socket.SHUT_RDWR)
            raise Cut
        return answer


def _code(text: bytes) -> str:
    """The code of an error of moto's, in either protocol."""
    if text.startswith(b"{"):
        return str(json.loads(text).get("__type", "error")).split("#")[-1]
    start = text.find(b"<Code>")
    return text[start + 6 : text.find(b"</Code>")].decode() if start >= 0 else "error"
