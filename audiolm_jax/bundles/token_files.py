"""Token files of a bundle's tokens."""

import numpy as np
from jaxtyping import Int

from audiolm_jax.bundles.bundle import Bundle
from audiolm_jax.io.token_file import TokenFile


def of_bundle(
  bundle: Bundle,
  semantic: Int[np.ndarray, " steps"],
  codes: Int[np.ndarray, "frames quantizers"],
  *,
  semantic_rate: float,
) -> TokenFile:
  """Tokens with the numbers of the bundle they belong to."""
  return TokenFile(
    semantic=semantic,
    codes=codes,
    sample_rate=bundle.sample_rate,
    frame_rate=bundle.codec.spec.frame_rate,
    semantic_rate=semantic_rate,
    bundle=bundle.name,
    token_hash=bundle.token_hash,
  )


def of_sample(
  bundle: Bundle,
  semantic: Int[np.ndarray, " steps"],
  codes: Int[np.ndarray, "frames quantizers"],
) -> TokenFile:
  """Tokens of one clip that a bundle's stages made."""
  collapsed = bundle.stages["coarse"].spec.collapse_repeats
  rate = 0.0 if collapsed else bundle.semantic.spec.frame_rate
  return of_bundle(bundle, semantic, codes, semantic_rate=rate)
