import numpy as np
import pytest

from audiolm_jax.evaluation.clips import EvalClip
from audiolm_jax.evaluation.options import Domain
from audiolm_jax.evaluation.suites import continuation
from audiolm_jax.evaluation.suites.continuation import Continuation

RATE = 16_000
PEOPLE = [(95 + 22 * i, 500 + 230 * (3 * i % 7)) for i in range(7)]


def by_figure(result):
  return {row.figure: row for row in result.rows}


def test_continuation_suite_tells_a_faithful_continuer_from_one_that_changes_the_voice(
  pulse_codec, voice
):
  clips = [
    EvalClip(str(i), voice(*v, seed=20 + i, seconds=11), speaker=str(i))
    for i, v in enumerate(PEOPLE)
  ]
  train = [
    EvalClip(f"t{i}{j}", voice(*v, seed=50 + 10 * i + j), speaker=f"t{i}")
    for i, v in enumerate([*PEOPLE, (150, 2000), (230, 600)])
    for j in range(2)
  ]
  model = continuation.codec_speaker_model(pulse_codec, train)

  def loops(waveform):
    return np.tile([3, 5, 5], len(waveform) // 2000)

  def continuer(shift):
    def continue_prompt(prompt, seed):
      who = next(
        i for i, c in enumerate(clips) if np.array_equal(c.waveform[: len(prompt)], prompt)
      )
      made = voice(*PEOPLE[(who + shift) % len(PEOPLE)], seed=900 + seed, seconds=4)
      return Continuation(made, 0.5)

    return continue_prompt

  results = [
    by_figure(
      continuation.continuation_suite(
        pulse_codec, loops, continuer(shift), clips, Domain.SPEECH, speaker_model=model
      )
    )
    for shift in (0, 3)
  ]
  same, other = (r["prompt's speaker found among 7, continuation"].estimate.value for r in results)
  assert same > 0.8 and other < 0.2
  rows = results[0]
  assert rows["prompt's speaker found among 7, real continuation"].estimate.value > 0.9
  assert rows["semantic tokens in loops, continuation"].estimate.value == 1
  assert rows["longest run of a semantic token, real"].estimate.value == 2
  assert rows["audio seconds made per second"].estimate.value == pytest.approx(8)
  assert rows["audio seconds made per second"].verdict == "aim"
  shifted = results[1]["pitch difference, semitones, continuation"].estimate.value
  assert rows["pitch difference, semitones, continuation"].estimate.value < 1 < shifted


def test_continuation_suite_needs_a_clip_longer_than_the_prompt(pulse_codec):
  clips = [EvalClip("short", np.ones(RATE, np.float32))]
  with pytest.raises(ValueError, match="no clip is longer"):
    continuation.continuation_suite(pulse_codec, len, lambda *_: None, clips, Domain.MUSIC)
