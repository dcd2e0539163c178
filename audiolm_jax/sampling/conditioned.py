"""Sampling of the conditioned stage: semantic tokens or characters until the end token."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.lm.conditioned import ConditionedSource, ConditionedSpec
from audiolm_jax.lm.stage import Stage
from audiolm_jax.sampling.conditioned_decoder import ConditionedDecoder, Drawing
from audiolm_jax.sampling.decoder import rows_of
from audiolm_jax.sampling.loop import SEGMENT
from audiolm_jax.sampling.pull import Call, Targets, Tokens, Track
from audiolm_jax.sampling.windows import steps_until

Drawable = Int[np.ndarray, "_"]  # an anonymous axis, because rows differ in length


class ConditionedSampler:
  """Samples from a conditioned stage; see `pull.Sampler`."""

  spec: ConditionedSpec

  def __init__(self, stage: Stage):
    self.decoder = ConditionedDecoder(stage)
    self.spec = self.decoder.spec

  def targets(
    self,
    call: Call,
    reads: Mapping[str, Track],
    prompts: Sequence[Tokens],
    semantic_rate: float | None,
  ) -> Targets:
    """Returns the targets: semantic tokens or the text of each row.

    Raises:
      ConfigError: the stage has no source, because it was only pretrained.
      DataError: a prompt is not shorter than the limit of its row.
      UserError: the options have settings of parallel stages.
    """
    del semantic_rate
    call.options(self.spec.name).check_sequential(self.spec.name)
    if self.spec.source is ConditionedSource.NOTHING:
      raise ConfigError(
        f"the {self.spec.name} stage is pretrained without a source; train it on pairs first"
      )
    return UntilEnd(self, call, reads, prompts)

  def rehearsed(self) -> None:
    """Returns None: the number of tokens is not known in advance."""
    return


class _Group(NamedTuple):
  """Rows that are sampled in one batch, and the `Drawing` of this batch."""

  rows: range
  drawing: Drawing


class UntilEnd(Targets):
  """Tokens up to the end token, the maximum length of the stage or the end of the clip.

  A text has no positions in time, so it ends only at the end token or at the maximum length.

  `Call.scores` receives the mean log-probability of the drawn tokens of each row.
  """

  spec: ConditionedSpec

  def __init__(
    self,
    sampler: ConditionedSampler,
    call: Call,
    reads: Mapping[str, Track],
    prompts: Sequence[Drawable],
  ):
    super().__init__(sampler.spec, call, reads, [np.asarray(p, np.int32) for p in prompts])
    self.may_end = True
    self._decoder = sampler.decoder
    self._ended = [False] * len(prompts)
    longest = self.spec.max_steps
    self._limits = [
      longest if seconds is None else min(longest, self._steps(seconds)) for seconds in call.seconds
    ]
    for prompt, limit in zip(prompts, self._limits, strict=True):
      if len(prompt) >= limit:
        raise DataError(
          f"a prompt of {len(prompt)} {self.stream.words} leaves no room in the {limit} tokens of "
          f"the {self.spec.name} stage; shorten it"
        )
    self._groups: list[_Group] | None = None

  def extend(self, until: Mapping[int, float], index: int = 0) -> bool:
    """Draws the next segment of the first batch with a row that does not reach its time."""
    return self.call.timed(self.spec.name, lambda: self._extend(until))

  def end(self, row: int) -> float | None:
    """Returns the time in seconds at which a row ends; None if it is not known yet or for a text.

    A row ends at its end token, at the maximum length of the stage or at the end of the clip.
    """
    rate = self.stream.rate
    own = len(self.rows[row]) / rate if rate and self._ended[row] else None
    return min((end for end in (super().end(row), own) if end is not None), default=None)

  def _extend(self, until: Mapping[int, float]) -> bool:
    for group in self._drawings():
      if any(row in group.rows and self._is_short(row, until[row]) for row in until):
        self._draw(group, group.drawing.step // SEGMENT * SEGMENT + SEGMENT)
        return True
    return False

  def _is_short(self, row: int, seconds: float) -> bool:
    wanted = min(self._steps(seconds), self._limits[row])
    return not self._ended[row] and len(self.rows[row]) < wanted

  def _steps(self, seconds: float) -> int:
    """Returns the number of steps up to a time, at most the maximum length of the stage."""
    rate, longest = self.stream.rate, self.spec.max_steps
    if rate is None or seconds > self.spec.longest_seconds:
      return longest
    return min(longest, steps_until(seconds, rate))

  def _drawings(self) -> list[_Group]:
    """Returns the batches of rows; the first call encodes the sources."""
    if self._groups is None:
      (track,) = self.reads.values()
      rows = range(len(self.rows))
      track.extend_to(dict.fromkeys(rows, float("inf")))
      sources = [self.spec.source_ids(source) for source in track.rows]
      prompts = [self._classes(prompt) for prompt in self.prompts]
      keys = self.call.keys(self.spec.name, 0, [(sample,) for sample in self.call.samples])
      options = self.call.options(self.spec.name)
      size = self._decoder.rows_per_drawing(max(self._limits))
      parts = [range(i, min(i + size, len(rows))) for i in range(0, len(rows), size)]
      self._groups = []
      for part in parts:
        own = slice(part.start, part.stop)
        drawing = self._decoder.begin(
          sources[own],
          prompts[own],
          self._limits[own],
          rows_of(keys, part),
          options,
        )
        self._groups.append(_Group(part, drawing))
    return self._groups

  def _classes(self, prompt: Drawable) -> Drawable:
    return self.spec.target_classes(prompt) if len(prompt) else prompt

  def _draw(self, group: _Group, stop: int) -> None:
    """Draws a batch up to step `stop` and stores its tokens, ends and scores."""
    found = group.drawing.draw(stop)
    scores = self.call.scores.setdefault(self.spec.name, np.zeros(len(self.rows), np.float32))
    for row, drawn in zip(group.rows, found, strict=True):
      if len(drawn.tokens) >= len(self.prompts[row]):
        self.rows[row] = self.spec.target_tokens(drawn.tokens)
      self._ended[row], scores[row] = drawn.ended, drawn.score
    report = self.call.report(self.spec.name)
    if report is not None:
      most = max(self._limits)
      done = max(len(self.rows[row]) for row in group.rows)
      report(most if all(self._ended[row] for row in group.rows) else done, most)
