"""The suites that `eval` runs: a module for each suite, and this registry of all suites."""

import importlib
from typing import Any

from audiolm_jax.evaluation import suite
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.report import SuiteResult
from audiolm_jax.evaluation.suite import Need, Suite


def _suite(name: str, *needs: Need) -> Suite:
  """Returns the suite whose function `run` is in the module `name` of this package.

  The module is imported when the suite runs, so that the registry needs no JAX.
  """

  def run(bundle: Any, options: Options) -> SuiteResult:
    return importlib.import_module(f"{__name__}.{name}").run(bundle, options)

  return Suite(name, needs, run)


SUITES = (
  _suite("codec", suite.CLIPS),
  _suite("semantic", suite.PROBES),
  _suite("music_tokens", suite.CLIPS, suite.MUSIC),
  _suite("content", suite.ITEMS),
  _suite("tokens", suite.STAGES, suite.TRAINING_TOKENS),
  _suite("likelihood", suite.PAIRS, suite.STAGES),
  _suite("continuation", suite.CLIPS, suite.STAGES),
  _suite("resynthesis", suite.CLIPS, suite.STAGES, suite.SPEECH),
  _suite("voice", suite.CLIPS, suite.STAGES, suite.SPEECH),
  _suite("speaking", suite.CLIPS, suite.TEXT_STAGE, suite.SPEECH),
  _suite("speech_to_speech", suite.CLIPS, suite.SPEECH_STAGE, suite.SPEECH),
  _suite("piano", suite.CLIPS, suite.STAGES, suite.MUSIC),
  _suite("speaker", suite.SPEAKERS, suite.STAGES, suite.SPEECH),
  _suite("detection", suite.CLIPS, suite.STAGES, suite.DETECTOR),
  _suite("watermark", suite.CLIPS, suite.STAGES, suite.WATERMARK),
  _suite("cost", suite.CLIPS, suite.STAGES),
)
