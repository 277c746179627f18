"""Visits pages with Chromium under the policy, and says what it got to see. Run by
`inside`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import inside
from rendered import MACHINE

PAGES = {
    "page": "data:text/html,<p>an open page</p>",
    "file": "file:///etc/hostname-of-the-test",
    "source": "view-source:file:///etc/hostname-of-the-test",
    "internal": "chrome://version",
}
# How long a page may take to say something, in seconds.
WITHIN = 5
SECRET = "what no page may read"


class Browser:
    """Chromium, driven as the agent does: over two pipes."""

    def __init__(self, folder: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()
        # The browser reads from descriptor 3 and writes to descriptor 4.
        move = f'exec chromium "$@" 3<&{ours[0]} 4>&{theirs[1]}'
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        flags += ["--remote-debugging-pipe", f"--user-data-dir={folder}/profile"]
        self.process = subprocess.Popen(
            ["/bin/bash", "-c", move, "chromium", *flags, "about:blank"],
            pass_fds=(ours[0], theirs[1]),
            stderr=subprocess.DEVNULL,
        )
        self.writer, self.reader = os.fdopen(ours[1], "wb"), os.fdopen(theirs[0], "rb")
        self.number, self.rest = 0, b""
        pages = self.call("Target.getTargets")["targetInfos"]
        page = next(it["targetId"] for it in pages if it["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self.session = {"sessionId": attached["sessionId"]}

    def call(self, method: str, session: dict[str, str] | None = None, **given: Any) -> Any:
        self.number += 1
        message = {"id": self.number, "method": method, "params": given, **(session or {})}
        self.writer.write(json.dumps(message).encode() + b"\0")
        self.writer.flush()
        while (said := self._next()).get("id") != self.number:
            pass
        return said["result"]

    def _next(self) -> Any:
        while b"\0" not in self.rest:
            self.rest += os.read(self.reader.fileno(), 65_536) or b"{}\0"
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def visit(self, url: str) -> list[str]:
        """What went wrong, and what the page says."""
        went = self.call("Page.navigate", self.session, url=url)
        loaded = 'document.readyState == "complete" ? document.documentElement.innerText : ""'
        text = {"expression": loaded, "returnByValue": True}
        said, latest = "", time.monotonic() + WITHIN
        while not said and time.monotonic() < latest:
            said = self.call("Runtime.evaluate", self.session, **text)["result"].get("value", "")
        return [went.get("errorText", ""), said]

    def close(self) -> None:
        self.call("Browser.close")
        self.process.wait(10)


def main() -> None:
    folder = Path(sys.argv[1])
    inside.own_files(folder)
    Path("/etc/hostname-of-the-test").write_text(SECRET)
    browser = Browser(folder)
    said = {f"{name} before": browser.visit(url) for name, url in PAGES.items()}
    browser.close()
    managed = Path("/etc/chromium/policies/managed")
    managed.mkdir(parents=True, exist_ok=True)
    shutil.copy(MACHINE / "chrome-policy.json", managed / "browserfleet.json")
    browser = Browser(folder)
    said |= {name: browser.visit(url) for name, url in PAGES.items()}
    browser.close()
    print(json.dumps(said))


if __name__ == "__main__":
    main()
