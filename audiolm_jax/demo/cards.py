"""The HTML of samples and messages on the page."""

import html

from audiolm_jax.demo import making
from audiolm_jax.demo.jobs import Job
from audiolm_jax.demo.routes import file_url, live_url


def player(job: Job, number: int) -> str:
  """Returns an audio player that streams a sample; the first sample plays automatically."""
  sound = file_url(job, making.SOUND.format(number + 1))
  return (
    f'<streamed-sound data-live="{live_url(job, number)}" data-file="{sound}" '
    f'data-autoplay="{"no" if number else "yes"}"></streamed-sound>'
  )


def details(job: Job, number: int, verdict: str) -> str:
  """Returns the spectrogram, the detector's verdict and the files of a complete sample."""
  sound, tokens, picture = (
    file_url(job, name.format(number + 1)) for name in (making.SOUND, making.TOKENS, making.PICTURE)
  )
  return (
    f'<div class="made"><img src="{picture}" alt="Spectrogram of sample {number + 1}">'
    f'<p class="verdict">Detector: {html.escape(verdict)}</p>'
    f'<p><a href="{sound}" download>Sound (.wav)</a>'
    f'<a href="{tokens}" download>Tokens (.npz)</a></p></div>'
  )


def message(text: str) -> str:
  """Returns a status message."""
  return f'<p class="message" role="status">{html.escape(text)}</p>'


def error(text: str) -> str:
  """Returns an error message."""
  return f'<p class="message error" role="alert">{html.escape(text)}</p>'
