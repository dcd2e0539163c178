"""What a sample looks like on the page, in HTML."""

import html

from audiolm_jax.demo import making
from audiolm_jax.demo.jobs import Job
from audiolm_jax.demo.routes import file_url, live_url


def player(job: Job, number: int) -> str:
  """Plays a sample while it is made; the first one by itself."""
  sound = file_url(job, making.SOUND.format(number + 1))
  return (
    f'<streamed-sound data-live="{live_url(job, number)}" data-file="{sound}" '
    f'data-autoplay="{"no" if number else "yes"}"></streamed-sound>'
  )


def details(job: Job, number: int, verdict: str) -> str:
  """Picture, verdict and files of a sample that is complete."""
  sound, tokens, picture = (
    file_url(job, name.format(number + 1)) for name in (making.SOUND, making.TOKENS, making.PICTURE)
  )
  return (
    f'<div class="made"><img src="{picture}" alt="Spectrogram of sample {number + 1}">'
    f'<p class="verdict">Detector: {html.escape(verdict)}</p>'
    f'<p><a href="{sound}" download>Sound (.wav)</a>'
    f'<a href="{tokens}" download>Tokens (.npz)</a></p></div>'
  )


def said(words: str) -> str:
  """A line on how it goes."""
  return f'<p class="said" role="status">{html.escape(words)}</p>'


def wrong(words: str) -> str:
  """A line on what went wrong."""
  return f'<p class="said wrong" role="alert">{html.escape(words)}</p>'
