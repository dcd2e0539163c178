"""Exports log probabilities of sounds for ZeroSpeech 2021 (sWUGGY, sBLIMP) and SALMon.

Source: the submission format of ZeroSpeech 2021; each line has a name and a score.
"""

import os
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from audiolm_jax.bundles import Bundle
from audiolm_jax.core.configs import JsonDict
from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation.exports.files import names_of, write_list
from audiolm_jax.evaluation.pairs import SoundPair
from audiolm_jax.evaluation.suites.likelihood import sound_scorer
from audiolm_jax.lm.stages import AutoregressiveSpec


def export_likelihoods(
  bundle: Bundle,
  pairs: Sequence[SoundPair],
  read: Callable[[str], Float[np.ndarray, "samples"]],
  output_dir: str,
) -> JsonDict:
  """Writes the log probability of each sound under each stage that has likelihoods.

  A line of `STAGE_sum.txt` has the name of a sound and the log probability of its tokens in nats.
  `STAGE_mean.txt` has the mean log probability per token. The name is the path of the sound without
  suffix, relative to the deepest folder that contains all sounds. White space becomes underscores.

  Args:
    bundle: bundle with the stages, and with the tokenizers that encode the sounds.
    pairs: pairs of paths to sounds.
    read: function that returns the waveform of a path at the bundle's sample rate.
    output_dir: an existing folder.

  Returns:
    The number of sounds, and the names of the stages.

  Raises:
    DataError: no stage has likelihoods, two sounds have the same name, or a sound is too short for
      a stage.
  """
  stages = [name for name, one in bundle.stages.items() if isinstance(one.spec, AutoregressiveSpec)]
  if not stages:
    raise DataError(f"{bundle.name} has no stage with likelihoods; give a bundle with one")
  paths = list(dict.fromkeys(path for pair in pairs for path in (pair.good, pair.bad)))
  shared = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
  relative = [os.path.relpath(path, shared).replace(os.sep, "/") for path in paths]
  names = [key for _, key in names_of(relative)]
  score = sound_scorer(bundle, stages)
  scores = [score(read(path)) for path in paths]
  for stage in stages:
    found = {name: of_sound[stage] for name, of_sound in zip(names, scores, strict=True)}
    path = os.path.join(output_dir, stage)
    write_list(f"{path}_mean.txt", {name: repr(one.mean) for name, one in found.items()})
    write_list(f"{path}_sum.txt", {name: repr(one.total) for name, one in found.items()})
  return {"sounds": len(paths), "stages": stages}
