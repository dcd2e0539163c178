"""Rejects requests from other sites and requests that are too large, before Gradio reads them."""

import asyncio
import contextlib
import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from audiolm_jax.demo.api_errors import API, error_json

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

# The requests of the page itself have a few thousand bytes.
MOST_BODY_BYTES = 1_000_000
# Number of bytes that a form adds to an uploaded file.
_FORM_BYTES = 100_000
# A rejected body of at most this size is read before the response, for at most this time.
_READ_BYTES = 8_000_000
_READ_SECONDS = 5.0
_LOCAL = ("localhost", "127.0.0.1", "::1")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class HostNames:
  """The host names under which browsers may reach the server.

  In a DNS rebinding attack, a site resolves its own host name to this machine. The requests of the
  site contain this host name, so unknown names are rejected. IP addresses cannot be rebound.
  Therefore every IP address is allowed if the server listens on all addresses.

  Args:
    host: address or name that the server listens on.
    allowed: further allowed host names, such as the name of a proxy. Pages of these hosts may also
      send requests.
  """

  def __init__(self, host: str, allowed: Collection[str] = ()):
    self._trusted = {name.lower() for name in allowed}
    self._own = {host.lower(), *_LOCAL}
    self._any_address = is_open(host)
    if self._any_address:
      self._own |= {socket.gethostname().lower(), socket.getfqdn().lower()}

  def add(self, name: str) -> None:
    """Allows a further name."""
    self._trusted.add(name.lower())

  def allows(self, host: str) -> bool:
    """Returns whether the value of a Host header names this server."""
    name = _name_of(host)
    if name in self._own or name in self._trusted:
      return True
    return self._any_address and _is_address(name)

  def allows_origin(self, origin: str, host: str) -> bool:
    """Returns whether a page may send requests, given the headers Origin and Host of a request."""
    try:
      place = urlsplit(origin).netloc.lower()
    except ValueError:  # an unmatched bracket, as of an IPv6 address
      return False
    return place == host.lower() or _name_of(place) in self._trusted


class Guard:
  """An ASGI middleware that rejects foreign hosts, foreign origins and large bodies.

  Args:
    app: the ASGI application.
    names: the allowed host names of the server.
    max_upload_bytes: maximum size of an uploaded file in bytes.
  """

  def __init__(self, app: App, names: HostNames, max_upload_bytes: int):
    self._app, self._names, self._max_upload_bytes = app, names, max_upload_bytes

  async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
    """Passes a request to the application, or sends an error response."""
    if scope["type"] != "http":
      await self._app(scope, receive, send)
      return
    headers = {
      name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
    }
    host, origin = headers.get("host", ""), headers.get("origin")
    if not self._names.allows(host):
      await _reject(
        scope, send, 403, f"{host[:100]!r} is no name of this server; pass it as --allowed_host"
      )
    elif (
      origin is not None
      and scope["method"] not in _SAFE_METHODS
      and not self._names.allows_origin(origin, host)
    ):
      await _reject(
        scope, send, 403, f"pages of {origin[:100]!r} may not send requests to this server"
      )
    else:
      await self._limited(scope, receive, send, headers.get("content-length", ""))

  async def _limited(self, scope: Message, receive: Receive, send: Send, length: str) -> None:
    is_upload = scope["path"].rstrip("/").endswith("/upload")
    most = self._max_upload_bytes + _FORM_BYTES if is_upload else MOST_BODY_BYTES
    too_large = f"the request has more than {most} bytes; send a smaller one"
    if length.isdecimal() and (len(length) > 18 or int(length) > most):
      if len(length) <= 18 and int(length) <= _READ_BYTES:
        await _read_body(receive)
      await _reject(scope, send, 413, too_large)
      return
    taken, began = 0, False

    async def counted() -> Message:
      nonlocal taken
      message = await receive()
      taken += len(message.get("body", b""))
      if taken > most:
        raise _TooLargeError
      return message

    async def watched(message: Message) -> None:
      nonlocal began
      if taken <= most or began:  # drops the application's response to the error
        began = True
        await send(message)

    with contextlib.suppress(_TooLargeError):
      await self._app(scope, counted, watched)
    if taken > most and not began:
      await _reject(scope, send, 413, too_large)


class _TooLargeError(Exception):
  """Raised if the body of a request is longer than allowed."""


def is_open(host: str) -> bool:
  """Returns whether a server that listens on `host` listens on all addresses of this machine."""
  return _is_address(host) and ipaddress.ip_address(host).is_unspecified


def is_local(host: str) -> bool:
  """Returns whether only programs of this machine reach a server that listens on `host`."""
  if _is_address(host):
    return ipaddress.ip_address(host).is_loopback
  return host.lower() == "localhost"


def _is_address(name: str) -> bool:
  try:
    ipaddress.ip_address(name)
  except ValueError:
    return False
  return True


def _name_of(place: str) -> str:
  """Returns the host of "host:port" in lower case; "" if the host is missing."""
  try:
    return urlsplit(f"//{place}").hostname or ""
  except ValueError:  # an unmatched bracket, as of an IPv6 address
    return ""


async def _read_body(receive: Receive) -> None:
  """Reads the body of a request for at most 5 s and discards it.

  A client sends the whole body before it reads the response. If the server closed the connection
  earlier, the client could get a connection reset instead of the response.
  """
  with contextlib.suppress(TimeoutError):
    async with asyncio.timeout(_READ_SECONDS):
      while (await receive()).get("more_body"):
        pass


async def _reject(scope: Message, send: Send, status: int, reason: str) -> None:
  is_api = scope["path"].startswith(API)
  found = error_json(status, reason) if is_api else {"error": reason, "detail": reason}
  body = json.dumps(found).encode()
  headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
  headers.append((b"content-length", str(len(body)).encode()))
  await send({"type": "http.response.start", "status": status, "headers": headers})
  await send({"type": "http.response.body", "body": body})
