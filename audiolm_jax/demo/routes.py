"""Sends audio while it is sampled, and the files of complete samples."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from audiolm_jax.demo import library
from audiolm_jax.demo.jobs import Job, Jobs, Sample

if TYPE_CHECKING:  # an optional package
  from starlette.requests import Request
  from starlette.responses import Response
  from starlette.routing import Route

_PATH = "/sound"
_POLL_SECONDS = 0.05
_FILE = re.compile(r"sample_\d\.(wav|npz|png)")


def live_url(job: Job, number: int) -> str:
  """Returns the URL of a sample's audio stream, relative to the page."""
  return f".{_PATH}/live/{job.name}/{number}"


def file_url(job: Job, name: str) -> str:
  """Returns the URL of a job's file, relative to the page."""
  return f".{_PATH}/made/{job.name}/{name}"


def routes(jobs: Jobs) -> "list[Route]":
  """Returns the Starlette routes of the audio streams and the files."""
  responses, routing = library.load("starlette.responses"), library.load("starlette.routing")

  async def live(request: "Request") -> "Response":
    job = jobs.find(request.path_params["job"])
    number = request.path_params["number"]
    if job is None or number >= len(job.samples):
      return responses.PlainTextResponse("this audio has been removed", 404)
    sample = job.samples[number]
    headers = {
      "X-Sample-Rate": str(sample.sample_rate),
      "X-Samples": str(sample.num_samples),
      "Cache-Control": "no-store",
    }
    return responses.StreamingResponse(
      _pieces(job, sample), media_type="application/octet-stream", headers=headers
    )

  async def made(request: "Request") -> "Response":
    job, name = jobs.find(request.path_params["job"]), request.path_params["file"]
    if job is None or not _FILE.fullmatch(name) or not (job.folder / name).is_file():
      return responses.PlainTextResponse("this file has been removed", 404)
    return responses.FileResponse(job.folder / name, headers={"Cache-Control": "no-store"})

  return [
    routing.Route(_PATH + "/live/{job:str}/{number:int}", live),
    routing.Route(_PATH + "/made/{job:str}/{file:str}", made),
  ]


async def _pieces(job: Job, sample: Sample) -> AsyncIterator[bytes]:
  """Yields 16-bit little-endian samples until the sample is complete or its job has ended."""
  sent = 0
  while True:
    is_over = sample.is_complete or job.ended is not None
    piece = sample.since(sent)
    if piece:
      sent += len(piece)
      yield piece
    if is_over:
      return
    await asyncio.sleep(_POLL_SECONDS)
