"""Checks that published weights give the same results here as in transformers."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from audiolm_jax.codec.interface import Codec
from audiolm_jax.core.errors import DataError
from audiolm_jax.pretrained import registry
from audiolm_jax.pretrained.reference import CodecReference, load_reference
from audiolm_jax.pretrained.registry import PublishedModel
from audiolm_jax.pretrained.weights import Published

_TOLERANCE = 1e-4
# Maximum share of frames with different codes. Rounding decides between two entries of a codebook
# that are equally near.
_TIED_FRAMES = 0.01
_SECONDS = 3.0


def verify(model: PublishedModel, published: Published, layer: int | None) -> Iterator[str]:
  """Checks a model, and yields sentences about its hash, its tensors and its results.

  Args:
    model: the model that `published` should be.
    published: content of the files of the model.
    layer: layer of a semantic encoder whose features are compared, counted from 1; None for a
      codec.

  Raises:
    UserError: a check fails, or transformers is not installed.
  """
  settings = {} if layer is None else {"layer": layer}
  component = registry.convert(model, published, **settings)
  if model.sha256:
    yield f"SHA-256 {published.sha256}: that of the published file"
  else:
    yield f"SHA-256 {published.sha256}: no hash is known for {model.name}"
  yield f"{len(published.weights.tensors)} tensors with the expected names and shapes"
  if not model.in_transformers:
    yield f"results are not compared: transformers does not contain {model.name}"
    return
  reference = load_reference(published.folder)
  clip = sound_of_the_check(component.spec.sample_rate)
  if isinstance(reference, CodecReference):
    yield from _compare_codec(component, reference, clip)
  else:
    assert layer is not None
    theirs = reference.features(clip)[layer]
    ours = component.features(clip[None])[0][: len(theirs)]
    yield f"features of layer {layer}: {_within(ours, theirs, 'features')}"


def sound_of_the_check(sample_rate: int) -> Float[np.ndarray, "samples"]:
  """Returns a fixed test sound of 3 s: a harmonic tone of varying pitch, with noise and pauses."""
  rng = np.random.default_rng(0)
  time = np.arange(round(_SECONDS * sample_rate)) / sample_rate
  phase = 2 * np.pi * (120 * time + 6 * np.sin(2 * np.pi * 0.7 * time))
  harmonics = [np.sin(n * phase) / n for n in range(1, 16) if n * 160 < sample_rate / 2]
  swell = np.square(np.sin(2 * np.pi * 1.3 * time))
  breath = 0.05 * rng.standard_normal(len(time))
  return (0.2 * swell * (np.sum(harmonics, axis=0) + breath)).astype(np.float32)


def _compare_codec(codec: Codec, reference: CodecReference, clip: np.ndarray) -> Iterator[str]:
  ours, theirs = codec.encode(clip[None])[0], reference.encode(clip)
  if ours.shape != theirs.shape:
    raise DataError(f"codes have shape {ours.shape} here and {theirs.shape} in transformers")
  different = int(np.any(ours != theirs, axis=1).sum())
  found = f"{different} of {len(ours)} frames have other codes than those of transformers"
  if different > _TIED_FRAMES * len(ours):
    raise DataError(f"{found}; the weights are not what {type(codec).__name__} requires")
  yield found
  sound = reference.decode(theirs)
  # A reference with odd strides returns a few samples fewer.
  ours = codec.decode(theirs[None])[0][: len(sound)]
  yield f"sound of the same codes: {_within(ours, sound, 'sound')}"


def _within(ours: np.ndarray, theirs: np.ndarray, what: str) -> str:
  difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
  found = f"within {difference:.1e} of the largest value"
  if not difference < _TOLERANCE:
    raise DataError(f"the {what} are {found} of transformers, the limit is {_TOLERANCE:g}")
  return found
