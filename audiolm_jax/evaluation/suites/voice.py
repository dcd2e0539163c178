"""Measures resynthesis in a given voice: the words, the quality and the voice.

The first seconds of a recording are a voice, and the rest of the recording is the content. The
acoustic stages resynthesize the content from its semantic tokens twice: in the voice of the same
recording, and in the voice of a recording by another speaker.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from audiolm_jax.bundles import Bundle
from audiolm_jax.codec.interface import Codec
from audiolm_jax.evaluation import recognition, speech
from audiolm_jax.evaluation.clips import EvalClip, pieces_to_continue
from audiolm_jax.evaluation.codec import through_codec
from audiolm_jax.evaluation.metric import Metric
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.report import Row, SuiteResult, row_of, skipped
from audiolm_jax.evaluation.suites.resynthesis import CHARACTER_CHANGES

CODEC = "codec"
OWN = "resynthesis in its own voice"
OTHER = "resynthesis in another voice"
NEARER = Metric(
  "voice_nearer_than_content", "voice nearer to the given one than to the content's by GE2E"
)
_LEAST_SECONDS = 2.0  # minimum length of the content after the voice

# A function of the content, the voice and a seed.
Resynthesize = Callable[
  [Float[np.ndarray, " samples"], Float[np.ndarray, " samples"], int],
  Float[np.ndarray, " samples"],
]


def run(bundle: Bundle, options: Options) -> SuiteResult:
  """Resynthesizes held-out clips without their first `prompt_seconds`, which are the voice."""
  measures = speech.find_measures(options)
  if not measures:
    return skipped("it needs --asr_model, or the packages of requirements/evaluation.txt")
  rate = bundle.sample_rate
  cut = round(options.prompt_seconds * rate)
  pieces = pieces_to_continue(options, rate, _LEAST_SECONDS)
  clips = [piece for piece in pieces if np.any(piece.waveform[cut:])]

  return voice_suite(bundle.codec, resynthesizer(bundle), clips, cut, measures, options.seed)


def resynthesizer(bundle: Bundle) -> Resynthesize:
  """Returns a function that resynthesizes the content of a recording in a voice.

  Recording and voice have the bundle's sample rate, and the whole voice is used.
  """

  def resynthesize(content: np.ndarray, voice: np.ndarray, seed: int) -> np.ndarray:
    made = bundle.continue_audio(
      content, bundle.sample_rate, mode="resynthesis", voice=voice, prompt_seconds=None, seed=seed
    )
    return np.asarray(made.waveform)

  return resynthesize


def voice_suite(
  codec: Codec,
  resynthesize: Resynthesize,
  clips: Sequence[EvalClip],
  cut: int,
  measures: speech.SpeechMeasures,
  seed: int = 0,
) -> SuiteResult:
  """Measures the words, the quality and the voice of resynthesized clips.

  The words recognized in the recordings are the reference.

  Args:
    codec: the bundle's codec.
    resynthesize: function that resynthesizes the content of a recording in a voice.
    clips: clips that are longer than the voice, at the codec's sample rate.
    cut: length of a voice in samples; the voice is the beginning of a clip.
    measures: the available networks.
    seed: seed of sampling.
  """
  rate = codec.spec.sample_rate
  voices, contents = [c.waveform[:cut] for c in clips], [c.waveform[cut:] for c in clips]
  speakers = [clip.speaker or clip.id for clip in clips]
  others = _others(speakers)
  own = enumerate(zip(contents, voices, strict=True))
  made = {
    CODEC: [through_codec(codec, content) for content in contents],
    OWN: [resynthesize(content, voice, seed + i) for i, (content, voice) in own],
  }
  if others:
    made[OTHER] = [resynthesize(contents[i], voices[j], seed + i) for i, j in others]
  recordings = [measures.describe(content, rate) for content in contents]
  described = measures.describe_all(made, rate)
  rows = _word_rows(measures, described, recordings, [content for content, _ in others])
  rows += speech.opinion_rows({**described, speech.RECORDING: recordings})
  of_itself = {kind: described[kind] for kind in (CODEC, OWN)}
  rows += speech.speaker_rows(of_itself, recordings, speakers)
  rows += _transfer_rows(described.get(OTHER, ()), recordings, others)
  return SuiteResult(rows + measures.missing_rows(), {"clips": [clip.id for clip in clips]})


def _others(speakers: Sequence[str]) -> list[tuple[int, int]]:
  """Returns pairs of indices: each clip, and the next clip by another speaker in cyclic order.

  Returns an empty list if all clips are by one speaker.
  """
  count, pairs = len(speakers), []
  for i in range(count):
    later = [j % count for j in range(i + 1, i + count)]
    pairs += [(i, j) for j in later if speakers[j] != speakers[i]][:1]
  return pairs


def _word_rows(
  measures: speech.SpeechMeasures,
  described: dict[str, list[speech.Description]],
  recordings: Sequence[speech.Description],
  transferred: Sequence[int],
) -> list[Row]:
  recognizer = measures.recognizer
  if recognizer is None:
    return []
  words = [one.words for one in recordings]
  rows: list[Row] = []
  for metric, count in (
    (speech.WORD_CHANGES, recognition.word_errors),
    (CHARACTER_CHANGES, recognition.character_errors),
  ):
    of_itself = {kind: described[kind] for kind in (CODEC, OWN)}
    rows += speech.word_rows(metric, recognizer, of_itself, words, count)
    if transferred:
      references = [words[i] for i in transferred]
      of_others = {OTHER: described[OTHER]}
      rows += speech.word_rows(metric, recognizer, of_others, references, count)
  return rows


def _transfer_rows(
  found: Sequence[speech.Description],
  recordings: Sequence[speech.Description],
  pairs: Sequence[tuple[int, int]],
) -> list[Row]:
  """Returns how often a result's voice is nearer to the given voice than to the content's voice.

  Args:
    found: descriptions of the resynthesized clips.
    recordings: descriptions of all recordings.
    pairs: for each resynthesized clip, the indices of the recordings of its content and its voice.
  """
  hits: list[float] = []
  for one, (content, voice) in zip(found, pairs, strict=True):
    given, own = recordings[voice].voice, recordings[content].voice
    if one.voice is None or given is None or own is None:
      return []
    hits.append(float(np.dot(one.voice, given) > np.dot(one.voice, own)))
  return [row_of(NEARER, hits)] if hits else []
