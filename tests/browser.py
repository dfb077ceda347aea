"""A page in a headless Chromium, spoken to in its DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")


def executable() -> str | None:
    """The Chromium of this machine, if it has one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One open page; `errors` are what its console has shown of them so far."""

    def __init__(self, commands, answers):
        self._commands, self._answers = commands, answers
        self._count, self._session = 0, {}
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> dict:
        """The browser's answer to a command."""
        self._count += 1
        command = {"id": self._count, "method": method, "params": parameters, **self._session}
        self._commands.write(json.dumps(command).encode() + b"\0")
        self._commands.flush()
        answer = self._wait(lambda message: message.get("id") == self._count)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, path: Path, width: int, height: int, mobile: bool) -> None:
        """Shows a file in a window of so many pixels, and waits until it is loaded."""
        size = dict(width=width, height=height, mobile=mobile, deviceScaleFactor=1)
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=path.resolve().as_uri())
        self._wait(lambda message: message.get("method") == "Page.loadEventFired")

    def evaluate(self, script: str):
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']['text']}")
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page, as long as it is, as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _wait(self, wanted) -> dict:
        while True:
            message = json.loads(self._next())
            method, about = message.get("method"), message.get("params", {})
            if method == "Runtime.exceptionThrown":
                self.errors.append(about["exceptionDetails"]["text"])
            elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "assert"):
                self.errors.append(str(about["args"]))
            elif method == "Log.entryAdded" and about["entry"]["level"] == "error":
                self.errors.append(about["entry"]["text"])
            if wanted(message):
                return message

    def _next(self) -> bytes:
        message = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("the browser has gone")
            message += byte
        return bytes(message)


@contextlib.contextmanager
def page(profile: Path) -> Iterator[Page]:
    """A page of a fresh browser, whose settings go to the folder `profile`."""
    their_input, commands = os.pipe()
    answers, their_output = os.pipe()
    # Chromium reads commands from descriptor 3 and answers on 4.
    plumbing = f'exec "$@" 3<&{their_input} 4>&{their_output}'
    program = [executable(), *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
    process = subprocess.Popen(
        ["bash", "-c", plumbing, "browser", *program, "about:blank"],
        pass_fds=(their_input, their_output),
        stderr=subprocess.DEVNULL,
    )
    os.close(their_input)
    os.close(their_output)
    try:
        with os.fdopen(commands, "wb") as writer, os.fdopen(answers, "rb") as reader:
            yield Page(writer, reader)
    finally:
        process.terminate()
        process.wait(30)
