"""A page in a headless Chromium, spoken to through its debugging pipe; no package is needed."""

import contextlib
import json
import os
import shutil
import subprocess

PATH = shutil.which("chromium")
_QUIET = "--headless --no-sandbox --disable-gpu --no-first-run --remote-debugging-pipe"


class Page:
    """One tab. `errors` holds whatever the console said, `requests` what was loaded."""

    def __init__(self, send_to, read_from):
        self._out, self._in = send_to, read_from
        self._last, self._buffer, self._session = 0, b"", {}
        self.errors, self.requests = [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _receive(self):
        while b"\0" not in self._buffer:
            if not (more := self._in.read1(65536)):
                raise EOFError("chromium has gone")
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        event = json.loads(message)
        kind, params = event.get("method"), event.get("params", {})
        if kind in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
            self.errors.append(params)
        if kind == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        return event

    def call(self, method, **params):
        self._last += 1
        message = {"id": self._last, "method": method, "params": params, **self._session}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (event := self._receive()).get("id") != self._last:
            pass
        assert "error" not in event, event
        return event["result"]

    def open(self, path, width=1280):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        self.call("Page.navigate", url=path.resolve().as_uri())
        while self._receive().get("method") != "Page.loadEventFired":
            pass

    def run(self, script):
        """Return the value of an expression of JavaScript."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")


@contextlib.contextmanager
def browser(folder):
    """Yield a `Page`; the browser keeps its files in `folder`."""
    (read_in, write_in), (read_out, write_out) = os.pipe(), os.pipe()
    command = f'exec "$0" {_QUIET} --user-data-dir="$1" 3<&{read_in} 4>&{write_out}'
    with (folder / "chromium.log").open("w") as log:
        process = subprocess.Popen(
            ["bash", "-c", command, PATH, str(folder / "profile")],
            pass_fds=(read_in, write_out), stdout=log, stderr=log,
        )  # fmt: skip
    os.close(read_in)
    os.close(write_out)
    try:
        with os.fdopen(read_out, "rb") as stream:
            yield Page(write_in, stream)
    finally:
        os.close(write_in)
        process.terminate()
        process.wait(timeout=30)
