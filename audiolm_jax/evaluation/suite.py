"""The definition of a suite: a name, requirements, and a function that measures a bundle."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from audiolm_jax.evaluation.options import Domain, Options
from audiolm_jax.evaluation.report import SuiteResult, skipped

if TYPE_CHECKING:  # bundles import JAX, which the registry of suites does not need
  from audiolm_jax.bundles import Bundle
else:
  Bundle = object


@dataclasses.dataclass(frozen=True)
class Need:
  """A requirement of a suite.

  Attributes:
    title: description of the requirement, with the flag that provides it.
    is_met: function that returns whether a bundle and the options of a run meet the requirement.
  """

  title: str
  is_met: Callable[[Bundle, Options], bool]


@dataclasses.dataclass(frozen=True)
class Suite:
  """Measurements that are run together.

  Attributes:
    name: name of the suite, as in `--suite`.
    needs: requirements; the suite is skipped if one of them is not met.
    run: function that measures a bundle.
  """

  name: str
  needs: tuple[Need, ...]
  run: Callable[[Bundle, Options], SuiteResult]

  def measure(self, bundle: Bundle, options: Options) -> SuiteResult:
    """Runs the suite, or returns a skipped result that names the missing requirements."""
    missing = [need.title for need in self.needs if not need.is_met(bundle, options)]
    return skipped(f"it needs {' and '.join(missing)}") if missing else self.run(bundle, options)


def _has_splits(options: Options, *splits: str) -> bool:
  from audiolm_jax.data.manifest import list_clips

  found = {split: list_clips(options.source_of(split)) for split in splits}
  return all(any(clip.split == split for clip in clips) for split, clips in found.items())


def _has_speakers(options: Options) -> bool:
  from audiolm_jax.data.manifest import list_clips

  return len({clip.speaker for clip in list_clips(options.data)} - {None}) >= 2


CLIPS = Need("clips of the split valid (--data)", lambda _, o: _has_splits(o, "valid"))
PROBES = Need("sentences of the split probe (--probe_data)", lambda _, o: _has_splits(o, "probe"))
SPEAKERS = Need("clips of two named speakers (--data)", lambda _, o: _has_speakers(o))
TRAINING_TOKENS = Need(
  "tokens (--token_store) or the splits train and valid",
  lambda _, o: bool(o.token_store) or _has_splits(o, "train", "valid"),
)
ITEMS = Need("ABX items (--items)", lambda _, o: bool(o.items))
PAIRS = Need("pairs of sounds (--pairs)", lambda _, o: bool(o.pairs))
SPEECH = Need("speech (--domain=speech)", lambda _, o: o.domain is Domain.SPEECH)
MUSIC = Need("music (--domain=music)", lambda _, o: o.domain is Domain.MUSIC)
STAGES = Need("a bundle with stages", lambda bundle, _: bool(bundle.stages))
TEXT_STAGE = Need("a bundle with a text stage", lambda bundle, _: "text" in bundle.stages)
SPEECH_STAGE = Need("a bundle with a speech stage", lambda bundle, _: "speech" in bundle.stages)
WATERMARK = Need("a bundle with a watermark", lambda bundle, _: bundle.watermark is not None)
DETECTOR = Need("a bundle with a detector", lambda bundle, _: bundle.detector is not None)
