"""Where the coarse stage's semantic tokens come from."""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from jaxtyping import Int

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.lm.stages import StageSpec, collapsed_rate
from audiolm_jax.lm.tokens import collapse_repeats, cut_runs
from audiolm_jax.sampling.decoder import Prompt
from audiolm_jax.sampling.windows import Window, steps_of_frames

Codes = Int[np.ndarray, "frames quantizers"]
Semantic = Int[np.ndarray, "steps"]
Ids = Int[np.ndarray, "tokens"]
Retokenize = Callable[[Codes], Semantic]
# Prompts by row, a number of tokens and the number of the window, to semantic ids by row.
Draw = Callable[[Mapping[int, Prompt], int, int], Mapping[int, Ids]]

# A prompt's own rate of collapsed tokens is trusted within these factors of the corpus mean.
RATE_FACTORS = (0.5, 1.5)


class SemanticSource(Protocol):
  """What the coarse stage asks, window by window. Rows go by number: some end before others."""

  def windows(self, windows: Mapping[int, Window], index: int) -> dict[int, Semantic | None]:
    """The semantic tokens of each row's window number `index`."""
    ...

  def hear(self, codes: Mapping[int, Codes]) -> None:
    """Takes note of the codes so far of the rows that go on, before their next window."""
    ...

  def tokens(self) -> list[Semantic]:
    """All semantic tokens, per row, collapsed if the stages collapse."""
    ...


class NoSource:
  """For a coarse stage without semantic tokens."""

  def windows(self, windows: Mapping[int, Window], index: int) -> dict[int, Semantic | None]:
    return dict.fromkeys(windows)

  def hear(self, codes: Mapping[int, Codes]) -> None:
    pass

  def tokens(self) -> list[Semantic]:
    return []


class GivenSource:
  """Semantic tokens of the whole clip, repeats kept, known from the start."""

  def __init__(self, spec: StageSpec, semantic: list[Semantic]):
    self._spec = spec
    self._semantic = semantic

  def windows(self, windows: Mapping[int, Window], index: int) -> dict[int, Semantic | None]:
    return {
      row: self._semantic[row][steps_of_frames(self._spec, window.start, window.end)]
      for row, window in windows.items()
    }

  def hear(self, codes: Mapping[int, Codes]) -> None:
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
    num_frames: length of the clip that is made of each; nothing is sampled beyond it.
    draw: samples from the semantic stage.
    mean_rate: collapsed semantic tokens per second of the training data.
    retokenize: codes to semantic tokens; only needed by `hear` with collapsed repeats.
  """

  def __init__(
    self,
    spec: StageSpec,
    coarse: StageSpec,
    prompts: list[Semantic],
    num_frames: list[int],
    draw: Draw,
    mean_rate: float | None,
    retokenize: Retokenize | None,
  ):
    self._spec = spec
    self._coarse = coarse
    self._last_step = [steps_of_frames(coarse, 0, frames).stop for frames in num_frames]
    self._draw = draw
    self._retokenize = retokenize
    # Per row, the semantic token of each step, as far as it is known.
    self._timeline = list(prompts)
    self._tokens = [[self._collapse(p)] for p in prompts]
    self._rates = [self._rate(p, mean_rate) for p in prompts]

  def windows(self, windows: Mapping[int, Window], index: int) -> dict[int, Semantic | None]:
    if not self._spec.collapse_repeats:
      return self._kept(windows, index)
    counts, prefixes = {}, {}
    for row, window in windows.items():
      seconds = (window.end - window.known) / self._coarse.frame_rate
      counts[row] = max(1, round(seconds * self._rates[row]))
      given = steps_of_frames(self._coarse, window.start, window.known)
      prefixes[row] = self._collapse(self._timeline[row][given])
    new = self._sample(counts, index)
    return {row: np.concatenate([prefix, new[row]]) for row, prefix in prefixes.items()}

  def _kept(self, windows: Mapping[int, Window], index: int) -> dict[int, Semantic | None]:
    steps = {
      row: steps_of_frames(self._coarse, window.start, window.end)
      for row, window in windows.items()
    }
    counts = {}
    longest = self._spec.crop_steps
    for row, span in steps.items():
      known = len(self._timeline[row])
      if span.stop > known:
        count = max(span.stop - known, longest - min(known, longest // 2))
        counts[row] = min(count, self._last_step[row] - known)
    for row, new in self._sample(counts, index).items():
      self._timeline[row] = np.concatenate([self._timeline[row], new])
    return {row: self._timeline[row][span] for row, span in steps.items()}

  def hear(self, codes: Mapping[int, Codes]) -> None:
    if not self._spec.collapse_repeats:
      return
    for row, heard in codes.items():
      if self._retokenize is None:
        raise ConfigError(
          f"{len(heard)} frames and more to come are longer than one window of "
          f"{self._coarse.crop_frames}; with collapsed semantic tokens this needs `retokenize`"
        )
      # One window, its overlap included for context: the same length every time, so that decoder
      # and tokenizer are compiled once.
      span = min(len(heard), self._coarse.crop_frames)
      align = self._coarse.frames_per_step
      first = -(-(len(heard) - span) // align) * align
      semantic = self._retokenize(heard[first:])
      known = self._timeline[row]
      steps = steps_of_frames(self._coarse, first, len(heard))
      new = semantic[max(0, len(known) - steps.start) : steps.stop - steps.start]
      self._timeline[row] = np.concatenate([known, new])

  def tokens(self) -> list[Semantic]:
    return [np.concatenate(parts).astype(np.int32) for parts in self._tokens]

  def _sample(self, counts: Mapping[int, int], index: int) -> dict[int, Semantic]:
    if not counts:
      return {}
    prompts = {}
    for row, count in counts.items():
      history = cut_runs(self._timeline[row], self._spec.run_limit)
      # As much as a training example holds, new tokens included; at least half of one.
      longest = round(self._spec.crop_seconds * self._rates[row])
      history = history[-max(longest - count, longest // 2, 1) :]
      frame_ids = np.zeros(len(history), np.int32)
      prompts[row] = Prompt(self._spec.layout.semantic_to_ids(history), frame_ids)
    ids = self._draw(prompts, max(counts.values()), index)
    new = {row: self._spec.layout.ids_to_semantic(ids[row][:n]) for row, n in counts.items()}
    for row, tokens in new.items():
      self._tokens[row].append(tokens)
    return new

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
