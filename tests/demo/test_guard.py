"""Requests that other sites send, and requests that are too large."""

import asyncio
import contextlib
import json

import pytest

from audiolm_jax.demo.guard import MOST_BODY_BYTES, Guard, HostNames, is_local


def served(
  host, *, origin=None, method="POST", path="/queue/join", chunks=(b"{}",), length=None,
  listening="127.0.0.1", allowed=(), catches=False,
):  # fmt: skip
  """The status of a request, and the bytes that the application received."""
  sent, received, _ = answered(
    host, origin=origin, method=method, path=path, chunks=chunks, length=length,
    listening=listening, allowed=allowed, catches=catches,
  )  # fmt: skip
  return sent[0]["status"], received


def answered(host, *, origin, method, path, chunks, length, listening, allowed, catches):
  """The messages of an answer, the bytes that the application received, and those not read."""
  received, sent, pending = [], [], [*chunks]

  async def app(scope, receive, send):
    with contextlib.suppress(Exception) if catches else contextlib.nullcontext():
      for _ in chunks:
        received.append((await receive())["body"])
    await send({"type": "http.response.start", "status": 200, "headers": []})

  async def request():
    async def receive():
      if not pending:
        return {"type": "http.disconnect"}
      return {"type": "http.request", "body": pending.pop(0), "more_body": bool(pending)}

    async def send(message):
      sent.append(message)

    headers = [(b"host", host.encode())]
    headers += [(b"origin", origin.encode())] if origin is not None else []
    headers += [(b"content-length", length.encode())] if length is not None else []
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    guard = Guard(app, HostNames(listening, allowed), max_upload_bytes=5_000_000)
    await guard(scope, receive, send)

  asyncio.run(request())
  return sent, sum(map(len, received)), sum(map(len, pending))


@pytest.mark.parametrize(
  "host, listening, status",
  [
    ("127.0.0.1:7860", "127.0.0.1", 200),
    ("LOCALHOST:7860", "127.0.0.1", 200),
    ("[::1]:7860", "::1", 200),
    ("evil.example", "127.0.0.1", 403),
    ("127.0.0.1.evil.example:7860", "127.0.0.1", 403),
    ("192.168.1.5:7860", "127.0.0.1", 403),
    ("192.168.1.5:7860", "0.0.0.0", 200),
    ("[fe80::1]:7860", "::", 200),
    ("evil.example", "0.0.0.0", 403),
    ("[broken", "0.0.0.0", 403),
    ("", "0.0.0.0", 403),
  ],
)
def test_only_the_names_of_the_server_are_served(host, listening, status):
  found, received = served(host, listening=listening)
  assert found == status and (received > 0) == (status == 200)


@pytest.mark.parametrize(
  ("host", "length", "status"), [("evil.example", "2", 403), ("localhost", "3000000", 413)]
)
def test_programs_receive_errors_in_their_form(host, length, status):
  (start, body), *_ = answered(
    host, origin=None, method="POST", path="/v1/audio/speech", chunks=[b"{}"], length=length,
    listening="127.0.0.1", allowed=(), catches=False,
  )  # fmt: skip
  error = json.loads(body["body"])["error"]
  assert start["status"] == status and error["type"] == "invalid_request_error"
  assert error["message"] and (error["param"], error["code"]) == (None, None)


def test_names_of_a_proxy_can_be_allowed():
  assert served("demo.example.org", allowed=["Demo.example.org"])[0] == 200
  origin = "https://demo.example.org"
  assert served("localhost:7860", origin=origin, allowed=["demo.example.org"])[0] == 200


@pytest.mark.parametrize(
  "origin, method, status",
  [
    ("http://localhost:7860", "POST", 200),
    ("http://localhost:3000", "POST", 403),
    ("https://evil.example", "POST", 403),
    ("https://evil.example", "DELETE", 403),
    ("null", "POST", 403),
    ("https://evil.example", "GET", 200),
  ],
)
def test_pages_of_other_sites_may_not_post(origin, method, status):
  assert served("localhost:7860", origin=origin, method=method)[0] == status


def test_a_body_is_refused_by_its_stated_length_before_it_is_read():
  assert served("localhost", length="300000000") == (413, 0)
  assert served("localhost", length="9" * 5_000) == (413, 0)
  assert served("localhost", path="/upload", length="5000001") == (200, 2)
  assert served("localhost", path="/upload", length="300000000") == (413, 0)


@pytest.mark.parametrize(("length", "left"), [("3000000", 0), ("9000000", 3_000_000)])
def test_a_client_that_sends_a_little_too_much_can_read_the_answer(length, left):
  """A connection that is closed with unread bytes is reset, and the answer is lost."""
  sent, received, unread = answered(
    "localhost", origin=None, method="POST", path="/v1/audio/speech", chunks=[b"x" * 10**6] * 3,
    length=length, listening="127.0.0.1", allowed=(), catches=False,
  )  # fmt: skip
  assert (sent[0]["status"], received, unread) == (413, 0, left)


def test_a_body_without_a_stated_length_is_refused_once_it_is_too_long():
  status, received = served("localhost", chunks=[b"x" * 400_000] * 750)
  assert status == 413 and received <= MOST_BODY_BYTES
  assert served("localhost", path="/upload", chunks=[b"x" * 400_000] * 10) == (200, 4_000_000)


def test_an_application_that_answers_the_error_itself_is_overruled():
  status, _ = served("localhost", chunks=[b"x" * 400_000] * 9, catches=True)
  assert status == 413


def test_hosts_that_only_this_machine_reaches():
  assert [is_local(h) for h in ("127.0.0.1", "::1", "localhost", "127.8.0.1")] == [True] * 4
  assert not any(is_local(h) for h in ("0.0.0.0", "::", "192.168.1.5", "my-host"))


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "null", ""])
def test_an_origin_that_is_no_address_is_refused(origin):
  assert served("127.0.0.1:7860", origin=origin) == (403, 0)
