"""A transcript stage learns a small domain from pairs and reads its held-out sentences back."""

import itertools

import numpy as np
import pytest

from audiolm_jax.core.streams import SEMANTIC, TEXT, TRANSCRIPT
from audiolm_jax.data import in_memory
from audiolm_jax.data.token_shards import TokenClip
from audiolm_jax.data.token_store import TokenStoreWriter
from audiolm_jax.lm import text
from audiolm_jax.lm.conditioned import text_stage, transcript_stage
from audiolm_jax.sampling.cascade import Cascade, CascadeOptions, Clip
from audiolm_jax.sampling.logits import SamplingOptions
from tests.kinds.learning import trained_stage

SPEC = transcript_stage(num_clusters=16, longest_seconds=1.0, longest_text=16)
STEPS = 300
RNG = np.random.default_rng(0)
WORDS = (
  ("red", "blue", "green", "white", "black"),
  ("cat", "dog", "cow", "hen", "fox"),
  ("runs", "eats", "sits", "naps", "hops"),
)
SENTENCES = [*itertools.product(*WORDS)]
HELD_OUT = [SENTENCES[place] for place in RNG.choice(len(SENTENCES), 10, replace=False)]


def spoken(sentence):
  """Semantic tokens of a sentence: each word has its own, which takes one to four steps."""
  tokens = [
    5 * place + words.index(w) for place, (words, w) in enumerate(zip(WORDS, sentence, strict=True))
  ]
  return np.repeat(tokens, RNG.integers(1, 5, len(tokens)))


CLIPS = [(sentence, spoken(sentence)) for sentence in SENTENCES * 2]


@pytest.fixture(scope="module")
def store(miniature_bundle, tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokens")
  streams = miniature_bundle.streams.values()
  writer = TokenStoreWriter(folder, miniature_bundle.token_hash, streams=streams)
  for index, (sentence, semantic) in enumerate(CLIPS):
    split = "valid" if sentence in HELD_OUT else "train"
    record = {
      SEMANTIC: semantic,
      "codes": np.zeros((2 * len(semantic), 4), np.int32),
      TEXT.key: text.code_points(" ".join(sentence).capitalize()),
    }
    writer.add(TokenClip(f"{split}{index}", record, split, seconds=len(semantic) / 25))
  writer.finish()
  return str(folder)


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
  return trained_stage(SPEC, store, str(tmp_path_factory.mktemp("run") / "transcript"), STEPS)


def test_sentences_that_were_never_trained_are_read_back(trained):
  held_out = [(sentence, semantic) for sentence, semantic in CLIPS if sentence in HELD_OUT]
  clips = [Clip(None, given={"source.semantic": semantic}) for _, semantic in held_out]
  options = CascadeOptions({"transcript": SamplingOptions(0.0)})
  made = Cascade({"transcript": trained}).sample(clips, options=options)
  found = [text.of_code_points(row) for row in made.streams[TRANSCRIPT.key]]
  assert found == [" ".join(sentence) for sentence, _ in held_out]


def test_both_directions_learn_from_the_same_clips(store):
  stages = (SPEC, text_stage(num_clusters=16, longest_seconds=1.0, longest_source=16))
  ids = [in_memory.InMemoryTokenBatches(store, spec, batch_size=4).clip_ids for spec in stages]
  assert ids[0] == ids[1] and len(ids[0]) == 230
