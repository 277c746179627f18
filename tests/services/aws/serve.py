"""An AWS for tests: moto with the faults, the time and the machines that it lacks.

    python serve.py --agent PROGRAM --folder FOLDER

Says where it is in one line of JSON, and ends when its standard input does, with all
that it started.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
from base64 import b64decode
from pathlib import Path

# Before moto is read: no images of others, and types and images are checked.
os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
os.environ["MOTO_ENABLE_AMI_VALIDATION"] = "true"
os.environ["MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION"] = "true"

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app  # noqa: E402
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler  # noqa: E402

import account  # noqa: E402
import instances  # noqa: E402
import permissions  # noqa: E402
import rescue  # noqa: E402
from cloud import Cloud, Machine  # noqa: E402
from control import Control  # noqa: E402
from guest import Guest, Surroundings  # noqa: E402
from layer import Layer  # noqa: E402

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
SERVICES = ("ec2", "ssm", "iam", "sts")


class Handler(WSGIRequestHandler):
    """Keeps connections open, and sends at once what it has."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """The log of calls says more."""

    def connection_dropped(self, error: BaseException, environ: object = None) -> None:
        self.close_connection = True


class Aws:
    def __init__(self, agent: Path, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.cloud = Cloud(account.ACCOUNT, account.REGION)
        instances.install(self.cloud)
        rescue.install(self.cloud)
        self.account = account.make(DEPLOY)
        self.sessions = account.RoleSessions()
        folder.mkdir(parents=True, exist_ok=True)
        self.around = Surroundings(
            cloud=self.cloud,
            loop=loop,
            folder=folder.resolve(),
            agent=agent.resolve(),
            endpoint=lambda: self.endpoint,
            credentials=self.sessions.credentials,
            role=account.ROLE,
        )
        self.cloud.born = self._born
        self.cloud.changed = lambda machine: machine.guest and machine.guest.changed()
        moto = DomainDispatcherApplication(create_backend_app)
        for service in SERVICES:
            moto.app_instances[service] = create_backend_app(service)
        judge = permissions.Judge(self, DEPLOY / "iam")
        layer = Layer(
            cloud=self.cloud,
            moto=moto,
            control=Control(self),
            judge=judge.judge,
            who=judge.who,
        )
        self.server = ThreadedWSGIServer("127.0.0.1", 0, layer, handler=Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def _born(self, machine: Machine) -> None:
        content = b64decode(str(machine.instance.user_data or ""))
        machine.guest = Guest(machine, self.around, content)
        asyncio.run_coroutine_threadsafe(machine.guest.start(), self.loop)

    def reset(self) -> dict[str, object]:
        """A new account, with nothing in it but what each has."""
        self.stop()
        self.cloud.reset()
        self.account = account.make(DEPLOY)
        return self.report()

    def report(self) -> dict[str, object]:
        return {"endpoint": self.endpoint, **self.account.report()}

    def stop(self) -> None:
        """Nothing that was started here runs on."""
        for machine in self.cloud.machines.values():
            if machine.guest is not None:
                machine.guest.soon(machine.guest.end)


async def serve(agent: Path, folder: Path) -> None:
    loop = asyncio.get_running_loop()
    aws = Aws(agent, folder, loop)
    print(json.dumps(aws.report()), flush=True)
    ended = asyncio.Event()

    def look() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            loop.remove_reader(sys.stdin.fileno())
            ended.set()

    loop.add_reader(sys.stdin.fileno(), look)
    await ended.wait()
    aws.stop()
    # Their turn on this loop comes before ours.
    await asyncio.sleep(0)


def main() -> None:
    parser = argparse.ArgumentParser(description="An AWS for tests.")
    parser.add_argument("--agent", type=Path, required=True, help="the agent's program")
    parser.add_argument(
        "--folder", type=Path, required=True, help="where machines have their disks"
    )
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.agent, arguments.folder))


if __name__ == "__main__":
    main()
    # Threads that still answer somebody do not keep it.
    os._exit(0)
