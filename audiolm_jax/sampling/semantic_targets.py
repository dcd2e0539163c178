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

Semantic = Int[np.ndarray, "_"]  # an anonymous axis, because rows differ in length
# Maps prompts by row, the number of tokens to draw and the index of the draw to ids by row.
Draw = Callable[[Mapping[int, Prompt], int, int], Mapping[int, Int[np.ndarray, "_"]]]

# The rate of collapsed tokens of a prompt is limited to these multiples of the corpus mean.
RATE_FACTORS = (0.5, 1.5)


class SemanticTargets(Targets, abc.ABC):
  """Base class of the targets of a semantic stage.

  Args:
    spec: spec of the stage.
    call: the call of the cascade.
    prompts: first tokens of each row.
    draw: function that samples from the stage.
  """

  spec: AutoregressiveSpec

  def __init__(self, spec: AutoregressiveSpec, call: Call, prompts: Sequence[Semantic], draw: Draw):
    super().__init__(spec, call, {}, [np.asarray(prompt, np.int32) for prompt in prompts])
    self.rate = spec.semantic_rate
    self._draw = draw

  def sample(self, counts: Mapping[int, int], index: int) -> dict[int, Semantic]:
    """Samples `counts[row]` tokens of each row, given its history (the latest tokens of the row).

    Together, the history and the new tokens fill a training example. However, the history has at
    least half of the length of an example, if the row has that many tokens.
    """
    if not counts:
      return {}
    prompts: dict[int, Prompt] = {}
    for row, count in counts.items():
      history = cut_runs(self.rows[row], self.spec.run_limit)
      # History and new tokens fill an example; the history is at least half of the example.
      longest = round(self.spec.crop_seconds * self.token_rate(row))
      history = history[-max(longest - count, longest // 2, 1) :]
      frame_ids = np.zeros(len(history), np.int32)
      ids = self.spec.layout.semantic_to_ids(history)
      prompts[row] = Prompt(ids, frame_ids, earlier=self.rows[row][:, None])
    ids = self._draw(prompts, max(counts.values()), index)
    return {row: self.spec.layout.ids_to_semantic(ids[row][:n]) for row, n in counts.items()}

  @abc.abstractmethod
  def token_rate(self, row: int) -> float:
    """Returns the tokens per second of a row; repeats that the stage drops do not count."""


class KeptRepeats(SemanticTargets):
  """Semantic tokens with repeats, whose positions in time are known.

  If a stage requests the tokens up to a time, a call of `extend` samples at least the tokens up to
  this time. It samples more tokens, up to the end of the clip, if a training example has space for
  them after the history. Without such a request, one call samples all tokens.
  """

  _is_read = False

  def is_read_by(self, reader: Targets, retokenize: Callable[[Tokens], Tokens] | None) -> None:
    """Records that a stage reads the tokens."""
    del reader, retokenize
    self._is_read = True

  def extend(self, until: Mapping[int, float], index: int = 0) -> bool:
    """Samples once, in one batch, for all rows that do not reach their times."""
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
    """Returns the steps per second of the stream."""
    return self.rate


class CollapsedRepeats(SemanticTargets):
  """Semantic tokens without repeats.

  Their positions in time are known only after the codes of the reader are tokenized again. For `d`
  seconds, `d * rate` tokens are sampled. The `rate` is the number of tokens without repeats per
  second of the prompt, limited to `RATE_FACTORS` times `mean_rate`; without a prompt, `mean_rate`.

  Args:
    spec: spec of the stage.
    call: the call of the cascade.
    prompts: first tokens of each row, with repeats.
    draw: function that samples from the stage.
    mean_rate: tokens per second of the training data, without repeats.

  Raises:
    ConfigError: `mean_rate` is not given.
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
    """Stores the first reader; its codes will be tokenized again."""
    if self._reader is None:
      self._reader, self._retokenize = reader, retokenize

  def extend(self, until: Mapping[int, float], index: int = 0) -> bool:
    """Raises a `ConfigError`: without a window of the reader, the number of tokens is unknown."""
    raise ConfigError(
      f"the {self.spec.name} stage collapses repeats, so only a stage that is sampled in windows "
      "can read it"
    )

  def windows(
    self, windows: Mapping[int, Window], frame_rate: float, index: int
  ) -> dict[int, Semantic]:
    """Returns, by row, the tokens of the overlap and new tokens for the rest of the window.

    The tokens of the overlap are computed from the codes of the reader. See the base class.

    Raises:
      ConfigError: codes must be tokenized again, but `retokenize` was not given.
    """
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
    """Returns the tokens of the prompt and the sampled tokens of each row, without repeats."""
    return [np.concatenate(parts).astype(np.int32) for parts in self._tokens]

  def token_rate(self, row: int) -> float:
    """Returns the tokens per second, without repeats, that are sampled for a row."""
    return self._rates[row]

  def _place(self, row: int, frames: int, frame_rate: float) -> None:
    """Extends the tokens of a row to frame `frames` by tokenizing the codes of the reader."""
    reader = self._reader
    if reader is None or self._retokenize is None:
      raise ConfigError(
        f"{frames} frames and those that follow are longer than one window; with collapsed "
        "semantic tokens this requires `retokenize`"
      )
    # Tokenizes one window, including the overlap as context. It always has the same length, so that
    # decoder and tokenizer are compiled once.
    span = min(frames, reader.stream.steps(reader.spec.crop_length or 0.0))
    align = max(1, round(frame_rate / self.rate))
    first = -(-(frames - span) // align) * align
    semantic = self._retokenize(reader.rows[row][first:frames])
    known = self.rows[row]
    steps = steps_of_frames(first, frames, frame_rate, self.rate)
    new = semantic[max(0, len(known) - steps.start) : steps.stop - steps.start]
    self.rows[row] = np.concatenate([known, new])

  def _own_rate(self, prompt: Semantic, mean: float) -> float:
    """Returns `rate` (see the class) of a prompt, or `mean` for an empty prompt."""
    if len(prompt) == 0:
      return mean
    low, high = (mean * factor for factor in RATE_FACTORS)
    return min(max(collapsed_rate(prompt, self.rate), low), high)
