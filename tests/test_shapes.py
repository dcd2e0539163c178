"""The check of the types and shapes in signatures runs in the whole package."""

import importlib.abc
import importlib.util
import re
import types

import jaxtyping
import numpy as np
import pytest

from audiolm_jax.bundles import pauses
from audiolm_jax.chunking.run import rows_of
from audiolm_jax.codec import losses
from audiolm_jax.core import products
from audiolm_jax.data import examples
from audiolm_jax.detection import watermark
from audiolm_jax.dsp import stft
from audiolm_jax.evaluation import frechet
from audiolm_jax.io import plotting
from audiolm_jax.lm import attention
from audiolm_jax.pretrained import kaldi_features
from audiolm_jax.sampling import logits
from audiolm_jax.semantic import features
from audiolm_jax.trainables import gradient_balance
from audiolm_jax.training import train_state
from tests import architecture, shapes


def floats(*shape: int) -> np.ndarray:
  return np.zeros(shape, np.float32)


# A function, arguments of which one is wrong, and the name of that one.
CALLS = [
  (products.matmul, (floats(2, 3), floats(4, 5)), "kernel"),  # 3 inputs
  (plotting.spectrogram_db, (floats(1, 4_000), 16_000), "waveform"),  # no batch
  (stft.stft, (floats(64), 16, 4), "waveform"),  # a batch
  (rows_of, ([floats(2, 3)], floats(1, 3), 2), "nothing"),  # no frames
  (losses.spectral_loss, (floats(1, 64), floats(1, 65), losses.SpectralLossConfig()), "generated"),
  (features.log_mel, (np.zeros((1, 640), np.int16), features.LogMelConfig()), "waveform"),
  (attention.scores, (floats(1, 2, 1, 1, 8), floats(1, 1, 2, 4)), "keys"),  # 8 channels
  (watermark.marks_of, (np.zeros((1, 3), np.uint32), np.zeros(5, np.uint64)), "keys"),  # 4 words
  (logits.only, (floats(2, 5), np.ones((2, 4), bool)), "legal"),  # 5 ids
  (kaldi_features.kaldi_log_mel, (np.zeros(4_000, np.int16), 8), "waveform"),
  (pauses.loudness, (floats(1, 640), 2), "waveform"),  # no batch
  (examples.from_pcm16, (floats(64),), "pcm"),
  (gradient_balance.balance_gradients, (floats(2, 1, 8), floats(3), floats(2)), "averages"),
  (train_state.update_ema, ({}, {}, np.zeros(1, np.int32), 0.9), "step"),  # no axis
  (frechet.frechet_distance, (floats(4, 3), floats(5, 2)), "made"),  # 3 dimensions
]
# A module, an annotation of it, a wrong one in its place, and the name and arguments of a function.
ANNOTATIONS = [
  ("dsp.mel", '"bins mels"', '"mels"', "mel_filterbank", (9, 4, 16_000)),
  ("data.examples", "-> Int16[", "-> Float[", "to_pcm16", (floats(64),)),
  ("evaluation.statistics", '"n 2"', '"n 3"', "ratio_estimate", (np.ones((4, 2), np.int64),)),
  ("bundles.pauses", '"steps"]:', '"steps 1"]:', "loudness", (floats(640), 2)),
]


def room(module: str) -> str:
  return module.split(".")[1]


@pytest.mark.parametrize(
  "function, arguments, wrong", CALLS, ids=[room(c[0].__module__) for c in CALLS]
)
def test_a_wrong_argument_is_found(function, arguments, wrong):
  with pytest.raises(jaxtyping.TypeCheckError, match=f"typechecking parameter '{wrong}'"):
    function(*arguments)


def test_each_folder_with_shapes_has_a_wrong_argument():
  with_shapes = {room(name) for name in architecture.modules() if architecture.shapes(name)}
  assert {room(function.__module__) for function, _, _ in CALLS} == with_shapes


@pytest.mark.parametrize("module, right, wrong, name, arguments", ANNOTATIONS)
def test_a_wrong_annotation_is_found(module, right, wrong, name, arguments):
  module = f"audiolm_jax.{module}"
  source = architecture.modules()[module].read_text()
  assert right in source
  _function(module, source, name)(*arguments)
  with pytest.raises(jaxtyping.TypeCheckError, match=name):
    _function(module, source.replace(right, wrong), name)(*arguments)


def _function(module: str, source: str, name: str):
  """Returns a function of a module with this source, loaded as pytest loads the module."""
  spec = importlib.util.find_spec(module)
  assert spec is not None and isinstance(spec.loader, importlib.abc.InspectLoader)
  made = types.ModuleType(module)
  exec(spec.loader.source_to_code(source.encode(), str(spec.origin)), made.__dict__)
  return getattr(made, name)


def test_all_modules_are_checked_but_those_with_a_reason():
  """Loading through the hook replaces the loader of a module."""
  specs = {name: importlib.util.find_spec(name) for name in architecture.modules()}
  loaders = {name: spec and spec.loader for name, spec in specs.items()}
  missing = [
    name for name, loader in loaders.items() if not type(loader).__module__.startswith("jaxtyping.")
  ]
  assert missing == sorted(shapes.UNCHECKED)
  assert missing == [name for name in loaders if not architecture.is_checked(name)]
  assert all(architecture.shapes(name) == [] for name in missing)


def test_lengths_in_containers_bind_nothing():
  assert [
    x for name in architecture.modules() for x in architecture.lengths_in_containers(name)
  ] == []


def test_each_part_that_is_not_checked_states_the_reason():
  for path in architecture.modules().values():
    assert not re.search(r"@no_type_check\s*$", path.read_text(), re.MULTILINE), path
