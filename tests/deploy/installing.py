"""Installs an agent on a machine of its own and says what came of it. Run by `inside`."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import inside
from rendered import MACHINE

AGENT = b"#!/bin/sh\necho the agent\n"
INSTALLED = Path("/usr/local/bin/browserfleet-agent")


class Store(BaseHTTPRequestHandler):
    """Where the agent's program is."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/agent" else 404)
        self.send_header("Content-Length", str(len(AGENT)))
        self.end_headers()
        self.wfile.write(AGENT)

    def log_message(self, *_: object) -> None:
        pass


def serve(folder: Path) -> str:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        + [
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
        ]
        + ["-keyout", folder / "key", "-out", folder / "certificate"],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate", folder / "key")
    server = HTTPServer(("127.0.0.1", 0), Store)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"https://localhost:{server.server_port}"


def install(folder: Path, *given: str) -> tuple[int, str]:
    environment = os.environ | {"CURL_CA_BUNDLE": str(folder / "certificate")}
    done = subprocess.run(
        [MACHINE / "browserfleet-install", *given],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def users() -> dict[str, list]:
    found = [it for it in pwd.getpwall() if it.pw_name.startswith("browserfleet")]
    return {it.pw_name: [it.pw_uid, it.pw_shell] for it in found}


def main() -> None:
    folder = Path(sys.argv[1])
    inside.own_files(folder)
    # The commands of a machine, whatever this one has.
    for name in ("nft", "systemctl"):
        stub = Path("/usr/local/bin") / name
        stub.write_text("#!/bin/sh\n")
        stub.chmod(0o755)
    address = serve(folder)
    right = hashlib.sha256(AGENT).hexdigest()
    said: dict[str, object] = {}
    said["wrong"] = install(folder, f"{address}/agent", "0" * 64)
    said["absent"] = install(folder, f"{address}/nothing", right)
    said["plain"] = install(folder, address.replace("https", "http") + "/agent", right)
    said["not installed"] = not INSTALLED.exists()
    said["left"] = [it.name for it in INSTALLED.parent.iterdir() if "agent" in it.name]
    said["right"] = install(folder, f"{address}/agent", right)
    said["runs"] = subprocess.run([INSTALLED], capture_output=True, text=True, check=True).stdout
    said["users"] = users()
    said["subordinate"] = "browserfleet" in Path("/etc/subuid").read_text()
    said["again"] = install(folder, "", "")
    said["users again"] = users()
    policy = Path("/etc/browserfleet/chrome-policy.json")
    policy.parent.mkdir(exist_ok=True)
    policy.write_text("{}")
    said["policies"] = [
        Path(f"{it}/policies/managed/browserfleet.json").read_text()
        for it in ("/etc/chromium", "/etc/opt/chrome")
    ]
    Path("/usr/local/bin/nft").unlink()
    bare = {"PATH": "/usr/local/bin:/bin-of-nobody"}
    lacking = subprocess.run(
        ["/bin/sh", MACHINE / "browserfleet-install"],
        env=bare,
        capture_output=True,
        text=True,
        check=False,
    )
    said["lacking"] = [lacking.returncode, lacking.stderr]
    print(json.dumps(said))


if __name__ == "__main__":
    main()
