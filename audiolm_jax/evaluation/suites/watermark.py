"""Measures the watermark of a bundle.

The metrics are the survival of code communities, p-values after channels, payloads, false
positives, quality and sampling time. A channel is a processing step, such as compression.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import soxr
from jaxtyping import Float, Int, UInt32

from audiolm_jax.bundles import Bundle
from audiolm_jax.codec.interface import Codec
from audiolm_jax.core.configs import JsonDict
from audiolm_jax.detection.evidence import Evidence, Findings
from audiolm_jax.detection.watermark import Watermark, WatermarkKind
from audiolm_jax.detection.watermark_detector import offset_codes, payload_of
from audiolm_jax.evaluation import communities, degradations, lyra, speech
from audiolm_jax.evaluation.clips import new_pieces, pieces_to_continue
from audiolm_jax.evaluation.communities import CLEAN, Channel
from audiolm_jax.evaluation.metric import Better, Metric
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.paired_quality import paired_rows
from audiolm_jax.evaluation.report import Row, SuiteResult, skipped
from audiolm_jax.evaluation.statistics import bootstrap_estimate, exact, mean_estimate, undefined
from audiolm_jax.io import audio

SURVIVAL = Metric("community_survival", "communities that survive, corrected for chance")
EFFECTIVE = Metric("effective_communities", "effective number of communities")
CHOICE = Metric("community_choice", "different communities after the same one")
EVIDENCE = Metric("watermark_log_p", "median -log10 p of marked samples")
SECONDS_NEEDED = Metric(
  "watermark_seconds", "median seconds until p < 1e-6", Better.LOWER, unit="s"
)
FALSE_POSITIVES = Metric("watermark_false_positives", "share below 1e-3", Better.LOWER)
RARE_FALSE_POSITIVES = Metric("watermark_rare_false_positives", "share below 1e-6", Better.LOWER)
PAYLOADS = Metric("watermark_payload", "payloads that are read exactly")
TIME_RATIO = Metric("watermark_time", "time of sampling with the mark over without", Better.LOWER)

_RANDOM_KEYS = 200
_BATCH = 8
_CROP = 2_345  # samples
_PAYLOAD_SECONDS = {1: 8.0, 4: 30.0}  # length by the number of bytes of the payload
_AAC = "AAC at 64 kbit/s"

Sounds = Sequence[Float[np.ndarray, "_"]]


class Continuations(NamedTuple):
  """Continuations of the same prompts with and without the watermark.

  Attributes:
    marked: continuations with the watermark.
    unmarked: continuations without the watermark.
    marked_seconds: wall time of sampling `marked` in seconds, without the first of several batches.
    unmarked_seconds: wall time of sampling `unmarked`, measured like `marked_seconds`.
  """

  marked: Sounds
  unmarked: Sounds
  marked_seconds: float
  unmarked_seconds: float


class Carrier(NamedTuple):
  """A sound whose watermark encodes a payload."""

  payload: bytes
  waveform: Float[np.ndarray, "samples"]


def run(bundle: Bundle, options: Options) -> SuiteResult:
  """Measures held-out recordings, and continuations with and without the watermark."""
  mark = bundle.watermark
  if mark is None:
    return skipped(f"{bundle.name} has no watermark")
  recordings = [
    piece.waveform for piece in new_pieces(options, bundle.sample_rate, options.max_clips, 1.0)
  ]
  rate, rows = bundle.sample_rate, []
  of_channels = communities.channels(rate)
  if degradations.aac_installed():
    of_channels[_AAC] = lambda waveform: degradations.aac(waveform, rate, 64_000)
  else:
    rows.append(Row(EVIDENCE, undefined(), _AAC, note=f"skipped: {degradations.AAC_MISSING}"))
  if options.lyra_dir:
    of_channels["Lyra v2 at 6 kbit/s"] = _lyra(options.lyra_dir, rate)
  pieces = pieces_to_continue(options, rate, 0.0)
  prompts = [piece.waveform[: round(options.prompt_seconds * rate)] for piece in pieces]
  made = _continuations(bundle, prompts, options)
  carriers = [
    carrier
    for size, seconds in _PAYLOAD_SECONDS.items()
    if mark.config.kind is WatermarkKind.GREEN_LIST  # the only kind with payloads
    for carrier in _carriers(bundle, prompts, size, seconds, options.seed)
  ]
  result = watermark_suite(
    mark, bundle.codec, recordings, made, of_channels, carriers, options.seed
  )
  result.rows.extend(rows)
  measures = speech.find_measures(options)
  if measures:
    sounds = {"with the mark": made.marked, "without": made.unmarked}
    speakers = [piece.speaker or piece.id for piece in pieces]
    result.rows.extend(paired_rows(measures, bundle.codec, sounds, prompts, speakers))
  return result


def watermark_suite(
  watermark: Watermark,
  codec: Codec,
  recordings: Sounds,
  made: Continuations,
  of_channels: Mapping[str, Channel],
  carriers: Sequence[Carrier] = (),
  seed: int = 0,
) -> SuiteResult:
  """Measures survival, p-values, payloads, false positives and sampling time.

  Args:
    watermark: the watermark, with the default key.
    codec: the codec of the bundle.
    recordings: clips at the codec's sample rate.
    made: continuations with and without the watermark, at the codec's sample rate.
    of_channels: channels by name, including `CLEAN`; a channel is a function of a waveform.
    carriers: continuations whose watermark encodes a payload, at the codec's sample rate.
    seed: seed of the offsets and of the random keys.
  """
  rows = _survival_rows(watermark, codec, recordings, of_channels, seed)
  details: JsonDict = {"log10_p": {}}
  key = watermark.key[None]
  for name, channel in (dict(of_channels) | _edits(codec)).items():
    found = [codes_of(codec, channel(waveform)) for waveform in made.marked]
    values = np.array([-_log10_p(watermark, key, codes, codec)[0] for codes in found])
    details["log10_p"][name] = -values
    median = bootstrap_estimate(_median_of(values), len(values), reflected=False)
    floor, aim = (6.0, 20.0) if name == CLEAN else (None, None)
    rows.append(Row(EVIDENCE, median, name, floor, aim))
    if name in of_channels:
      seconds = np.array([_seconds_needed(watermark, key, codes, codec) for codes in found])
      rows.append(_seconds_row(seconds, name))
  rows += _payload_rows(watermark, codec, carriers, of_channels)
  keys = np.random.default_rng(seed).integers(0, 2**32, (_RANDOM_KEYS, 4), dtype=np.uint32)
  through = [np.clip(codec.decode(codec.encode_long(w)[None])[0], -1.0, 1.0) for w in recordings]
  kinds = {"recordings": recordings, "through the codec": through, "unmarked": made.unmarked}
  for name, sounds in kinds.items():
    every = np.concatenate([key, keys])
    log_p = np.array([_log10_p(watermark, every, codes_of(codec, w), codec) for w in sounds])
    rows.append(Row(FALSE_POSITIVES, mean_estimate(log_p[:, 0] < -3), f"{name}, default key"))
    of = f"{name}, {_RANDOM_KEYS} random keys"
    rows.append(Row(FALSE_POSITIVES, mean_estimate((log_p[:, 1:] < -3).mean(axis=1)), of))
    rows.append(Row(RARE_FALSE_POSITIVES, mean_estimate((log_p[:, 1:] < -6).mean(axis=1)), of))
  ratio = made.marked_seconds / made.unmarked_seconds
  rows.append(Row(TIME_RATIO, exact(ratio), floor=1.02))
  return SuiteResult(rows, details)


def codes_of(
  codec: Codec, waveform: Float[np.ndarray, "samples"]
) -> Int[np.ndarray, "offsets frames quantizers"]:
  """Returns the codes of a clip, encoded from each of the offsets that a detector tests."""
  return np.concatenate([*offset_codes(codec, [waveform])], axis=1)


def _continuations(bundle: Bundle, prompts: Sounds, options: Options) -> Continuations:
  """Continues batches of prompts, each batch first with and then without the watermark."""
  sounds: dict[str, list[np.ndarray]] = {"on": [], "off": []}
  seconds = dict.fromkeys(sounds, 0.0)
  for first in range(0, len(prompts), _BATCH):
    for kind, value in (("on", None), ("off", "off")):
      started = time.monotonic()
      results = bundle.continue_audio(
        prompts[first : first + _BATCH],
        bundle.sample_rate,
        duration=options.duration,
        prompt_seconds=None,
        prompt_audio="none",
        seed=options.seed,
        watermark=value,
      )
      # The first batch includes compilation; its time counts only if there is no other batch.
      if first or len(prompts) <= _BATCH:
        seconds[kind] += time.monotonic() - started
      sounds[kind] += [result.waveform for result in results]
  return Continuations(sounds["on"], sounds["off"], seconds["on"], seconds["off"])


def _carriers(
  bundle: Bundle, prompts: Sounds, size: int, seconds: float, seed: int
) -> list[Carrier]:
  """Continues prompts in batches, each batch with a random payload of `size` bytes."""
  rng, carriers = np.random.default_rng(seed), []
  for first in range(0, len(prompts), _BATCH):
    payload = rng.bytes(size)
    results = bundle.continue_audio(
      prompts[first : first + _BATCH],
      bundle.sample_rate,
      duration=seconds,
      prompt_seconds=None,
      prompt_audio="none",
      seed=seed,
      watermark_payload=payload,
    )
    carriers += [Carrier(payload, result.waveform) for result in results]
  return carriers


def _payload_rows(
  watermark: Watermark,
  codec: Codec,
  carriers: Sequence[Carrier],
  of_channels: Mapping[str, Channel],
) -> list[Row]:
  """Returns, for each payload length and channel, the share of payloads that are read exactly."""
  rows, key = [], watermark.key[None]
  for size in sorted({len(carrier.payload) for carrier in carriers}):
    of_size = [carrier for carrier in carriers if len(carrier.payload) == size]
    seconds = len(of_size[0].waveform) / codec.spec.sample_rate
    for name, channel in of_channels.items():
      read = [
        payload_of(_findings(watermark, key, codes_of(codec, channel(one.waveform)), codec).best)
        for one in of_size
      ]
      exactly = [
        float(found is not None and found.content == one.payload)
        for found, one in zip(read, of_size, strict=True)
      ]
      of = f"{8 * size} bits from {seconds:g} s, {name}"
      floor = 0.95 if name == CLEAN else None
      rows.append(Row(PAYLOADS, mean_estimate(exactly), of, floor))
  return rows


def _survival_rows(
  watermark: Watermark,
  codec: Codec,
  recordings: Sounds,
  of_channels: Mapping[str, Channel],
  seed: int,
) -> list[Row]:
  counts = communities.confusions(codec, recordings, of_channels, watermark.config.levels, seed)
  own = watermark.communities.astype(np.int64)
  rows = []
  for name, of_levels in counts.confused.items():
    for level, one in enumerate(of_levels):
      kept = communities.survival(one, own[level])
      of = f"level {level + 1}, {name}"
      floor, aim = (0.6, 0.85) if name == CLEAN else (0.55, 0.75)
      note = f"without correction {kept.share:.2f}, by chance {kept.chance:.2f}"
      rows.append(Row(SURVIVAL, exact(kept.corrected, len(recordings)), of, floor, aim, note))
      if name == CLEAN:
        free = communities.choice(counts.following[level], own[level])
        for metric, value in ((EFFECTIVE, kept.effective), (CHOICE, free)):
          rows.append(Row(metric, exact(value, len(recordings)), f"level {level + 1}"))
  return rows


def _edits(codec: Codec) -> dict[str, Channel]:
  """Returns edits of watermarked sounds by name, including re-encoding with half of the levels."""
  rate, levels = codec.spec.sample_rate, max(1, codec.spec.num_quantizers // 2)

  def halves(waveform: np.ndarray) -> np.ndarray:
    half = rate // 2
    return np.concatenate([waveform[i : i + half] for i in range(0, len(waveform), 2 * half)])

  def encoded(waveform: np.ndarray) -> np.ndarray:
    return codec.decode(codec.encode_long(waveform)[None, :, :levels])[0].clip(-1.0, 1.0)

  return {
    "cropped": lambda waveform: waveform[_CROP:],
    "0.5 s of each second": halves,
    "music at 10 dB below": lambda w: degradations.add_music(w, rate, 10.0, len(w)),
    "speed 1.05": lambda waveform: soxr.resample(waveform, 1.05 * rate, rate),
    f"the same codec, {levels} levels": encoded,
  }


def _lyra(folder: str, sample_rate: int) -> Channel:
  (codec,) = [found for found in lyra.lyra_codecs(folder) if found.name.endswith("at 6 kbit/s")]
  rates = sample_rate, codec.sample_rate

  def through(waveform: np.ndarray) -> np.ndarray:
    decoded, _ = codec.through(audio.resample(waveform, *rates))
    return audio.fit_length(audio.resample(decoded, *rates[::-1]), len(waveform))

  return through


def _log10_p(
  watermark: Watermark,
  keys: UInt32[np.ndarray, "keys 4"],
  codes: Int[np.ndarray, "offsets frames quantizers"],
  codec: Codec,
) -> Float[np.ndarray, "keys"]:
  return _findings(watermark, keys, codes, codec).log10_p


def _findings(
  watermark: Watermark,
  keys: UInt32[np.ndarray, "keys 4"],
  codes: Int[np.ndarray, "offsets frames quantizers"],
  codec: Codec,
) -> Findings:
  evidence = Evidence(watermark, keys, codec.spec.frame_rate, len(codes))
  evidence.push(codes)
  return evidence.finish()


def _seconds_needed(
  watermark: Watermark, key: UInt32[np.ndarray, "1 4"], codes: np.ndarray, codec: Codec
) -> float:
  """Returns how many whole seconds of a clip's beginning are needed for p < 1e-6.

  Returns infinity if no beginning has such a p-value.
  """
  rate = codec.spec.frame_rate
  for second in range(1, math.floor(codes.shape[1] / rate) + 1):
    if _log10_p(watermark, key, codes[:, : round(second * rate)], codec)[0] < -6:
      return float(second)
  return math.inf


def _seconds_row(seconds: Float[np.ndarray, "clips"], of: str) -> Row:
  reached = int(np.isfinite(seconds).sum())
  note = f"reached by {reached} of {len(seconds)}"
  value = float(np.median(seconds)) if len(seconds) else math.inf
  estimate = exact(value, len(seconds)) if math.isfinite(value) else undefined(len(seconds))
  return Row(SECONDS_NEEDED, estimate, of, note=note)


def _median_of(values: Float[np.ndarray, "clips"]):
  return lambda rows: float(np.median(values[rows]))
