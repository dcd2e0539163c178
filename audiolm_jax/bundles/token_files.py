"""Token files of a bundle's tokens."""

import dataclasses

from audiolm_jax.bundles.bundle import Bundle
from audiolm_jax.core.streams import Record
from audiolm_jax.io.token_file import TokenFile


def of_bundle(bundle: Bundle, tokens: Record) -> TokenFile:
  """Tokens of one clip, as the bundle's tokenizers make them."""
  return TokenFile(
    tokens=tokens,
    streams={key: bundle.streams[key] for key in tokens},
    sample_rate=bundle.sample_rate,
    bundle=bundle.name,
    token_hash=bundle.token_hash,
  )


def of_sample(bundle: Bundle, tokens: Record) -> TokenFile:
  """Tokens of one clip that a bundle's stages made; what they collapse has no rate."""
  streams = bundle.streams | {
    key: stream
    for stage in bundle.stages.values()
    for key, stream in stage.spec.streams.items()
    if key not in bundle.streams
  }
  collapsed = {key for stage in bundle.stages.values() for key in stage.spec.collapsed}
  return TokenFile(
    tokens=tokens,
    streams={
      key: dataclasses.replace(streams[key], rate=None) if key in collapsed else streams[key]
      for key in tokens
    },
    sample_rate=bundle.sample_rate,
    bundle=bundle.name,
    token_hash=bundle.token_hash,
  )
