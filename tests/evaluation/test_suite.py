import importlib
import json
import pkgutil

import pytest

import audiolm_jax.evaluation
from audiolm_jax.evaluation import report, suite
from audiolm_jax.evaluation.metric import Metric
from audiolm_jax.evaluation.options import Domain, Options
from audiolm_jax.evaluation.suites import SUITES


@pytest.fixture
def options(tmp_path):
  rows = [{"path": f"{i}.wav", "split": "valid", "speaker": f"s{i}"} for i in range(2)]
  (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  return Options("miniature", str(tmp_path / "m.jsonl"), str(tmp_path))


def modules():
  package = audiolm_jax.evaluation
  for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
    yield importlib.import_module(module.name)


def test_a_suite_without_what_it_needs_is_skipped_with_the_reasons(options):
  def run(bundle, options):
    raise AssertionError("a suite without what it needs must not run")

  result = suite.Suite("new", (suite.MUSIC, suite.CLIPS, suite.ITEMS), run).measure(None, options)  # pyright: ignore[reportArgumentType]: the suite reads no bundle
  assert result.rows == []
  assert result.skip_reason == "it needs music (--domain=music) and ABX items (--items)"


def test_a_suite_with_what_it_needs_runs(options):
  ran = report.SuiteResult([], {"ran": True})
  needs = (suite.CLIPS, suite.SPEAKERS, suite.SPEECH)
  assert suite.Suite("new", needs, lambda bundle, options: ran).measure(None, options) is ran  # pyright: ignore[reportArgumentType]: the suite reads no bundle


@pytest.mark.parametrize(
  ("need", "given"),
  [
    (suite.TRAINING_TOKENS, {"token_store": "tokens"}),
    (suite.PAIRS, {"pairs": "pairs"}),
    (suite.ITEMS, {"items": "items"}),
    (suite.MUSIC, {"domain": Domain.MUSIC}),
  ],
)
def test_a_need_is_met_by_its_option(options, need, given):
  assert not need.is_met(None, options)
  assert need.is_met(None, Options(options.bundle, options.data, options.output_dir, **given))


def test_needs_of_a_bundle_are_its_stages_and_its_detector(options, miniature_bundle):
  assert suite.STAGES.is_met(miniature_bundle, options)
  assert not suite.DETECTOR.is_met(miniature_bundle, options)


def test_every_suite_has_a_module_with_its_run():
  for of_registry in SUITES:
    module = importlib.import_module(f"audiolm_jax.evaluation.suites.{of_registry.name}")
    assert callable(module.run)


def test_no_two_metrics_have_one_key():
  found = {}
  for module in modules():
    for value in vars(module).values():
      several = value.values() if isinstance(value, dict) else value
      for metric in several if isinstance(several, (tuple, type({}.values()))) else [several]:
        if isinstance(metric, Metric):
          assert found.setdefault(metric.key, metric).title == metric.title
  assert len(found) > 60
