"""A headless Chromium, driven through its debugging pipe: clicks, keys, pictures, downloads."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

PATH = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_SECONDS = 120


class Chromium:
  """One page. Messages are JSON, each ended by a zero byte, on file descriptors 3 and 4."""

  def __init__(self, folder: Path):
    browser_reads, self._out = os.pipe()
    self._in, browser_writes = os.pipe()
    command = [
      *("bash", "-c", f'exec 3<&{browser_reads} 4>&{browser_writes}; exec "$@"', "-", str(PATH)),
      *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--mute-audio"),
      *("--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--window-size=800,900"),
      f"--user-data-dir={folder / 'profile'}",
    ]
    self._process = subprocess.Popen(
      command,
      pass_fds=(browser_reads, browser_writes),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    os.close(browser_reads)
    os.close(browser_writes)
    self._number, self._waiting, self._session = 0, b"", None
    target = self.send("Target.createTarget", url="about:blank")["targetId"]
    attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
    self._session = attached["sessionId"]
    self.send("Page.enable")

  def send(self, method: str, **params: Any) -> dict[str, Any]:
    """Calls a method of the DevTools protocol and waits for its result."""
    self._number += 1
    message = {"id": self._number, "method": method, "params": params}
    if self._session:
      message["sessionId"] = self._session
    os.write(self._out, json.dumps(message).encode() + b"\0")
    while True:
      while b"\0" not in self._waiting:
        piece = os.read(self._in, 1 << 16)
        if not piece:
          raise RuntimeError("the browser has ended")
        self._waiting += piece
      text, self._waiting = self._waiting.split(b"\0", 1)
      answer = json.loads(text)
      if answer.get("id") == self._number:
        if "error" in answer:
          raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

  def open(self, url: str) -> None:
    """Loads a page."""
    self.send("Page.navigate", url=url)
    self.wait("document.readyState === 'complete'")

  def reload(self) -> None:
    """Loads it again."""
    self.run("window.gone = true")
    self.send("Page.reload")
    self.wait("document.readyState === 'complete' && !window.gone")

  def run(self, script: str) -> Any:
    """The value of an expression in the page."""
    result = self.send("Runtime.evaluate", expression=script, returnByValue=True)
    if "exceptionDetails" in result:
      raise RuntimeError(f"{script}: {result['exceptionDetails']}")
    return result["result"].get("value")

  def wait(self, condition: str) -> None:
    """Until an expression is true."""
    end = time.monotonic() + _SECONDS
    while not self.run(f"!!({condition})"):
      assert time.monotonic() < end, (
        f"still not: {condition}\n{self.run('document.body.innerText')}"
      )
      time.sleep(0.05)

  def click(self, selector: str, index: int = 0) -> None:
    """Moves the mouse onto an element and presses its button."""
    element = f"document.querySelectorAll({json.dumps(selector)})[{index}]"
    self.run(f"{element}.scrollIntoView({{block: 'center'}})")
    box = self.run(f"JSON.stringify({element}.getBoundingClientRect())")
    rectangle = json.loads(box)
    x, y = (rectangle[a] + rectangle[b] / 2 for a, b in (("x", "width"), ("y", "height")))
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
      button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
      self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

  def press(self, key: str, code: int, text: str = "") -> None:
    """Presses and releases a key."""
    of_key = {"key": key, "code": key, "windowsVirtualKeyCode": code}
    self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **of_key)
    self.send("Input.dispatchKeyEvent", type="keyUp", **of_key)

  def picture(self, path: Path) -> None:
    """Saves what the window shows as PNG."""
    path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

  def download_to(self, folder: Path) -> None:
    """Where downloads go."""
    self.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

  def close(self) -> None:
    """Ends the browser."""
    self._process.terminate()
    self._process.wait(timeout=_SECONDS)
    os.close(self._in)
    os.close(self._out)
