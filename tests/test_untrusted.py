"""Any bytes, any JSON and any small change of a valid file give an object or one line.

The number of examples of each of the four tests is AUDIOLM_JAX_EXAMPLES, 50 by default:

  AUDIOLM_JAX_EXAMPLES=5000 pytest -n 0 tests/test_untrusted.py

prints the progress. Every run has other examples, which --hypothesis-seed repeats, so that runs of
500 examples or of one kind of file (-k bundle) are pieces of a long one.
"""

import collections
import dataclasses
import gc
import json
import os
import resource
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audiolm_jax.bundles import load_bundle, save_bundle
from audiolm_jax.core.errors import UserError
from audiolm_jax.core.streams import Stream
from audiolm_jax.data import manifest, token_shards, token_store
from audiolm_jax.detection.watermark import Watermark, WatermarkConfig
from audiolm_jax.io import token_file

EXAMPLES = int(os.environ.get("AUDIOLM_JAX_EXAMPLES", "50"))
examples = settings(
  max_examples=EXAMPLES,
  deadline=None,
  database=None,
  derandomize=EXAMPLES == 50,
  suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]: a class of checks
)
SECONDS, BYTES = 2.0, 1 << 30

texts = st.one_of(
  st.text(max_size=8), st.sampled_from(["\ud800", "\udce9", "../x", "x" * 5000, "\x1b[2J"])
)
numbers = st.one_of(
  st.integers(-3, 3),
  st.floats(),
  st.sampled_from([10**9, -(10**9), 2**40, 10**15, 10**400, 1e300, 1e-300, 0.5]),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
  scalars,
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
  max_leaves=6,
)
nested = st.integers(1, 3000).map(lambda depth: "[" * depth + "]" * depth)


def paths(value, prefix=()):
  """The places of all values in a JSON value."""
  yield prefix
  items = list(value.items()) if isinstance(value, dict) else []
  for key, inner in [*enumerate(value)] if isinstance(value, list) else items:
    yield from paths(inner, (*prefix, key))


@st.composite
def changed_json(draw, content):
  """A JSON text in which one value is replaced, removed or doubled, or any other JSON text."""
  kind = draw(st.sampled_from(["value", "value", "value", "remove", "name", "any", "deep"]))
  if kind == "deep":
    return draw(nested).encode()
  if kind == "any":
    return json.dumps(draw(values)).encode()
  value = json.loads(content)
  *parents, last = draw(st.sampled_from([path for path in paths(value) if path]))
  node = value
  for key in parents:
    node = node[key]
  if kind == "value":
    node[last] = draw(values)
  elif kind == "remove":
    del node[last]
  elif isinstance(node, dict):
    node[draw(texts)] = node.pop(last)
  return json.dumps(value).encode()


@st.composite
def changed_bytes(draw, content):
  """Content with a few changed bytes, a part that is removed or repeated, or any bytes."""
  kind = draw(st.sampled_from(["flip", "flip", "flip", "cut", "remove", "repeat", "any"]))
  places = st.integers(0, max(len(content) - 1, 0))
  if kind == "any" or not content:
    return draw(st.binary(max_size=64))
  a, b = sorted((draw(places), draw(places)))
  if kind == "cut":
    return content[:a]
  if kind == "remove":
    return content[:a] + content[b:]
  if kind == "repeat":
    return content[:b] + content[a:]
  changed = bytearray(content)
  # Half of the changes are in the first bytes, where headers are.
  for _ in range(draw(st.integers(1, 3))):
    at = draw(st.one_of(places, st.integers(0, min(len(content) - 1, 400))))
    changed[at] = draw(st.integers(0, 255))
  return bytes(changed)


def assert_object_or_one_line(read):
  """Calls a reader, which returns or raises the project's own error within limits.

  Returns "read" or "refused", and the seconds that the reader took, without those of other threads
  and of collecting what earlier tests left.
  """
  gc.disable()
  before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.thread_time()
  outcome = "read"
  try:
    read()
  except UserError as error:
    outcome, message = "refused", str(error)
    assert message and "\n" not in message and len(message) < 2000
    message.encode("utf-8", "surrogateescape")
  finally:
    gc.enable()
  seconds = time.thread_time() - started
  assert seconds < SECONDS
  assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES
  return outcome, seconds


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """A bundle, a token file, a token store and a manifest, each in a folder that tests change."""
  folder = tmp_path_factory.mktemp("valid")
  golden = Path(__file__).parent / "golden" / "formats" / "bundle_2"
  mark = Watermark(WatermarkConfig(2, 16, "0" * 32), np.tile(np.arange(16), (2, 1)))
  save_bundle(dataclasses.replace(load_bundle(golden), watermark=mark), folder / "bundle")
  streams = {"semantic": Stream("semantic", 16, 25.0), "codes": Stream("codes", 16, 50.0, 4)}
  rng = np.random.default_rng(0)
  tokens = {"semantic": rng.integers(0, 16, 25), "codes": rng.integers(0, 16, (50, 4))}
  (folder / "tokens").mkdir()
  written = token_file.TokenFile(tokens, streams, 16_000, "miniature", "0123456789abcdef")
  token_file.save_tokens(folder / "tokens" / "a.npz", written)
  writer = token_store.TokenStoreWriter(folder / "store", "hash", streams=streams.values())
  for number in range(3):
    writer.add(token_shards.TokenClip(f"clip {number}", tokens, seconds=1.0))
  writer.finish()
  (folder / "rows").mkdir()
  row = {"path": "a.wav", "split": "train", "speaker": "s", "seconds": 1.5, "label": "real"}
  (folder / "rows" / "a.jsonl").write_text(json.dumps(row))
  return folder


def read(folder):
  kind = folder.name
  if kind == "bundle":
    load_bundle(folder)
  elif kind == "store":
    token_store.TokenStore(folder, "hash").clips()
  elif kind == "tokens":
    token_file.load_tokens(folder / "a.npz")
  else:
    manifest.list_clips(folder / "a.jsonl")


def repacked(path, data):
  """An npz file with one array whose bytes are changed, and the sums of a zip file renewed."""
  with zipfile.ZipFile(path) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}
  name = data.draw(st.sampled_from(sorted(members)))
  members[name] = data.draw(changed_bytes(members[name]))
  target = path.with_suffix(".new")
  with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
    for other, content in members.items():
      archive.writestr(other, content)
  content = target.read_bytes()
  target.unlink()
  return content


# A thread of an earlier test may draw from `random` while Hypothesis draws, which then warns.
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.parametrize("kind", ["bundle", "store", "tokens", "rows"])
def test_changed_files_give_an_object_or_one_line(folders, tmp_path_factory, kind, capsys):
  folder = shutil.copytree(folders / kind, tmp_path_factory.mktemp("changed") / kind)
  read(folder)  # the first call imports modules
  names = sorted(path.name for path in folder.iterdir())
  counts, slowest = collections.Counter(), 0.0

  @examples
  @given(st.data())
  def run(data):
    nonlocal slowest
    path = folder / data.draw(st.sampled_from(names))
    content = path.read_bytes()
    is_json = path.suffix in (".json", ".jsonl")
    if is_json and data.draw(st.integers(0, 3)):
      changed = data.draw(changed_json(content))
    elif path.suffix == ".npz" and data.draw(st.booleans()):
      changed = repacked(path, data)
    else:
      changed = data.draw(changed_bytes(content))
    path.write_bytes(changed)
    try:
      outcome, seconds = assert_object_or_one_line(lambda: read(folder))
    finally:
      path.write_bytes(content)
    counts[outcome] += 1
    slowest = max(slowest, seconds)
    if counts.total() % 250 == 0:
      with capsys.disabled():
        print(f"\n{kind}: {counts.total()} of {EXAMPLES}, {dict(counts)}, slowest {slowest:.2f} s")

  run()
  assert len(counts) == 2, counts
