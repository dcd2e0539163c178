"""A bundle that declares what it does not hold, or what no model has, is refused in one line."""

import dataclasses
import json
import os
import typing
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from audiolm_jax.bundles import components, load_bundle, save_bundle
from audiolm_jax.core.errors import BundleError
from audiolm_jax.detection.classifier import ClassifierConfig
from audiolm_jax.detection.watermark import WatermarkConfig
from audiolm_jax.lm.stage import StageSpec
from audiolm_jax.sampling import registry


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
  """A bundle of the current format, made without a compilation."""
  golden = Path(__file__).parents[1] / "golden" / "formats" / "bundle_2"
  return save_bundle(load_bundle(golden), tmp_path_factory.mktemp("valid") / "mini")


@pytest.fixture
def saved(valid, tmp_path):
  """Links to the files of a bundle, which a test replaces."""
  folder = tmp_path / "mini"
  folder.mkdir()
  for path in valid.iterdir():
    (folder / path.name).hardlink_to(path)
  return folder


def replace(path, content):
  path.unlink()
  path.write_bytes(content)


def edit(saved, change):
  manifest = json.loads((saved / "bundle.json").read_text())
  change(manifest)
  replace(saved / "bundle.json", json.dumps(manifest).encode())


def configure(component, **fields):
  return lambda m: m["components"][component]["config"].update(fields)


def specify(stage, **fields):
  return lambda m: m["components"][f"{stage}_stage"]["spec"].update(fields)


def features(**fields):
  return lambda m: m["components"]["semantic"]["config"]["encoder"]["features"].update(fields)


@pytest.mark.parametrize(
  "change, words",
  [
    (configure("coarse_stage", num_layers=10**9), r"num_layers is 1000000000; it must be 1 to 1"),
    (configure("coarse_stage", num_layers=2), r"lacks layers_1/.* which the configuration in"),
    (configure("coarse_stage", num_layers=True), "num_layers is True; it must be a whole number"),
    (configure("coarse_stage", dim=48), r"has embedding of shape \(\d+, 16\), .* needs"),
    (configure("coarse_stage", dim="wide"), "dim is 'wide'; it must be a whole number"),
    (
      configure("coarse_stage", feed_forward="tanh"),
      "feed_forward .tanh. is not one of relu, gelu",
    ),
    (configure("coarse_stage", dtype="object"), "dtype is 'object'; it must be one of"),
    (configure("coarse_stage", dropout_rate=float("nan")), "dropout_rate is nan; it must be"),
    (
      specify("coarse", crop_seconds=1e15),
      r"crop_seconds is 1000000000000000.0; it must be 0.001 to 3_600",
    ),
    (specify("coarse", source=[]), r"source is \[\]; it must be text"),
    (specify("coarse", name="fine"), "the coarse stage has the spec of 'fine'"),
    (features(fft_length=2**40), "fft_length is 1099511627776; it must be 1 to 16_384"),
    (features(num_mels=10**4000), r"num_mels is 1000\d+\.\.\. \(4001 characters\); it must be"),
    (configure("codec", kernel_size=-7), "kernel_size is -7; it must be 1 to 4_096"),
    (configure("codec", strides=[2, 4, 5, 0]), r"strides\[3\] is 0; it must be 1 to 4_096"),
    (configure("codec", strides=[1] * 999), r"it must be a list of up to 256"),
    (lambda m: m["temperatures"].update(coarse="hot"), "'hot'; it must be a number"),
    (lambda m: m["temperatures"].update(coarse=-1), "it must be 0.0 to 100.0"),
    (lambda m: m.update(sample_rate=8000), "states 8000 Hz, its codec runs at 16000 Hz"),
    (lambda m: m["stages"][0].update(name="../semantic"), "is called '../semantic'; use letters"),
    (lambda m: m["stages"][0].update(name="coarse"), "several stages have the same name"),
    (lambda m: m.update(format_version=2), "the stage {'name': 'semantic', .* describes otherwise"),
    (lambda m: m.update(stages=["semantic"]), "the stage 'semantic', which its format version 3"),
    (lambda m: m["stages"][0].update(kind="telepathic"), "no stage is of the kind 'telepathic'"),
    (lambda m: m["components"].update({"/etc/passwd": {}}), "is called '/etc/passwd'"),
    (lambda m: m.update(name="\x1b[2J"), "use at most 256 printable characters"),
    (lambda m: m.update(name="\ud800"), "half of a surrogate pair"),
    (lambda m: m["metadata"].update(a=json.loads("[" * 99 + "]" * 99)), "levels deep"),
  ],
)
def test_a_description_that_no_bundle_can_have_is_refused(saved, change, words):
  edit(saved, change)
  with pytest.raises(BundleError, match=words) as caught:
    load_bundle(saved)
  assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def tensors(change):
  def changed(path):
    flat = safetensors.numpy.load_file(path)
    change(flat)
    replace(path, safetensors.numpy.save(flat))

  return changed


def header(text):
  """Replaces the header of a file."""

  def changed(path):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    replace(path, len(text).to_bytes(8, "little") + text + content[8 + length :])

  return changed


def fifo(path):
  path.unlink()
  os.mkfifo(path)


@pytest.mark.parametrize(
  "change, words",
  [
    (tensors(lambda f: f.update(codebooks=f["codebooks"] * np.nan)), "codebooks has a weight that"),
    (tensors(lambda f: f["codebooks"].put(7, np.inf)), "codebooks has a weight that is not finite"),
    (tensors(lambda f: f.pop("codebooks")), r"lacks codebooks of shape \(4, 16, 8\)"),
    (tensors(lambda f: f.update(more=np.zeros(1, "f"))), "'more', which its configuration does"),
    (tensors(lambda f: f.update(codebooks=f["codebooks"][:, :8])), r"of shape \(4, 8, 8\), the"),
    (tensors(lambda f: f.update(codebooks=f["codebooks"].astype(int))), "codebooks of type I64"),
    (tensors(lambda f: f.update(codebooks=f["codebooks"].astype("i1"))), "codebooks of type I8"),
    (header(b"[" * 5000), "nested too deeply|not JSON|levels deep"),
    (header(b'{"codebooks": {"dtype": "F32", "shape": [-1]}}'), "codec.safetensors is damaged"),
    (header(b"[]"), "codec.safetensors is damaged"),
    (lambda p: replace(p, (2**60).to_bytes(8, "little") + b"{}"), "its header would have"),
    (fifo, "codec.safetensors is missing"),
  ],
)
def test_arrays_that_do_not_fit_the_description_are_refused(saved, change, words):
  change(saved / "codec.safetensors")
  with pytest.raises(BundleError, match=words) as caught:
    load_bundle(saved)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["bundle.json", "MODEL_CARD.md"])
def test_files_that_are_not_regular_or_too_large_are_refused(saved, name):
  fifo(saved / name)
  with pytest.raises(BundleError, match=r"not a bundle|it is not a regular file"):
    load_bundle(saved)
  (saved / name).unlink()
  with open(saved / name, "wb") as file:
    file.truncate(1 << 30)
  with pytest.raises(BundleError, match="more than"):
    load_bundle(saved)


def test_verify_and_info_report_a_bundle_that_declares_too_much(saved, run_cli):
  edit(saved, configure("coarse_stage", num_layers=10**9))
  done = run_cli("bundles.__main__", "verify", saved)
  assert done.code == 1 and "num_layers is 1000000000" in done.out and "intact" not in done.out
  edit(saved, lambda m: m.update(metadata={"data": [7, "\x1b[2J", {"hours": []}], "licence": 5}))
  done = run_cli("bundles.__main__", "info", saved)
  assert done.code == 0 and "\x1b" not in done.out


def classes():
  """The configurations that a bundle can contain."""
  for name, kinds in components.TOKENIZERS.items():
    for kind in kinds:
      yield components.tokenizer_classes(name, kind)[0]
  yield ClassifierConfig
  yield WatermarkConfig
  for kind in ("autoregressive",):
    spec = registry.spec_class({"kind": kind})
    yield from (spec, spec.config_class())


def unlimited(cls):
  """The fields with numbers that have no range, also those of nested configurations."""
  for field, hint in typing.get_type_hints(cls, include_extras=True).items():
    if field not in {f.name for f in dataclasses.fields(cls)}:
      continue
    for part in (hint, *typing.get_args(hint)):
      if isinstance(part, type) and dataclasses.is_dataclass(part):
        yield from unlimited(part)
      elif part in (int, float) and typing.get_origin(hint) is not typing.Annotated:
        yield f"{cls.__name__}.{field}"


def test_every_number_of_a_configuration_has_a_range():
  found = {name for cls in classes() for name in unlimited(cls)}
  assert found == {"LogMelConfig.mean"}  # any number of decibels


def test_every_configuration_computes_its_shapes_without_a_network():
  for cls in classes():
    if not issubclass(cls, StageSpec):
      assert "parameter_shapes" in {name for base in cls.__mro__ for name in vars(base)}, cls


def test_a_bundle_that_could_not_be_read_again_is_not_written(valid, tmp_path):
  bundle = load_bundle(valid)
  codec = type(bundle.codec)(
    dataclasses.replace(bundle.codec.config, dilations=(1, 3, 10**6)),  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]: this bundle's codec has it
    bundle.codec.params,  # pyright: ignore[reportAttributeAccessIssue]: this bundle's codec has it
  )
  for changed, words in (
    (dataclasses.replace(bundle, name="\x1b"), "use at most 256 printable characters"),
    (dataclasses.replace(bundle, codec=codec), r"dilations\[2\] is 1000000; it must"),
    (dataclasses.replace(bundle, temperatures={"coarse": -1.0}), "it must be 0.0 to 100.0"),
  ):
    with pytest.raises(BundleError, match=words):
      save_bundle(changed, tmp_path / "new")
    assert not list(tmp_path.iterdir())
