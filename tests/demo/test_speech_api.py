"""Speech for programs: a plain HTTP client, a real server, and every error as JSON."""

import asyncio
import contextlib
import http.client
import io
import json
import threading
import time
import urllib.parse

import numpy as np
import pytest
import soundfile

from audiolm_jax import read_provenance
from audiolm_jax.bundles.audio_stream import AudioStream
from audiolm_jax.core.errors import UserError
from audiolm_jax.demo import speech_api
from audiolm_jax.demo.jobs import Jobs
from audiolm_jax.demo.requests import RequestLimits
from audiolm_jax.demo.turns import Turns
from audiolm_jax.demo.voices import DRAWN, Voice
from audiolm_jax.io import audio
from tests.conftest import melody

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Gradio's own
TEXT = "It is five."
ASKED = {"model": "speaking", "input": TEXT, "voice": "anna"}
LONG = {"input": 30 * f"{TEXT} ", "speed": 0.25}
VOICE = Voice(melody(1.5).astype(np.float32), 16_000)


def connected(there):
  return http.client.HTTPConnection(urllib.parse.urlsplit(there.url).netloc, timeout=120)


def post(there, asked, headers=None):
  """The status, the type and the body of an answer."""
  body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
  sent = {"Content-Type": "application/json", "Authorization": "Bearer any"} | (headers or {})
  with contextlib.closing(connected(there)) as connection:
    connection.request("POST", "/v1/audio/speech", body, sent)
    answer = connection.getresponse()
    return answer.status, answer.getheader("Content-Type"), answer.read()


def test_a_program_receives_what_the_bundle_speaks(there, speaking_bundle, tmp_path):
  status, kind, content = post(there, ASKED | {"response_format": "wav", "speed": 1.25})
  assert (status, kind) == (200, "audio/wav")
  found, rate = soundfile.read(io.BytesIO(content), dtype="float32")
  stream = speaking_bundle.stream_speech(TEXT, voice=VOICE.waveform, sample_rate=16_000, rate=1.25)
  assert rate == 16_000
  np.testing.assert_allclose(found, np.concatenate([*stream]), atol=1 / 32_000)
  (tmp_path / "speech.wav").write_bytes(content)
  record = read_provenance(tmp_path / "speech.wav")
  assert record and (record.mode, record.bundle, record.seed) == ("speech", "speaking", 0)
  assert there.jobs.num_active == 0


@pytest.mark.parametrize(
  ("form", "kind", "start"), [("flac", "audio/flac", b"fLaC"), (None, "audio/mpeg", b"ID3")]
)
def test_the_form_of_the_answer_is_chosen(there, form, kind, start):
  asked = ASKED | {"voice": "default", "stream_format": "audio"}
  asked |= {"response_format": form} if form else {}
  status, found, content = post(there, asked)
  assert (status, found) == (200, kind) and content.startswith(start)


def test_samples_without_a_header_have_the_rate_that_clients_expect(there, speaking_bundle):
  status, kind, content = post(there, ASKED | {"response_format": "pcm", "speed": 0.5})
  stream = speaking_bundle.stream_speech(TEXT, voice=VOICE.waveform, sample_rate=16_000, rate=0.5)
  expected = audio.resample(np.concatenate([*stream]), 16_000, 24_000)
  assert (status, kind) == (200, "audio/pcm")
  np.testing.assert_allclose(np.frombuffer(content, "<i2") / 32_768, expected, atol=1e-4)


@pytest.mark.parametrize(
  ("change", "status", "param", "words"),
  [
    (b"{", 400, None, "the body cannot be read: it is not JSON"),
    (b"[" * 2_000, 400, None, "the body cannot be read"),
    (b"[]", 400, None, "send a JSON object"),
    (b"{}", 400, "model", "model is missing; add it"),
    ({"volume": 2}, 400, "volume", "unknown field 'volume'; the fields are model, input, voice"),
    ({"model": "tts"}, 404, "model", "no model 'tts'; use one of miniature, speaking"),
    ({"model": {}}, 404, "model", "no model {}"),
    ({"model": "miniature"}, 400, "model", "has no text stage"),
    ({"voice": "../../etc/passwd"}, 404, "voice", "no voice '../../etc/passwd'; use one of"),
    ({"voice": ["anna"]}, 404, "voice", "no voice ['anna']; use one of default, anna"),
    ({"input": 5}, 400, "input", "there is no text to speak"),
    ({"input": "a" * 101}, 400, "input", "101 characters, and 100 are allowed"),
    ({"input": "\N{SNOWMAN}"}, 400, "input", "has no words"),
    ({"input": "\N{SNOWMAN} a"}, 400, "input", "which the stage does not know"),
    ({"response_format": "aac"}, 400, "response_format", "'aac' is not one of wav, flac, mp3, pcm"),
    (
      {"stream_format": "sse"},
      400,
      "stream_format",
      "stream_format 'sse' is not available; use audio",
    ),
    ({"speed": 0}, 400, "speed", "speed is 0; give a number from 0.25 to 4"),
    ({"speed": "fast"}, 400, "speed", "speed is 'fast'"),
  ],
)
def test_a_bad_request_is_reported_with_its_field(
  speaking_bundle, demo_bundle, change, status, param, words
):
  bundles = {"miniature": demo_bundle, "speaking": speaking_bundle}
  body = change if isinstance(change, bytes) else json.dumps(ASKED | change).encode()
  limits = RequestLimits(max_characters=100)
  with pytest.raises(speech_api.ApiError) as refused:
    speech_api.checked(body, bundles, {**DRAWN, "anna": VOICE}, limits)
  error = refused.value.json["error"]
  assert (refused.value.status, error["param"]) == (status, param) and words in error["message"]
  assert error["type"] == "invalid_request_error" and "\n" not in error["message"]


def test_a_format_that_the_machine_cannot_write_is_reported(speaking_bundle, monkeypatch):
  monkeypatch.setattr(soundfile, "available_formats", lambda: {"WAV": ""})
  with pytest.raises(speech_api.ApiError, match="cannot write mp3; use wav or flac"):
    speech_api.checked(
      json.dumps(ASKED).encode(), {"speaking": speaking_bundle}, {"anna": VOICE}, RequestLimits()
    )


@pytest.mark.parametrize(
  ("asked", "headers", "status"),
  [
    (b"{", {}, 400),
    (ASKED | {"voice": "bob"}, {}, 404),
    (b'"' + b"x" * 3_000_000 + b'"', {}, 413),
    (ASKED, {"Host": "evil.example"}, 403),
    (ASKED, {"Origin": "https://evil.example"}, 403),
  ],
)
def test_the_server_answers_errors_as_json(there, asked, headers, status):
  found, kind, content = post(there, asked, headers)
  assert (found, kind) == (status, "application/json")
  assert set(json.loads(content)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
  ("raised", "status", "param", "is_shown"),
  [
    (RuntimeError("the key is 1234"), 500, None, False),
    (UserError("the key is 1234"), 400, "input", True),
  ],
)
def test_an_error_while_speaking_is_shown_if_the_user_can_fix_it(
  there, speaking_bundle, monkeypatch, caplog, raised, status, param, is_shown
):
  def fail(*_, **__):
    raise raised

  monkeypatch.setattr(type(speaking_bundle), "stream_speech", fail)
  found, _, content = post(there, ASKED)
  assert (found, json.loads(content)["error"]["param"]) == (status, param)
  assert (b"1234" in content, "the key is 1234" in caplog.text) == (is_shown, not is_shown)


def wait_until(condition):
  end = time.monotonic() + 60
  while not condition() and time.monotonic() < end:
    time.sleep(0.02)
  assert condition()


def test_programs_wait_in_the_queue_and_a_full_one_refuses(there):
  answers = []
  with there.turns.joined():
    threads = [
      threading.Thread(target=lambda: answers.append(post(there, ASKED))) for _ in range(2)
    ]
    for thread in threads:
      thread.start()
    wait_until(lambda: there.jobs.num_active == 2)
    status, _, content = post(there, ASKED)
    error = json.loads(content)["error"]
    assert (status, error["type"], error["code"]) == (429, "rate_limit_error", "queue_full")
    assert not answers
  for thread in threads:
    thread.join(120)
  assert [status for status, *_ in answers] == [200, 200]


class Client:
  """A client without a network.

  Args:
    patience: number of pieces that it reads.
    stays: whether it keeps the connection without reading after that.
  """

  def __init__(self, patience=1_000, stays=False):
    self.patience, self.stays = patience, stays
    self.messages, self.pieces = [], []
    self.left = asyncio.Event()

  async def receive(self):
    if not self.messages:
      self.messages.append("asked")
      return {
        "type": "http.request",
        "body": json.dumps(ASKED | {"response_format": "wav"} | LONG).encode(),
      }
    await self.left.wait()
    return {"type": "http.disconnect"}

  async def send(self, message):
    if len(self.pieces) == self.patience and self.stays:
      await asyncio.Event().wait()
    self.messages.append(message)
    self.pieces += filter(None, [message.get("body")])
    if len(self.pieces) == self.patience and not self.stays:
      self.left.set()

  def ask(self, bundle, folder, timeout=180.0):
    """Sends a request for some seconds of speech; returns what it has received."""
    jobs, turns = Jobs(folder), Turns(1, 1)
    route = speech_api.route(
      {"speaking": bundle}, {"anna": VOICE}, RequestLimits(timeout=timeout), jobs, turns
    )
    scope = {"type": "http", "method": "POST", "path": speech_api.PATH, "headers": []}

    async def answer():
      await route.app(scope, self.receive, self.send)

    asyncio.run(answer())
    assert jobs.num_active == 0 and not [*folder.iterdir()]
    with turns.joined() as turn:
      assert turn.ahead == 0
    return self.messages[1:]


@pytest.fixture
def made(speaking_bundle, monkeypatch):
  """The lengths of the pieces of speech that were made."""
  lengths, stream_speech = [], type(speaking_bundle).stream_speech

  def counted(*settings, **named):
    stream = stream_speech(*settings, **named)
    pieces = stream._pieces

    def noted():
      for piece in pieces:
        lengths.append(len(piece))
        yield piece

    stream._pieces = noted()
    return stream

  monkeypatch.setattr(type(speaking_bundle), "stream_speech", counted)
  return lengths


def is_complete(messages):
  return messages[-1]["type"] == "http.response.body" and not messages[-1].get("more_body")


def test_sound_is_sent_while_it_is_made(speaking_bundle, made, tmp_path):
  client, num_made = Client(), []

  async def send(message):
    num_made.append(len(made))
    await Client.send(client, message)

  client.send = send
  messages = client.ask(speaking_bundle, tmp_path)
  assert messages[0]["status"] == 200 and is_complete(messages) and len(made) > 4
  # Of the start, the header, each piece when the next one is not made yet, and the end.
  assert num_made == [0, 0, *range(1, len(made) + 1), len(made)]
  assert len(b"".join(client.pieces)) > 2 * sum(made)


def test_a_client_that_leaves_during_the_answer_ends_its_request(
  speaking_bundle, made, tmp_path, caplog
):
  messages = Client(patience=2).ask(speaking_bundle, tmp_path)
  assert not is_complete(messages) and len(made) <= 2
  assert "was cut off: the client disconnected" in caplog.text


class Silence(AudioStream):
  """Speech that is made without computation, up to an error."""

  def __init__(self):
    self.sample_rate = self.samples = 16_000

  def __next__(self):
    if self.samples < 8_000:
      raise RuntimeError("the key is 1234")
    self.samples -= 4_000
    return np.zeros(4_000, np.float32)


def test_a_client_that_does_not_read_is_cut_off_after_the_timeout(
  speaking_bundle, monkeypatch, tmp_path, caplog
):
  monkeypatch.setattr(type(speaking_bundle), "stream_speech", lambda *_, **__: Silence())
  messages = Client(patience=2, stays=True).ask(speaking_bundle, tmp_path, timeout=1.0)
  assert messages[0]["status"] == 200 and not is_complete(messages)
  assert "cut off: the client did not read the answer within 1 s" in caplog.text


def test_an_error_during_the_answer_closes_the_connection(
  there, speaking_bundle, monkeypatch, caplog
):
  monkeypatch.setattr(type(speaking_bundle), "stream_speech", lambda *_, **__: Silence())
  with pytest.raises(http.client.IncompleteRead) as cut:
    post(there, ASKED | {"response_format": "wav"})
  assert cut.value.partial.startswith(b"RIFF") and len(cut.value.partial) > 16_000
  assert b"1234" not in cut.value.partial
  assert "the key is 1234" in caplog.text and "was cut off: something went wrong" in caplog.text


def test_a_client_that_leaves_ends_its_request(there):
  with there.turns.joined():
    with contextlib.closing(connected(there)) as connection:
      connection.request("POST", "/v1/audio/speech", json.dumps(ASKED))
      wait_until(lambda: there.jobs.num_active == 1)
    wait_until(lambda: there.jobs.num_active == 0)
