"""What of the words is left when all but the semantic tokens is sampled anew.

A recognizer hears the recording, the recording through the codec, and what the acoustic stages make
of its true semantic tokens. Recognizers differ: the gaps between the three are what to read.

Source: AudioLM, table II: word errors 2.5, 2.6 and 6.0 %, character errors 0.8, 0.9 and 3.4 %.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from audiolm_jax import api
from audiolm_jax.data.manifest import clips_of_split, list_clips
from audiolm_jax.evaluation import recognition
from audiolm_jax.evaluation.clips import EvalClip, load_pieces
from audiolm_jax.evaluation.codec import through_codec
from audiolm_jax.evaluation.options import Domain, Options
from audiolm_jax.evaluation.recognition import ErrorCount, Recognizer
from audiolm_jax.evaluation.report import Better, Row, SuiteResult, left_out
from audiolm_jax.evaluation.statistics import Estimate, bootstrap_estimate
from audiolm_jax.evaluation.transcripts import read_transcripts

_TOGETHER = 8  # clips sampled side by side
_PAPER = {
  "word": {"original": 0.025, "codec": 0.026, "resynthesis": 0.060},
  "character": {"original": 0.008, "codec": 0.009, "resynthesis": 0.034},
}


def run(bundle: Any, options: Options) -> SuiteResult:
  """On the clips of the split `valid` whose text is known."""
  if options.domain is Domain.MUSIC:
    return left_out("music has no words")
  if not options.asr_model and find_spec("pocketsphinx") is None:
    return left_out("no recognizer: pip install pocketsphinx, or give --asr_model")
  transcripts = read_transcripts(options.data)
  texts = {}
  for clip in clips_of_split(list_clips(options.data), "valid"):
    text = transcripts.get(clip.id) or transcripts.get(PurePosixPath(clip.id).stem)
    if text and (clip.seconds is None or clip.seconds <= options.piece_seconds):
      texts[clip.id] = text
  if not texts:
    return left_out(f"no valid clip of {options.data} says what is said in it")
  clips = load_pieces(
    options.data,
    "valid",
    bundle.sample_rate,
    max_clips=options.max_clips,
    ids=texts,
    seed=options.seed,
  )
  recognizer = (
    recognition.TransformersRecognizer(options.asr_model)
    if options.asr_model
    else recognition.PocketSphinx()
  )
  heard = _kinds_of_sound(bundle, clips, options.seed)
  return resynthesis_suite(
    recognizer, [texts[clip.id] for clip in clips], heard, bundle.sample_rate
  )


def resynthesis_suite(
  recognizer: Recognizer,
  texts: Sequence[str],
  heard: Mapping[str, Sequence[np.ndarray]],
  sample_rate: int,
) -> SuiteResult:
  """Word and character error rates of each kind of sound, and what they rise by.

  Args:
    texts: what is said in each clip.
    heard: by kind ("original", "codec", "resynthesis"), the clips at `sample_rate`.
  """
  said = {
    kind: [recognizer.transcribe(clip, sample_rate) for clip in clips]
    for kind, clips in heard.items()
  }
  rows = []
  units = {"word": recognition.word_errors, "character": recognition.character_errors}
  for unit, count in units.items():
    counts = {kind: _counts(count, texts, given) for kind, given in said.items()}
    for kind, of_kind in counts.items():
      note = f"{recognizer.name}; the paper's, by another: {_PAPER[unit][kind]:.1%}"
      figure = f"{unit} error rate, {kind}"
      rows.append(Row("resynthesis", figure, _rate(of_kind), Better.LOWER, note=note))
    more = counts["resynthesis"] - counts["codec"] * (1, 0)  # errors, of as many units
    figure = f"{unit} error rate, resynthesis above codec"
    rows.append(Row("resynthesis", figure, _rate(more), Better.LOWER))
  details = {"recognizer": recognizer.name, "texts": list(texts), "heard": said}
  return SuiteResult(rows, details)


def _kinds_of_sound(
  bundle: Any, clips: Sequence[EvalClip], seed: int
) -> dict[str, list[np.ndarray]]:
  made: list[np.ndarray] = []
  for first in range(0, len(clips), _TOGETHER):
    given = [clip.waveform for clip in clips[first : first + _TOGETHER]]
    done = api.continue_audio(
      bundle, given, bundle.sample_rate, mode="resynthesis", seed=seed + first
    )
    made += [np.asarray(result.waveform) for result in done]
  return {
    "original": [clip.waveform for clip in clips],
    "codec": [through_codec(bundle.codec, clip.waveform) for clip in clips],
    "resynthesis": made,
  }


def _counts(
  count: Callable[[str, str], ErrorCount], texts: Sequence[str], heard: Sequence[str]
) -> np.ndarray:
  """[clips, 2]: errors and length."""
  return np.array([count(text, given) for text, given in zip(texts, heard, strict=True)])


def _rate(counts: np.ndarray) -> Estimate:
  """All errors over all units, and an interval over clips."""
  return bootstrap_estimate(
    lambda rows: counts[rows, 0].sum() / counts[rows, 1].sum(), len(counts), reflected=False
  )
