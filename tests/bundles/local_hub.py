"""A hub on this machine: what huggingface_hub asks of one to make, fill and read a repository."""

import base64
import hashlib
import http.server
import json
import re
import threading
from typing import Any


class LocalHub:
  """A server in a thread.

  Attributes:
    repositories: files by name, by repository.
    created: what was asked for when they were made.
  """

  def __init__(self):
    self.repositories: dict[str, dict[str, bytes]] = {}
    self.created: list[dict[str, Any]] = []
    handler = type("Handler", (_Handler,), {"hub": self})
    self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
    threading.Thread(target=self._server.serve_forever, daemon=True).start()

  def close(self):
    self._server.shutdown()
    self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
  hub: LocalHub

  def log_message(self, *_):
    pass

  def do_HEAD(self):
    self._resolve(with_content=False)

  def do_GET(self):
    info = re.match(r"/api/models/([^/]+/[^/?]+)(/revision/\w+|/tree/\w+)?(\?.*)?$", self.path)
    if not info:
      self._resolve(with_content=True)
      return
    name, what = info[1], info[2] or ""
    if name not in self.hub.repositories:
      self._missing("RepoNotFound")
      return
    files = self.hub.repositories[name]
    if what.startswith("/tree"):
      listed = [
        {"type": "file", "path": p, "size": len(c), "oid": _digest(c)} for p, c in files.items()
      ]
      self._json(listed)
      return
    siblings = [{"rfilename": path} for path in files]
    self._json({"id": name, "sha": "a" * 40, "siblings": siblings, "private": True, "tags": []})

  def do_POST(self):
    content = self.rfile.read(int(self.headers["Content-Length"]))
    if self.path == "/api/repos/create":
      asked = json.loads(content)
      name = f"{asked['organization']}/{asked['name']}"
      taken = name in self.hub.repositories
      self.hub.repositories.setdefault(name, {})
      self.hub.created.append(asked)
      self._json({"url": f"{self.hub.address}/{name}", "id": name}, 409 if taken else 200)
    elif "/preupload/" in self.path:
      files = [
        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
        for file in json.loads(content)["files"]
      ]
      self._json({"files": files})
    elif found := re.match(r"/api/models/([^/]+/[^/]+)/commit/", self.path):
      files = self.hub.repositories[found[1]]
      for line in map(json.loads, content.splitlines()):
        if line["key"] == "file":
          files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        elif line["key"] == "deletedFile":
          del files[line["value"]["path"]]
      address = f"{self.hub.address}/{found[1]}/commit/{'b' * 40}"
      self._json({"commitUrl": address, "commitOid": "b" * 40})
    else:
      self._missing("EntryNotFound")

  def _resolve(self, with_content: bool):
    found = re.match(r"/([^/]+/[^/]+)/resolve/\w+/([^?]+)", self.path)
    if not found or found[1] not in self.hub.repositories:
      self._missing("RepoNotFound")
      return
    content = self.hub.repositories[found[1]].get(found[2])
    if content is None:
      self._missing("EntryNotFound")
      return
    self.send_response(200)
    self.send_header("ETag", f'"{_digest(content)}"')
    self.send_header("X-Repo-Commit", "a" * 40)
    self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    if with_content:
      self.wfile.write(content)

  def _missing(self, code: str):
    self.send_response(404)
    self.send_header("X-Error-Code", code)
    self.send_header("X-Error-Message", "not found")
    self.send_header("Content-Length", "0")
    self.end_headers()

  def _json(self, value: Any, status: int = 200):
    content = json.dumps(value).encode()
    self.send_response(status)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    self.wfile.write(content)


def _digest(content: bytes) -> str:
  return hashlib.sha1(content).hexdigest()
