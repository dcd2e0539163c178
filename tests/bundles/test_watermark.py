"""The watermark of a bundle: stored, on by default in sampling, and found in the codes."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from helpers_parallel import CONFIG as PARALLEL_CONFIG
from helpers_parallel import SPEC as PARALLEL
from helpers_parallel import parallel_params

from audiolm_jax.bundles import load_bundle, save_bundle
from audiolm_jax.bundles.settings import options_of, watermark_strength
from audiolm_jax.core.errors import BundleError, ConfigError, UserError
from audiolm_jax.detection.evidence import Evidence
from audiolm_jax.detection.watermark import Watermark, WatermarkConfig, WatermarkKind, private_key
from audiolm_jax.detection.watermark_detector import payload_of
from audiolm_jax.lm.stage import Stage
from tests.conftest import melody

RATE, KEY = 16_000, "000102030405060708090a0b0c0d0e0f"
LEVELS, SIZE = 2, 16
COMMUNITIES = np.random.default_rng(0).permutation(np.tile(np.arange(SIZE), LEVELS))
MARK = Watermark(
  WatermarkConfig(LEVELS, SIZE, KEY, strength=8.0), COMMUNITIES.reshape(LEVELS, SIZE)
)

GUMBEL = Watermark(
  WatermarkConfig(LEVELS, SIZE, KEY, strength=1.0, frames=2, kind=WatermarkKind.GUMBEL),
  MARK.communities,
)


@pytest.fixture(scope="module")
def marked(miniature_bundle):
  return dataclasses.replace(miniature_bundle, watermark=MARK)


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
  """A bundle that is made without a compilation."""
  golden = Path(__file__).parents[1] / "golden" / "formats" / "bundle_2"
  bundle = load_bundle(golden)
  assert bundle.watermark is None
  return save_bundle(
    dataclasses.replace(bundle, watermark=MARK), tmp_path_factory.mktemp("valid") / "mini"
  )


def test_a_bundle_keeps_its_watermark(valid, tmp_path):
  folder = save_bundle(load_bundle(valid), tmp_path / "again", storage="int8")
  again = load_bundle(folder).watermark
  assert again is not None and again.config == MARK.config
  np.testing.assert_array_equal(again.communities, MARK.communities)


@pytest.fixture
def saved(valid, tmp_path):
  folder = tmp_path / "mini"
  folder.mkdir()
  for path in valid.iterdir():
    (folder / path.name).hardlink_to(path)
  return folder


def configure(**fields):
  def changed(folder):
    path = folder / "bundle.json"
    manifest = json.loads(path.read_text())
    manifest["components"]["watermark"].update(fields.pop("entry", {}))
    manifest["components"]["watermark"]["config"].update(fields)
    path.unlink()
    path.write_text(json.dumps(manifest))

  return changed


def store(communities):
  def changed(folder):
    path = folder / "watermark.safetensors"
    path.unlink()
    path.write_bytes(safetensors.numpy.save({"communities": communities}))

  return changed


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (store(np.zeros((LEVELS, SIZE), np.uint16)), "does not hold the weights"),
    (store(np.zeros((LEVELS, SIZE), np.float32)), "communities of type F32; it must be one of"),
    (store(np.zeros((LEVELS, SIZE), np.int8)), "communities of type I8"),
    (store(np.zeros((LEVELS, 8), np.uint16)), r"communities of shape \(2, 8\), the configuration"),
    (lambda folder: (folder / "watermark.safetensors").unlink(), "safetensors is missing"),
    (configure(key="ab"), "the key of a watermark is 'ab'"),
    (configure(frames=9), "frames is 9; it must be 0 to 4"),
    (configure(strength=float("1e9")), "strength is 1000000000.0; it must be 0.0 to 100.0"),
    (configure(levels=2**40), "levels is 1099511627776; it must be 1 to 64"),
    (configure(entry={"token_hash": "0123"}), "was made for other codes"),
    (configure(entry={"token_hash": []}), r"token hash is \[\]"),
  ],
)
def test_a_damaged_watermark_is_refused_in_one_line(saved, change, words):
  change(saved)
  with pytest.raises(BundleError, match=words) as caught:
    load_bundle(saved)
  assert "\n" not in str(caught.value)


def test_communities_out_of_range_or_of_another_codec_are_refused(valid, tmp_path):
  from audiolm_jax.bundles import tensors

  bundle = load_bundle(valid)
  larger = Watermark(WatermarkConfig(5, SIZE, KEY), np.zeros((5, SIZE), int))
  with pytest.raises(
    BundleError, match="the watermark has 5 levels of 16 codes, the codec 4 of 16"
  ):
    save_bundle(dataclasses.replace(bundle, watermark=larger), tmp_path / "x")
  folder = save_bundle(bundle, tmp_path / "y")
  values = np.full((LEVELS, SIZE), 1_023, np.uint16)
  store(values)(folder)
  configure(entry={"hash": tensors.hash_params({"communities": values})})(folder)
  with pytest.raises(BundleError, match=r"in 1023\.\.1023; the range is 0\.\.1022") as caught:
    load_bundle(folder)
  assert "\n" not in str(caught.value)


def find(codes, key, mark=MARK):
  found = Evidence(mark, key[None], 50.0, 1)
  found.push(codes[None])
  return found.finish()


def log10_p(codes, key):
  return find(codes, key).log10_p[0]


def test_sampling_is_marked_by_default_and_off_gives_the_unmarked_codes(marked, miniature_bundle):
  settings = {"duration": 2.4, "seed": 3, "temperature": dict.fromkeys(marked.stages, 1.0)}
  prompt = melody(1.0)
  found = marked.continue_audio(prompt, RATE, **settings)
  plain = miniature_bundle.continue_audio(prompt, RATE, **settings)
  for value in ("off", 0):
    off = marked.continue_audio(prompt, RATE, watermark=value, **settings)
    np.testing.assert_array_equal(off.tokens.codes, plain.tokens.codes)
    assert off.watermark == 0
  stream = marked.stream(prompt, RATE, **settings)
  assert len(np.concatenate([*stream])) == len(found.waveform)
  np.testing.assert_array_equal(stream.tokens.codes, found.tokens.codes)
  secret = private_key(b"0123456789abcdef")
  hidden = {"watermark_key": b"0123456789abcdef", "watermark_payload": b"\x9c"}
  other = marked.continue_audio(prompt, RATE, watermark=9.0, **hidden, **settings)
  assert (found.watermark, other.watermark, plain.watermark) == (8.0, 9.0, 0.0)
  new = [result.tokens.codes[50:] for result in (found, plain, other)]
  assert log10_p(new[0], MARK.key) < -4 and log10_p(new[2], secret) < -4
  payload = payload_of(find(new[2], secret).best)
  assert payload is not None and payload.content == b"\x9c"
  for codes, key in ((new[1], MARK.key), (new[1], secret), (new[0], secret), (new[2], MARK.key)):
    assert log10_p(codes, key) > -2


def test_a_gumbel_mark_is_found_in_different_samples_of_a_prompt(miniature_bundle):
  bundle = dataclasses.replace(miniature_bundle, watermark=GUMBEL)
  settings = {"duration": 1.2, "temperature": dict.fromkeys(bundle.stages, 1.0)}
  made = bundle.continue_audio(melody(1.0), RATE, num_samples=2, **settings)
  codes = made.tokens.codes
  assert (codes[0] != codes[1]).any() and made.watermark == 1.0
  for one in codes:
    assert find(one[50:], GUMBEL.key, GUMBEL).log10_p[0] < -4
    assert find(one[50:], GUMBEL.key + 1, GUMBEL).log10_p[0] > -2
  assert payload_of(find(codes[0][50:], GUMBEL.key, GUMBEL).best) is None


def test_what_a_gumbel_mark_cannot_do_is_refused(miniature_bundle):
  bundle = dataclasses.replace(miniature_bundle, watermark=GUMBEL)
  every = WatermarkConfig(4, SIZE, KEY, strength=1.0, kind=WatermarkKind.GUMBEL)
  deeper = dataclasses.replace(
    bundle, watermark=Watermark(every, np.tile(GUMBEL.communities, (2, 1)))
  )
  parallel = dataclasses.replace(
    bundle, stages={"parallel": Stage(PARALLEL, PARALLEL_CONFIG, parallel_params())}
  )
  for given, settings, error, words in (
    (bundle, {"watermark_payload": b"1"}, UserError, "carries no payload; omit"),
    (bundle, {"watermark": 2.0}, UserError, "watermark is 2; a gumbel watermark is 1 or off"),
    (bundle, {"temperature": {"coarse": 0.0}}, UserError, "coarse stage draws nothing at temp"),
    (deeper, {}, ConfigError, "the fine stage cannot carry a gumbel watermark"),
    (parallel, {}, ConfigError, "the parallel stage cannot carry a gumbel watermark"),
  ):
    with pytest.raises(error, match=words):
      options_of(given, settings, watermark_strength(given, settings.get("watermark")))
    off = options_of(given, {"temperature": settings.get("temperature", {})}, 0.0)
    assert all(not options.processors for options in off.stages.values())


@pytest.mark.usefixtures("types_not_checked")
def test_settings_that_do_not_fit_are_refused(marked, miniature_bundle):
  for bundle, settings, words in (
    (miniature_bundle, {"watermark": 2.0}, "miniature has no watermark; make one"),
    (miniature_bundle, {"watermark_key": b"0" * 16}, "so it takes no watermark_key"),
    (marked, {"watermark": "on"}, "watermark is 'on'; give a number from 0 to 100, or \"off\""),
    (marked, {"watermark": -1}, "watermark is -1"),
    (marked, {"watermark_payload": 195}, "watermark_payload is 195; give 1 or 4 bytes"),
    (marked, {"watermark_payload": b"1", "watermark": "off"}, "needs a watermark, and it is off"),
    (miniature_bundle, {"watermark_payload": b"1"}, "needs a watermark, and it is off"),
    (marked, {"watermark_key": "secret"}, "watermark_key is 'secret'; give 16 to 4096"),
  ):
    with pytest.raises(UserError, match=words):
      bundle.continue_audio(melody(1.0), RATE, duration=0.5, **settings)
  with pytest.raises(BundleError, match="has no watermark"):
    miniature_bundle.watermark_detector()
