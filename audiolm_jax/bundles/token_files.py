"""Creates token files from the tokens of a bundle."""

import dataclasses

from audiolm_jax.bundles.bundle import Bundle
from audiolm_jax.core.streams import Record
from audiolm_jax.io.token_file import TokenFile


def of_bundle(bundle: Bundle, tokens: Record) -> TokenFile:
  """Returns a token file of one clip.

  Args:
    bundle: the bundle whose tokenizers encoded the clip.
    tokens: the tokens by stream key.
  """
  return TokenFile(
    tokens=tokens,
    streams={key: bundle.streams[key] for key in tokens},
    sample_rate=bundle.sample_rate,
    bundle=bundle.name,
    token_hash=bundle.token_hash,
  )


def of_sample(bundle: Bundle, tokens: Record) -> TokenFile:
  """Returns a token file of one sampled clip; streams with collapsed repeats have no rate.

  Args:
    bundle: the bundle whose stages sampled the clip.
    tokens: the tokens by stream key.
  """
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
