"""`POST /v1/audio/speech`: text to speech for programs, in the format of common speech servers."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from audiolm_jax.bundles import Bundle, speaking
from audiolm_jax.core import arguments, plain_json
from audiolm_jax.core.configs import JsonDict, shown
from audiolm_jax.core.errors import BundleError, UserError
from audiolm_jax.demo import library, making, requests
from audiolm_jax.demo.api_errors import API, error_json
from audiolm_jax.demo.guard import App, Message, Receive, Send
from audiolm_jax.demo.jobs import Job, Jobs, LateError, StoppedError
from audiolm_jax.demo.requests import RequestLimits
from audiolm_jax.demo.turns import BusyError, Turns
from audiolm_jax.demo.voices import Voice
from audiolm_jax.io import audio, streamed_file

if TYPE_CHECKING:  # an optional package
  from starlette.requests import Request
  from starlette.routing import Route

PATH = f"{API}audio/speech"
PCM_RATE = 24_000  # Hz; clients of speech servers expect this rate for samples without a header
MEDIA_TYPES = {
  "wav": "audio/wav",
  "flac": "audio/flac",
  "mp3": "audio/mpeg",
  streamed_file.PCM: "audio/pcm",
}
_REQUIRED = ("model", "input", "voice")
_FIELDS = (*_REQUIRED, "response_format", "speed", "stream_format")
_STREAM_FORMAT = "audio"
_POLL_SECONDS = 0.05


class ApiError(Exception):
  """Raised if the response to a request is an error.

  Args:
    status: HTTP status of the response.
    message: description of the error, and how to fix it.
    param: name of the request field that is wrong; None for an error of the whole request.
    code: short name of the error; None for an error without a name.
  """

  def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
    super().__init__(message)
    self.status, self.json = status, error_json(status, message, param, code)


class Order(NamedTuple):
  """A checked request.

  Attributes:
    bundle: the bundle that speaks.
    text: the text.
    voice: the voice.
    form: format of the audio, a key of `MEDIA_TYPES`.
    speed: speaking rate, relative to the normal rate.
  """

  bundle: Bundle
  text: str
  voice: Voice
  form: str
  speed: float


def checked(
  body: bytes, bundles: Mapping[str, Bundle], voices: Mapping[str, Voice], limits: RequestLimits
) -> Order:
  """Reads and checks a request.

  Args:
    body: JSON with `model`, the name of a bundle; `input`, the text; `voice`, the name of a voice;
      and optionally `response_format` (default mp3), `speed` (default 1) and `stream_format`, whose
      only value is "audio".
    bundles: bundles by name.
    voices: voices by name.
    limits: limits of one request.

  Raises:
    ApiError: the body is not JSON with these fields, or a value is unknown or out of range.
  """
  asked = _fields(body)
  name = asked["model"]
  if name not in list(bundles):
    raise ApiError(404, f"no model {shown(name)}; use {_any_of(bundles)}", "model", "not_found")
  bundle = bundles[name]
  try:
    spec = speaking.text_stage(bundle)
  except BundleError as error:
    raise ApiError(400, str(error), "model", "cannot_speak") from error
  try:
    text = requests.checked_text(asked["input"], limits)
    speaking.sentences_of(spec, text)
  except UserError as error:
    raise ApiError(400, str(error), "input", "invalid_value") from error
  voice = asked["voice"]
  if voice not in list(voices):
    raise ApiError(404, f"no voice {shown(voice)}; use {_any_of(voices)}", "voice", "not_found")
  form = asked.get("response_format", "mp3")
  if form not in list(MEDIA_TYPES):
    message = f"response_format {shown(form)} is not one of {', '.join(MEDIA_TYPES)}"
    raise ApiError(400, message, "response_format", "invalid_value")
  if form != streamed_file.PCM and not audio.can_write(f".{form}"):
    message = f"the server's libsndfile cannot write {form}; use wav or flac"
    raise ApiError(400, message, "response_format", "invalid_value")
  stream_format = asked.get("stream_format", _STREAM_FORMAT)
  if stream_format != _STREAM_FORMAT:
    message = f"stream_format {shown(stream_format)} is not available; use {_STREAM_FORMAT}"
    raise ApiError(400, message, "stream_format", "invalid_value")
  try:
    speed = arguments.number(asked.get("speed", 1.0), "speed", speaking.RATES)
  except UserError as error:
    raise ApiError(400, str(error), "speed", "invalid_value") from error
  return Order(bundle, text, voices[voice], form, speed)


def route(
  bundles: Mapping[str, Bundle],
  voices: Mapping[str, Voice],
  limits: RequestLimits,
  jobs: Jobs,
  turns: Turns,
) -> "Route":
  """Returns the Starlette route of the speech API.

  Args:
    bundles: bundles by name, the `model` of requests.
    voices: voices by name, the `voice` of requests.
    limits: limits of one request.
    jobs: the jobs of the server.
    turns: the queue of all requests.
  """
  responses, routing = library.load("starlette.responses"), library.load("starlette.routing")

  async def answer(request: "Request") -> App:
    body = await request.body()
    try:
      order = checked(body, bundles, voices, limits)
    except ApiError as error:
      return responses.JSONResponse(error.json, error.status)

    async def respond(scope: Message, receive: Receive, send: Send) -> None:
      try:
        await _send_speech(request, order, limits, jobs, turns, send)
      except ApiError as error:
        await responses.JSONResponse(error.json, error.status)(scope, receive, send)

    return respond

  return routing.Route(PATH, answer, methods=["POST"])


def _fields(body: bytes) -> JsonDict:
  """Returns the fields of a request body, with values of any type."""
  try:
    found = plain_json.parse(body)
  except ValueError as error:
    raise ApiError(400, f"the body cannot be read: {error}", code="invalid_json") from error
  if not isinstance(found, dict):
    raise ApiError(400, f"the body is {shown(found)}; send a JSON object", code="invalid_json")
  asked = cast(JsonDict, found)
  for name in _REQUIRED:
    if name not in asked:
      raise ApiError(400, f"{name} is missing; add it", name, "missing_required_parameter")
  for name in asked:
    if name not in _FIELDS:
      message = f"unknown field {shown(name)}; the fields are {', '.join(_FIELDS)}"
      raise ApiError(400, message, arguments.shorten(name), "unknown_parameter")
  return asked


def _any_of(names: Mapping[str, object]) -> str:
  return f"one of {', '.join(names)}" if len(names) > 1 else next(iter(names))


async def _send_speech(
  request: "Request", order: Order, limits: RequestLimits, jobs: Jobs, turns: Turns, send: Send
) -> None:
  """Waits for the turn of a request, and sends the speech in pieces while it is sampled.

  The next piece is sampled when the client has read the previous piece. If an error occurs after
  the first piece, the response remains incomplete, so that the server closes the connection.

  Raises:
    ApiError: an error occurs before the first piece is sent.
  """
  has_begun = False
  try:
    with _api_errors():
      async with _started(request, limits, jobs, turns) as job:
        pieces = _content(order, limits, job)
        while piece := await _in_thread(request, job, lambda: next(pieces, b"")):
          if not has_begun:
            kind = MEDIA_TYPES[order.form].encode()
            headers = [(b"content-type", kind), (b"cache-control", b"no-store")]
            start = {"type": "http.response.start", "status": 200, "headers": headers}
            await _in_time(send(start), job)
            has_begun = True
          body = {"type": "http.response.body", "body": piece, "more_body": True}
          await _in_time(send(body), job)
  except ApiError as error:
    if not has_begun:
      raise
    logging.warning("an answer with speech was cut off: %s", error)
    return
  await send({"type": "http.response.body", "body": b""})


@contextlib.contextmanager
def _api_errors() -> Iterator[None]:
  """Converts errors during a request to `ApiError`."""
  try:
    yield
  except BusyError as error:
    raise ApiError(429, str(error), code="queue_full") from error
  except LateError as error:
    raise ApiError(503, str(error), code="timeout") from error
  except StoppedError as error:
    message = "the client disconnected, or the server ends"
    raise ApiError(503, message, code="stopped") from error
  except UserError as error:
    raise ApiError(400, str(error), "input", "invalid_value") from error
  except Exception as error:  # one failed request must not end the server
    logging.exception("a request failed")
    message = "something went wrong; the error is in the log of the server"
    raise ApiError(500, message, code="internal_error") from error


@contextlib.asynccontextmanager
async def _started(
  request: "Request", limits: RequestLimits, jobs: Jobs, turns: Turns
) -> AsyncIterator[Job]:
  """Waits for the turn of a new job, yields the job, and removes it after the `with` block."""
  with turns.joined() as turn:
    job = jobs.begin(secrets.token_hex(8), limits.timeout)
    try:
      while turn.ahead:
        await asyncio.sleep(_POLL_SECONDS)
        await _stop_if_left(request, job)
        job.check()
      job.start()
      yield job
    finally:
      jobs.remove(job)


async def _in_thread(request: "Request", job: Job, function: Callable[[], bytes]) -> bytes:
  """Runs a function in a thread and returns its result; stops the job if the client disconnects."""
  work = asyncio.ensure_future(asyncio.to_thread(function))
  while not work.done():
    await asyncio.wait([work], timeout=_POLL_SECONDS)
    await _stop_if_left(request, job)
  return work.result()


async def _in_time(sending: Awaitable[None], job: Job) -> None:
  """Sends a message; raises `LateError` if the client does not read it before `job.deadline`."""
  try:
    async with asyncio.timeout(max(0.0, job.deadline - time.monotonic())):
      await sending
  except TimeoutError as error:
    raise LateError(f"the client did not read the answer within {job.timeout:g} s") from error


async def _stop_if_left(request: "Request", job: Job) -> None:
  """Stops the job if the client has disconnected."""
  if await request.is_disconnected():
    job.stopped.set()


def _content(order: Order, limits: RequestLimits, job: Job) -> Iterator[bytes]:
  """Yields the content of the requested audio file while the speech is sampled."""
  stream = making.speech(
    order.bundle,
    order.text,
    job,
    longest_seconds=limits.max_duration,
    voice=order.voice.waveform,
    sample_rate=order.voice.sample_rate,
    rate=order.speed,
  )

  def checked_pieces() -> Iterator[np.ndarray]:
    for piece in stream:
      job.check()
      yield piece

  pieces, rate, samples = checked_pieces(), stream.sample_rate, stream.samples
  if order.form == streamed_file.PCM:
    pieces = audio.resampled_blocks(pieces, rate, PCM_RATE)
    rate, samples = PCM_RATE, audio.resampled_length(samples, rate, PCM_RATE)
  tags = making.speech_record(order.bundle, 0).tags()
  yield from streamed_file.content(pieces, order.form, sample_rate=rate, samples=samples, tags=tags)
