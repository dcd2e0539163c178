"""Where the coarse stage's semantic tokens come from."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from jaxtyping import Int

from audiolm_jax.errors import ConfigError
from audiolm_jax.lm.stages import StageSpec, collapsed_rate
from audiolm_jax.sampling.decoder import Prompt
from audiolm_jax.sampling.windows import Window, steps_of_frames
from audiolm_jax.tokens import collapse_repeats, cut_runs

Codes = Int[np.ndarray, "rows frames quantizers"]
Semantic = Int[np.ndarray, "steps"]
Retokenize = Callable[[Codes], Int[np.ndarray, "rows steps"]]
# Prompts and a number of tokens, and the number of the call, to semantic ids.
Draw = Callable[[list[Prompt], int, int], Int[np.ndarray, "rows tokens"]]

# A prompt's own rate of collapsed tokens is trusted within these factors of the corpus mean.
RATE_FACTORS = (0.5, 1.5)


class SemanticSource(Protocol):
  """What the coarse stage asks, window by window."""

  def window(self, window: Window, index: int) -> list[Semantic] | list[None]:
    """The semantic tokens of one window, per row."""
    ...

  def hear(self, codes: Codes) -> None:
    """Takes note of all codes so far, before the next window."""
    ...

  def tokens(self) -> list[Semantic]:
    """All semantic tokens, per row, collapsed if the stages collapse."""
    ...


class NoSource:
  """For a coarse stage without semantic tokens."""

  def __init__(self, rows: int):
    self._rows = rows

  def window(self, window: Window, index: int) -> list[None]:
    return [None] * self._rows

  def hear(self, codes: Codes) -> None:
    pass

  def tokens(self) -> list[Semantic]:
    return []


class GivenSource:
  """Semantic tokens of the whole clip, repeats kept, known from the start."""

  def __init__(self, spec: StageSpec, semantic: list[Semantic]):
    self._spec = spec
    self._semantic = semantic

  def window(self, window: Window, index: int) -> list[Semantic]:
    return [s[steps_of_frames(self._spec, window.start, window.end)] for s in self._semantic]

  def hear(self, codes: Codes) -> None:
    pass

  def tokens(self) -> list[Semantic]:
    collapse = self._spec.collapse_repeats
    return [collapse_repeats(s) if collapse else s for s in self._semantic]


class SampledSource:
  """Semantic tokens that the semantic stage samples, window by window.

  With repeats kept, the sampled tokens' place in time is known at once, and as many are sampled
  ahead as a training example holds. With collapsed repeats it is known only after their audio has
  been heard: for `d` seconds, `d * rate` tokens are sampled, where `rate` is the prompt's own
  number of collapsed tokens per second.

  Args:
    spec: the semantic stage's.
    coarse: the coarse stage's.
    prompts: semantic tokens, repeats kept, per row.
    num_frames: length of the clip that is made; nothing is sampled beyond it.
    draw: samples from the semantic stage.
    mean_rate: collapsed semantic tokens per second of the training data.
    retokenize: codes to semantic tokens; only needed by `hear` with collapsed repeats.
  """

  def __init__(
    self,
    spec: StageSpec,
    coarse: StageSpec,
    prompts: list[Semantic],
    num_frames: int,
    draw: Draw,
    mean_rate: float | None,
    retokenize: Retokenize | None,
  ):
    self._spec = spec
    self._coarse = coarse
    self._last_step = steps_of_frames(coarse, 0, num_frames).stop
    self._draw = draw
    self._retokenize = retokenize
    # Per row, the semantic token of each step, as far as it is known.
    self._timeline = list(prompts)
    self._tokens = [[self._collapse(p)] for p in prompts]
    self._rates = [self._rate(p, mean_rate) for p in prompts]

  def window(self, window: Window, index: int) -> list[Semantic]:
    if not self._spec.collapse_repeats:
      return self._kept(steps_of_frames(self._coarse, window.start, window.end), index)
    seconds = (window.end - window.known) / self._coarse.frame_rate
    new = self._sample([max(1, round(seconds * rate)) for rate in self._rates], index)
    given = steps_of_frames(self._coarse, window.start, window.known)
    prefixes = [self._collapse(known[given]) for known in self._timeline]
    return [np.concatenate(parts) for parts in zip(prefixes, new, strict=True)]

  def _kept(self, steps: slice, index: int) -> list[Semantic]:
    known = len(self._timeline[0])
    if steps.stop > known:
      longest = self._spec.crop_steps
      count = max(steps.stop - known, longest - min(known, longest // 2))
      new = self._sample([min(count, self._last_step - known)] * len(self._timeline), index)
      self._timeline = [np.concatenate(p) for p in zip(self._timeline, new, strict=True)]
    return [row[steps] for row in self._timeline]

  def hear(self, codes: Codes) -> None:
    if not self._spec.collapse_repeats:
      return
    if self._retokenize is None:
      raise ConfigError(
        f"{codes.shape[1]} frames and more to come are longer than one window of "
        f"{self._coarse.crop_frames}; with collapsed semantic tokens this needs `retokenize`"
      )
    # One window, its overlap included for context: the same length every time, so that decoder
    # and tokenizer are compiled once.
    span = min(codes.shape[1], self._coarse.crop_frames)
    align = self._coarse.frames_per_step
    first = -(-(codes.shape[1] - span) // align) * align
    heard = self._retokenize(codes[:, first:])
    steps = steps_of_frames(self._coarse, first, codes.shape[1])
    self._timeline = [
      np.concatenate([known, row[max(0, len(known) - steps.start) : steps.stop - steps.start]])
      for known, row in zip(self._timeline, heard, strict=True)
    ]

  def tokens(self) -> list[Semantic]:
    return [np.concatenate(parts).astype(np.int32) for parts in self._tokens]

  def _sample(self, counts: list[int], index: int) -> list[Semantic]:
    if not max(counts):
      return [np.zeros(0, np.int32) for _ in counts]
    prompts = []
    for known, count, rate in zip(self._timeline, counts, self._rates, strict=True):
      history = cut_runs(known, self._spec.run_limit)
      # As much as a training example holds, new tokens included; at least half of one.
      longest = round(self._spec.crop_seconds * rate)
      history = history[-max(longest - count, longest // 2, 1) :]
      frame_ids = np.zeros(len(history), np.int32)
      prompts.append(Prompt(self._spec.layout.semantic_to_ids(history), frame_ids))
    ids = self._draw(prompts, max(counts), index)
    drawn = self._spec.layout.ids_to_semantic(ids)
    rows = [row[:count] for row, count in zip(drawn, counts, strict=True)]
    for tokens, row in zip(self._tokens, rows, strict=True):
      tokens.append(row)
    return rows

  def _collapse(self, semantic: Semantic) -> Semantic:
    return collapse_repeats(semantic) if self._spec.collapse_repeats else semantic

  def _rate(self, prompt: Semantic, mean: float | None) -> float:
    """Tokens per second of a row."""
    if not self._spec.collapse_repeats or mean is None:
      return self._spec.semantic_rate
    if len(prompt) == 0:
      return mean
    low, high = (mean * factor for factor in RATE_FACTORS)
    return min(max(collapsed_rate(prompt, self._spec.semantic_rate), low), high)
