"""A stage learns to translate from pairs of recordings, and a bundle translates held-out ones."""

import dataclasses
import itertools
import json
import types

import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import DataError
from audiolm_jax.core.streams import SEMANTIC, SOURCE_SEMANTIC
from audiolm_jax.data import in_memory, tokenization
from audiolm_jax.lm.conditioned import speech_stage
from audiolm_jax.lm.tokens import collapse_repeats
from audiolm_jax.semantic.spec import SemanticSpec
from tests.kinds.learning import trained_stage

RATE, HOP, TONES = 16_000, 640, 16
SPEC = speech_stage(num_clusters=TONES, longest_seconds=1.0, longest_source=16)
STEPS = 220
RNG = np.random.default_rng(0)
# Three words, each one of four tones; the other language has other tones and the reverse order.
SENTENCES = [*itertools.product(range(4), range(4, 8), range(8, 12))]
HELD_OUT = [SENTENCES[place] for place in RNG.choice(len(SENTENCES), 8, replace=False)]


class ToneTokenizer:
  """The loudest of 16 tones in each 40 ms."""

  spec = SemanticSpec(RATE, HOP, TONES)

  def tokenize_long(self, waveform):
    frames = waveform[: len(waveform) // HOP * HOP].reshape(-1, HOP)
    return np.abs(np.fft.rfft(frames))[:, 10 : 10 + 4 * TONES : 4].argmax(1)

  def tokenize_clips(self, waveforms, batch_size):
    return [self.tokenize_long(waveform) for waveform in waveforms]


def sound(tokens):
  time = np.arange(len(tokens) * HOP).reshape(-1, HOP)
  return 0.3 * np.sin(2 * np.pi * (10 + 4 * np.asarray(tokens))[:, None] * time / HOP).ravel()


def recording_of(sentence):
  """A recording of a sentence, each word of which takes four or five steps."""
  return sound(np.repeat(sentence, RNG.integers(4, 6, len(sentence))))


def translated(sentence):
  return np.repeat([15 - word for word in reversed(sentence)], 3)


@pytest.fixture(scope="module")
def tokenizers(miniature_bundle):
  return types.SimpleNamespace(
    codec=miniature_bundle.codec, semantic=ToneTokenizer(), token_hash="tones"
  )


@pytest.fixture(scope="module")
def store(tokenizers, tmp_path_factory):
  """Semantic tokens of pairs of files, and of one clip without a source."""
  folder = tmp_path_factory.mktemp("pairs")
  rows = [{"path": "alone.wav", "split": "train"}]
  soundfile.write(folder / "alone.wav", sound([1, 2, 3]), RATE)
  for index, sentence in enumerate(SENTENCES * 2):
    split = "valid" if sentence in HELD_OUT else "train"
    row = {"path": f"{index}.wav", "source_path": f"said_{index}.wav", "split": split}
    soundfile.write(folder / row["path"], sound(translated(sentence)), RATE)
    soundfile.write(folder / row["source_path"], recording_of(sentence), RATE)
    rows.append(row)
  (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  tokenization.tokenize_corpus(
    tokenizers, folder / "pairs.jsonl", folder / "store", streams=(SEMANTIC,), progress=False
  )
  return str(folder / "store")


@pytest.fixture(scope="module")
def stages(miniature_bundle, store, tmp_path_factory):
  """The coarse stage of the miniature bundle and a trained speech stage."""
  speech = trained_stage(SPEC, store, str(tmp_path_factory.mktemp("run") / "speech"), STEPS)
  return {"coarse": miniature_bundle.stages["coarse"], "speech": speech}


@pytest.fixture
def bundle(miniature_bundle, stages, types_not_checked):
  """The miniature bundle with tones as semantic tokens and a trained speech stage."""
  return dataclasses.replace(miniature_bundle, semantic=ToneTokenizer(), stages=stages)


def test_recordings_that_were_never_trained_are_translated(bundle):
  for sentence in HELD_OUT:
    made = bundle.speak_from(recording_of(sentence), RATE, temperature={"speech": 0.0})
    wanted = translated(sentence)
    np.testing.assert_array_equal(made.tokens.semantic, collapse_repeats(wanted))
    assert len(made.waveform) == len(wanted) * HOP


def test_clips_without_a_source_are_left_out_and_reported(store):
  data = in_memory.InMemoryTokenBatches(store, SPEC, batch_size=2)
  assert len(data.clip_ids) == 2 * (len(SENTENCES) - len(HELD_OUT))
  assert "alone.wav (no source.semantic tokens)" in data.skip_report()
  short = dataclasses.replace(SPEC, longest_source=13)
  report = in_memory.InMemoryTokenBatches(store, short, batch_size=2).skip_report()
  assert "the source has" in report and "reads up to 13; shorten it" in report
  other = dataclasses.replace(SPEC, source_rate=50.0)
  with pytest.raises(DataError, match=r"a rate of 50\.0 in source\.semantic, its tokens have 25"):
    in_memory.InMemoryTokenBatches(store, other, batch_size=2)


def test_seqio_tasks_make_the_examples_that_the_stage_builds(store):
  pytest.importorskip("seqio")
  import seqio

  from audiolm_jax.data import registration

  registration.register_audio_tasks("translations", store, stage_specs={"speech": SPEC})
  reader = in_memory.InMemoryTokenBatches(store, SPEC, "valid", batch_size=1)
  task = seqio.get_mixture_or_task("translations_speech_stage")
  found = list(task.get_dataset(None, split="valid", shuffle=False, seed=1).as_numpy_iterator())
  assert [example["id"].decode() for example in found] == reader.clip_ids
  for example in found:
    expected = reader.example(example["id"].decode(), tuple(example["seed"]))
    assert (expected["source_tokens"] > SPEC.first_source_cluster).any()
    for feature, value in expected.items():
      np.testing.assert_array_equal(example[feature], value)


def test_the_source_is_a_stream_of_the_store(store):
  streams = in_memory.InMemoryTokenBatches(store, SPEC, batch_size=2).info.streams
  assert set(streams) == {SEMANTIC, SOURCE_SEMANTIC}
