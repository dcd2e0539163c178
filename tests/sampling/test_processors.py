"""What processors are shown, and what they change."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers_lm import CONFIG, SPECS, random_clip, random_params

from audiolm_jax.lm.stage import Stage
from audiolm_jax.sampling import loop
from audiolm_jax.sampling.cascade import Cascade, CascadeOptions, Clip
from audiolm_jax.sampling.decoder import Prompt, StageSampler
from audiolm_jax.sampling.logits import SamplingOptions, only
from audiolm_jax.sampling.processors import Context, Processor, RunLimit, apply

SIZE = 9  # codes of a level


@dataclasses.dataclass(frozen=True)
class Recurrence(Processor):
  """Lets only one code stand, which follows from the frame, the level and two frames before."""

  @property
  def history(self) -> int:
    return 2

  def __call__(self, logits: Any, context: Context, arrays: Any) -> Any:
    codes = context.codes
    before = jnp.where(codes >= 0, codes, 0).sum(axis=(1, 2))
    code = (before + 3 * context.frame + 5 * context.level) % SIZE
    return only(logits, jnp.arange(SIZE) == code[:, None])


def follows(codes: np.ndarray, known: np.ndarray, start: int, level: int) -> np.ndarray:
  """What `Recurrence` gives at a level of each frame from `start` on, of what is `known` there.

  Args:
    known: [frames, levels], whether a level of a frame counts once the frame is past.
  """
  expected = []
  for frame in range(start, len(codes)):
    past = slice(max(0, frame - 2), frame)
    total = codes[past][known[past]].sum() + codes[frame, :level].sum()
    expected.append((total + 3 * frame + 5 * level) % SIZE)
  return np.array(expected)


@pytest.fixture(scope="module")
def cascade():
  parts = {
    name: Stage(spec, CONFIG, random_params(CONFIG, spec))
    for name, spec in (
      (n, dataclasses.replace(SPECS[n], collapse_repeats=False)) for n in ("coarse", "fine")
    )
  }
  return Cascade(parts)


def clip(total: int, frames: int, seed: int) -> Clip:
  rng = np.random.default_rng(seed)
  semantic = rng.integers(0, 11, -(-total // 2))
  codes = random_clip(SPECS["coarse"], frames / 10, seed)[1]
  return Clip(total, {"codes": codes}, {"semantic": semantic})


OPTIONS = CascadeOptions(
  {name: SamplingOptions(processors=(Recurrence(),)) for name in ("coarse", "fine")},
  overlap_seconds=0.6,
)


@pytest.fixture(scope="module")
def together(cascade):
  """Windows of 20 frames and chunks of 10; prompts that end within and between them."""
  clips = [clip(45, 7, 1), clip(33, 20, 2), clip(12, 0, 3)]
  return clips, cascade.sample(clips, options=OPTIONS).codes


def test_two_frames_before_are_shown_wherever_a_window_or_a_chunk_begins(together):
  for given, codes in zip(*together, strict=True):
    frames = len(given.prompt["codes"])
    np.testing.assert_array_equal(codes[:frames], given.prompt["codes"])
    coarse = codes[:, :2]
    everywhere = np.ones_like(coarse, bool)
    for level in range(2):
      np.testing.assert_array_equal(
        coarse[frames:, level], follows(coarse, everywhere, frames, level)
      )
    # Of earlier chunks a fine stage is shown the source and the prompt, for they are drawn apart.
    for start in range(frames // 10 * 10, len(codes), 10):
      chunk = codes[: start + 10]
      known = np.ones_like(chunk, bool)
      known[frames:start, 2:] = False
      for level in range(2, 5):
        begin = max(start, frames)
        np.testing.assert_array_equal(chunk[begin:, level], follows(chunk, known, begin, level))


def test_pieces_and_company_change_nothing_that_is_shown(cascade, together):
  for given, codes in zip(*together, strict=True):
    (alone,) = cascade.sample([given], options=OPTIONS).codes
    np.testing.assert_array_equal(alone, codes)
    pieces = list(cascade.stream(given, options=OPTIONS))
    np.testing.assert_array_equal(np.concatenate(pieces), codes)


@dataclasses.dataclass(frozen=True)
class Favour(Processor):
  """Adds to the logit of each code."""

  bias: Any = dataclasses.field(compare=False)

  def arrays(self) -> Any:
    return np.float32(self.bias)

  def __call__(self, logits: Any, context: Context, arrays: Any) -> Any:
    return logits + arrays


def test_other_values_of_a_processors_arrays_compile_nothing_anew():
  spec = SPECS["coarse"]
  sampler = StageSampler(Stage(spec, CONFIG, random_params(CONFIG, spec)))
  key = jax.random.split(jax.random.key(0), 1)
  nothing = np.zeros(0, np.int32)

  def drawn(code):
    options = SamplingOptions(processors=(Favour(1e4 * (np.arange(SIZE) == code)),))
    ids = sampler.sample([Prompt(nothing, nothing, 1)], 6, key, options)
    return spec.layout.unflatten_ids(ids, 2)

  assert (drawn(3) == 3).all()
  before = loop.decode._cache_size()
  assert (drawn(5) == 5).all()
  assert loop.decode._cache_size() == before


def test_a_run_is_ended_at_its_limit_and_not_before():
  def allowed(*row):
    codes = jnp.array(row)[None, :, None]
    context = Context(jnp.array([9]), 0, codes)
    return np.isfinite(apply((RunLimit(2),), ((),), jnp.zeros((1, 4)), context))[0].tolist()

  assert allowed(3, 1, 1, -1) == [True, False, True, True]
  assert allowed(1, 1, 2, -1) == [True] * 4
  assert allowed(-1, -1, 2, -1) == [True] * 4
