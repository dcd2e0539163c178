"""Measures the loss of quality by a change of sampling, such as a watermark.

Two clips, with and without the change, continue the same prompt with the same seed. Resampling such
pairs gives the 95 % interval of the mean difference. The worse end of this interval is the bound of
the loss.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.codec.interface import Codec
from audiolm_jax.evaluation.codec import through_codec
from audiolm_jax.evaluation.metric import Better, Metric
from audiolm_jax.evaluation.recognition import Recognizer, word_errors
from audiolm_jax.evaluation.report import Row
from audiolm_jax.evaluation.speech import Description, SpeechMeasures, opinion_rows
from audiolm_jax.evaluation.statistics import (
  Estimate,
  bootstrap_estimate,
  exact,
  mean_estimate,
  undefined,
)

OPINION = Metric("dnsmos_difference", "DNSMOS overall, difference")
WORDS = Metric(
  "word_loss_difference",
  "word error rate after another pass through the codec, difference",
  Better.LOWER,
)
SPEAKER = Metric(
  "nearest_speaker_difference", "speaker of the nearest prompt by GE2E is right, difference"
)
# The largest acceptable loss of each metric, compared with the bound.
_LIMITS = {OPINION: -0.05, WORDS: 0.01, SPEAKER: -0.03}

Sounds = Sequence[Float[np.ndarray, "_"]]


def paired_rows(
  measures: SpeechMeasures,
  codec: Codec,
  sounds: Mapping[str, Sounds],
  prompts: Sounds,
  speakers: Sequence[str],
) -> list[Row]:
  """Returns rows of quality, and rows of mean differences between paired clips, with bounds.

  Args:
    measures: the available networks; each missing network has one row without a value.
    codec: the codec. Continuations have no reference text, so the words recognized before and after
      another pass through the codec are compared.
    sounds: two sets of continuations of the same prompts with the same seeds, by name: first with
      the change, then without the change. All sounds have the codec's sample rate.
    prompts: the prompts.
    speakers: speaker of each prompt; with only one speaker, the rows of `SPEAKER` are omitted.
  """
  rate = codec.spec.sample_rate
  found = dataclasses.replace(measures, recognizer=None).describe_all(sounds, rate)
  changed, plain = found.values()
  rows = opinion_rows(found)
  if measures.opinion is not None:
    scores = [
      np.array([one.opinion.overall for one in of if one.opinion is not None])
      for of in (changed, plain)
    ]
    rows += _difference_rows(OPINION, mean_estimate(scores[0] - scores[1]))
  if measures.recognizer is not None:
    counts = [_lost_words(measures.recognizer, codec, of) for of in sounds.values()]
    rows += _difference_rows(WORDS, _ratio_difference(*counts), measures.recognizer.name)
  if measures.speaker is not None and len(set(speakers)) > 1:
    table = np.stack([measures.speaker.embed(prompt, rate) for prompt in prompts])
    hits = [_hits(of, table, speakers) for of in (changed, plain)]
    note = f"among {len(set(speakers))}"
    rows += _difference_rows(SPEAKER, mean_estimate(hits[0] - hits[1]), note)
  return rows + measures.missing_rows()


def _difference_rows(metric: Metric, difference: Estimate, note: str = "") -> list[Row]:
  bound = difference.high if metric.better is Better.LOWER else difference.low
  limit = _LIMITS[metric]
  return [
    Row(metric, difference, note=note),
    Row(metric, exact(bound, difference.n), "95 % bound", floor=limit, note=note),
  ]


def _lost_words(recognizer: Recognizer, codec: Codec, sounds: Sounds) -> Int[np.ndarray, "clips 2"]:
  """Returns, for each clip, the number of word errors and the number of words.

  The reference is the transcript of the clip. The transcript after another pass through the codec
  is compared with the reference.
  """
  rate = codec.spec.sample_rate
  counts = []
  for waveform in sounds:
    texts = [
      recognizer.normalise(recognizer.transcribe(part, rate))
      for part in (waveform, through_codec(codec, waveform))
    ]
    counts.append(word_errors(*texts))
  return np.array(counts, int).reshape(-1, 2)


def _ratio_difference(
  changed: Int[np.ndarray, "clips 2"], plain: Int[np.ndarray, "clips 2"]
) -> Estimate:
  """Returns the difference between two error rates; a rate is total errors / total words."""
  if not changed[:, 1].any() or not plain[:, 1].any():
    return undefined(len(changed))

  def difference(rows: Int[np.ndarray, " clips"]) -> float:
    rates = [of[rows].sum(axis=0) for of in (changed, plain)]
    if not all(words for _, words in rates):
      return float("nan")
    return float(rates[0][0] / rates[0][1] - rates[1][0] / rates[1][1])

  return bootstrap_estimate(difference, len(changed), reflected=False)


def _hits(
  found: Sequence[Description], table: Float[np.ndarray, "prompts dim"], speakers: Sequence[str]
) -> Float[np.ndarray, "clips"]:
  """Returns 1 for each clip whose nearest prompt, by voice, is by the clip's speaker, else 0.

  Args:
    found: descriptions of the clips.
    table: voices of the prompts, unit vectors.
    speakers: speaker of each prompt, who is also the speaker of the clip at the same index.
  """
  voices = np.stack([one.voice for one in found if one.voice is not None])
  names = np.array(speakers)
  return (names[(voices @ table.T).argmax(axis=1)] == names).astype(float)
