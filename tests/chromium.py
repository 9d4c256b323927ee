"""A headless Chromium for tests of pages, driven by the DevTools protocol through a pipe: no port, no driver."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WHY = "no Chromium here; install it with `apt-get install chromium`"
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason=WHY)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
SECONDS = 60  # that an answer may take on a busy machine


class Chromium:
    """One page of a browser. `errors` collects uncaught exceptions and what the console calls an error."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._read, self._number, self._session = b"", 0, None
        self.errors: list[str] = []
        self.requests: list[str] = []  # addresses that are neither a file nor data
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")

    def _send(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != number:
            self._heard(answer)
        if "error" in answer:
            raise RuntimeError(f"Chromium refused {method}: {answer['error']}")
        return answer["result"]

    def _message(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, end - time.monotonic()))
            if not ready or not (more := os.read(self._answers, 1 << 20)):
                raise TimeoutError("Chromium ended, or did not answer within a minute")
            self._read += more
        line, self._read = self._read.split(b"\0", 1)
        return json.loads(line)

    def _heard(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif event.get("method") == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                self.requests.append(url)

    def open(self, file: Path, *, width: int = 1440, dark: bool = False, script: bool = True, anchor: str = "") -> None:
        """Load a file at a width in CSS pixels and wait until its script has set it up."""
        self.errors.clear()
        self._send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._send("Emulation.setEmulatedMedia", features=[scheme])
        self._send("Emulation.setScriptExecutionDisabled", value=not script)
        self._send("Page.navigate", url="about:blank")
        self._send("Page.navigate", url=f"{file.resolve().as_uri()}{anchor}")
        self.wait("document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """What an expression gives, awaited."""
        answer = self._send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails'].get('exception', {}).get('description')}")
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until an expression is true."""
        end = time.monotonic() + SECONDS
        while not self.value(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"not within a minute: {condition}; {self.errors}")
            time.sleep(0.02)

    def screenshot(self, file: Path, *, whole: bool = True) -> None:
        """Write a PNG of the page."""
        found = self._send("Page.captureScreenshot", captureBeyondViewport=whole, **self._clip(whole))
        file.write_bytes(base64.b64decode(found["data"]))

    def _clip(self, whole: bool) -> dict[str, Any]:
        size = self._send("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}} if whole else {}

    def close(self) -> None:
        """End the browser."""
        self._session = None
        self._send("Browser.close")


@contextmanager
def chromium(profile: Path) -> Iterator[Chromium]:
    """A browser with a new profile in `profile`."""
    assert CHROMIUM is not None
    to_read, to_write = os.pipe(), os.pipe()  # that Chromium reads from and writes to, as its file descriptors 3 and 4
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}"]
    shell = f'exec 3<&{to_read[0]} 4>&{to_write[1]}; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", shell, "chromium", *command], pass_fds=(to_read[0], to_write[1]), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(to_read[0])
    os.close(to_write[1])
    page = Chromium(to_read[1], to_write[0])
    try:
        yield page
        page.close()
    finally:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(to_read[1])
        os.close(to_write[0])
