"""Semantic tokens that a stage samples, with or without their repeats."""

import abc
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.lm.stages import AutoregressiveSpec, collapsed_rate
from audiolm_jax.lm.tokens import collapse_repeats, cut_runs
from audiolm_jax.sampling.decoder import Prompt
from audiolm_jax.sampling.pull import Call, Targets, Tokens
from audiolm_jax.sampling.windows import Window, steps_of_frames, steps_until

Semantic = Int[np.ndarray, "_"]  # a free name, because rows differ in length
# Maps prompts by row, a number of tokens and an index to ids by row.
Draw = Callable[[Mapping[int, Prompt], int, int], Mapping[int, Int[np.ndarray, "_"]]]

# The rate of collapsed tokens of a prompt is limited to these multiples of the corpus mean.
RATE_FACTORS = (0.5, 1.5)


class SemanticTargets(Targets, abc.ABC):
  """The known semantic tokens of each row.

  Args:
    spec: the stage.
    call: the call of the cascade.
    prompts: first tokens of each row.
    draw: samples from the stage.
  """

  spec: AutoregressiveSpec

  def __init__(self, spec: AutoregressiveSpec, call: Call, prompts: Sequence[Semantic], draw: Draw):
    super().__init__(spec, call, {}, [np.asarray(prompt, np.int32) for prompt in prompts])
    self.rate = spec.semantic_rate
    self._draw = draw

  def sample(self, counts: Mapping[int, int], index: int) -> dict[int, Semantic]:
    """Samples tokens of each row, given as much history as a training example contains."""
    if not counts:
      return {}
    prompts: dict[int, Prompt] = {}
    for row, count in counts.items():
      history = cut_runs(self.rows[row], self.spec.run_limit)
      # The length includes new tokens; the history has at least half an example.
      longest = round(self.spec.crop_seconds * self.token_rate(row))
      history = history[-max(longest - count, longest // 2, 1) :]
      frame_ids = np.zeros(len(history), np.int32)
      ids = self.spec.layout.semantic_to_ids(history)
      prompts[row] = Prompt(ids, frame_ids, earlier=self.rows[row][:, None])
    ids = self._draw(prompts, max(counts.values()), index)
    return {row: self.spec.layout.ids_to_semantic(ids[row][:n]) for row, n in counts.items()}

  @abc.abstractmethod
  def token_rate(self, row: int) -> float:
    """Returns the tokens per second of a row as the stage reads it."""


class KeptRepeats(SemanticTargets):
  """Tokens with positions in time; samples as many ahead as a training example contains.

  Tokens that no stage reads are sampled at once.
  """

  _is_read = False

  def is_read_by(self, reader: Targets, retokenize: Callable[[Tokens], Tokens] | None) -> None:
    """Notes that a stage reads the tokens."""
    del reader, retokenize
    self._is_read = True

  def extend(self, until: Mapping[int, float], index: int = 0) -> bool:
    """Samples once for all rows that are too short."""
    counts: dict[int, int] = {}
    longest = self.spec.crop_steps
    for row, seconds in until.items():
      known, total = len(self.rows[row]), self.total(row)
      assert total is not None  # the cascade refuses clips without a length
      is_timed = self._is_read and seconds < float("inf")
      wanted = min(steps_until(seconds, self.rate), total) if is_timed else total
      if wanted > known:
        count = max(wanted - known, longest - min(known, longest // 2))
        counts[row] = min(count, total - known)
    new = self.sample(counts, index)
    for row, tokens in new.items():
      self.rows[row] = np.concatenate([self.rows[row], tokens])
    return bool(new)

  def token_rate(self, row: int) -> float:
    """Returns the rate of the steps."""
    return self.rate


class CollapsedRepeats(SemanticTargets):
  """Tokens whose positions in time are known only after the reader's codes are tokenized again.

  For `d` seconds, `d * rate` tokens are sampled, where `rate` is the number of collapsed tokens per
  second in the prompt.

  Args:
    spec: the stage.
    call: the call of the cascade.
    prompts: first tokens of each row.
    draw: samples from the stage.
    mean_rate: collapsed tokens per second of the training data.
  """

  def __init__(
    self,
    spec: AutoregressiveSpec,
    call: Call,
    prompts: Sequence[Semantic],
    draw: Draw,
    mean_rate: float | None,
  ):
    super().__init__(spec, call, prompts, draw)
    if not mean_rate:
      raise ConfigError(
        "these stages collapse repeated semantic tokens, so semantic_rate (collapsed tokens per "
        "second of the training data) must be given"
      )
    self._tokens = [[collapse_repeats(prompt)] for prompt in self.rows]
    self._rates = [self._own_rate(prompt, mean_rate) for prompt in self.rows]
    self._reader: Targets | None = None
    self._retokenize: Callable[[Tokens], Tokens] | None = None

  def is_read_by(self, reader: Targets, retokenize: Callable[[Tokens], Tokens] | None) -> None:
    """Keeps the first reader, whose codes are tokenized."""
    if self._reader is None:
      self._reader, self._retokenize = reader, retokenize

  def extend(self, until: Mapping[int, float], index: int = 0) -> bool:
    """Raises an error: without a window of the reader, the number of tokens is unknown."""
    raise ConfigError(
      f"the {self.spec.name} stage collapses repeats, so only a stage that is sampled in windows "
      "can read it"
    )

  def windows(
    self, windows: Mapping[int, Window], frame_rate: float, index: int
  ) -> dict[int, Semantic]:
    """Returns the tokens of the overlap, retokenized, and new ones for the rest of the window."""
    counts: dict[int, int] = {}
    prefixes: dict[int, Semantic] = {}
    for row, window in windows.items():
      given = steps_of_frames(window.start, window.known, frame_rate, self.rate)
      if given.stop > len(self.rows[row]):
        self._place(row, window.known, frame_rate)
      seconds = (window.end - window.known) / frame_rate
      counts[row] = max(1, round(seconds * self._rates[row]))
      prefixes[row] = collapse_repeats(self.rows[row][given])
    new = self.sample(counts, index)
    for row, tokens in new.items():
      self._tokens[row].append(tokens)
    return {row: np.concatenate([prefix, new[row]]) for row, prefix in prefixes.items()}

  def tokens(self) -> list[Semantic]:
    """Returns the tokens of the prompt and the sampled ones, without repeats."""
    return [np.concatenate(parts).astype(np.int32) for parts in self._tokens]

  def token_rate(self, row: int) -> float:
    """Returns the rate of the prompt."""
    return self._rates[row]

  def _place(self, row: int, frames: int, frame_rate: float) -> None:
    """Determines the tokens of the first `frames` frames of a row by tokenizing them."""
    reader = self._reader
    if reader is None or self._retokenize is None:
      raise ConfigError(
        f"{frames} frames and those that follow are longer than one window; with collapsed "
        "semantic tokens this requires `retokenize`"
      )
    # One window, including overlap for context: always the same length, so that decoder and
    # tokenizer are compiled once.
    span = min(frames, reader.stream.steps(reader.spec.crop_length or 0.0))
    align = max(1, round(frame_rate / self.rate))
    first = -(-(frames - span) // align) * align
    semantic = self._retokenize(reader.rows[row][first:frames])
    known = self.rows[row]
    steps = steps_of_frames(first, frames, frame_rate, self.rate)
    new = semantic[max(0, len(known) - steps.start) : steps.stop - steps.start]
    self.rows[row] = np.concatenate([known, new])

  def _own_rate(self, prompt: Semantic, mean: float) -> float:
    """Returns the tokens per second of a row."""
    if len(prompt) == 0:
      return mean
    low, high = (mean * factor for factor in RATE_FACTORS)
    return min(max(collapsed_rate(prompt, self.rate), low), high)
