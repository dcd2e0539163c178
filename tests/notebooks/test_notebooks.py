"""The notebooks run from top to bottom with less of everything, and are worth a look as stored."""

import ast
import base64
import importlib.util
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiolm_jax import bundles
from tests.conftest import MINIATURE_CODEC, MINIATURE_ENCODER

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
Image = pytest.importorskip("PIL.Image")

CHECKOUT = Path(__file__).parents[2]
FOLDER = CHECKOUT / "notebooks"


def tool(name):
  """A module of notebooks/, which is no package."""
  spec = importlib.util.spec_from_file_location(f"notebooks_{name}", FOLDER / f"{name}.py")
  module = importlib.util.module_from_spec(spec)  # pyright: ignore[reportArgumentType]: it is not None
  spec.loader.exec_module(module)  # pyright: ignore[reportOptionalMemberAccess]: it is not None
  return module


RUN = tool("run")
LARGEST = 2.5e6  # bytes of a stored notebook
SHORT = ["BATCH_SIZE=2", "LOG_PERIOD=2", "EVAL_PERIOD=6", "EVAL_STEPS=1"]
SMALL_STAGE = [
  *SHORT,
  "WARMUP_STEPS=2",
  "trainer.TrainConfig.tensorboard=False",
  "transformer.TransformerConfig.num_layers=1",
  "transformer.TransformerConfig.dim=16",
  "transformer.TransformerConfig.mlp_dim=32",
]
SMALL = {
  "codec": [
    *SHORT,
    *MINIATURE_CODEC,
    "QUANTIZER_START_STEP=2",
    "generator/optimizers.OptimizerConfig.warmup_steps=2",
  ],
  "semantic": [*SHORT, "WARMUP_STEPS=2", *MINIATURE_ENCODER],
  **dict.fromkeys(("semantic_stage", "coarse_stage", "fine_stage"), SMALL_STAGE),
}
OVERRIDES = [f"{step}:--gin.{binding}" for step, all_of in SMALL.items() for binding in all_of]
OVERRIDES += ["kmeans:--layer=2", "kmeans:--num_clusters=8"]

# Replaces the values in the cell of settings.
REDUCED = {
  "1_continue": """
PROMPT = None
BUNDLE = "speech"
PROMPT_SECONDS = 1.0
DURATION = 1.0
SEED = 0
TEMPERATURES = (0.5, 1.0)
""",
  "2_train": f"""
RECORDINGS = None
PRESET = "tiny"
STEPS = {dict.fromkeys(SMALL, 6)}
OVERRIDES = {OVERRIDES}
MELODIES = 4
PROMPT_SECONDS = 1.0
DURATION = 1.0
""",
  "3_measure_and_detect": """
BUNDLE = "speech"
DATA = None
SUITES = ("codec", "detection")
SPEEDS = (1.0,)
""",
  "4_inside": """
SOUND = None
BUNDLE = "speech"
SECONDS = 1.0
MADE_SECONDS = 6.0
""",
  "5_speak": """
TEXT = "Good morning."
VOICE = None
BUNDLE = "speech"
PROMPT_SECONDS = 1.0
SEED = 0
RATES = (1.25,)
""",
}
LEAST = {  # sounds and pictures that a reader gets
  "1_continue": (8, 6),
  "2_train": (4, 4),
  "3_measure_and_detect": (2, 3),
  "4_inside": (7, 8),
  "5_speak": (5, 2),
}


def read(name):
  return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def tagged(notebook, tag):
  (cell,) = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", ())]
  return cell


def assigned(source):
  return {node.targets[0].id for node in ast.parse(source).body if isinstance(node, ast.Assign)}  # pyright: ignore[reportAttributeAccessIssue]: they assign names


def outputs(notebook):
  return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def sounds(notebook):
  """Each player's samples and rate."""
  found = []
  for output in outputs(notebook):
    html = output.get("data", {}).get("text/html", "")
    for encoded in re.findall(r"data:audio/\w+;base64,([^\"]+)", html):
      found.append(soundfile.read(io.BytesIO(base64.b64decode(encoded))))
  return found


def pictures(notebook):
  encoded = [output.get("data", {}).get("image/png") for output in outputs(notebook)]
  return [
    np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB"))
    for one in encoded
    if one
  ]


def texts(notebook, kind="text/markdown"):
  """All that is printed, and what is shown of one kind."""
  return "\n".join(o.get("text", "") + o.get("data", {}).get(kind, "") for o in outputs(notebook))


def check_sounds_and_pictures(notebook, name):
  clips, images = sounds(notebook), pictures(notebook)
  assert len(clips) >= LEAST[name][0] and len(images) >= LEAST[name][1]
  for waveform, rate in clips:
    assert len(waveform) >= 0.9 * rate and np.isfinite(waveform).all()
    assert np.sqrt(np.mean(waveform**2)) > 1e-3
  assert all(picture.std() > 5 for picture in images)
  assert [o for o in outputs(notebook) if o.get("name") == "stderr"] == []


@pytest.fixture
def executed(tmp_path):
  """Runs a notebook in the reduced setting, in a folder of its own."""

  def run(name):
    notebook = read(name)
    settings = tagged(notebook, "parameters")
    assert assigned(settings.source) == assigned(REDUCED[name]), "a setting has no reduced value"
    settings.source = REDUCED[name].strip()
    for cell in notebook.cells:
      cell.get("outputs", []).clear()
    RUN.execute(notebook, tmp_path)
    assert not (tmp_path / "audiolm_jax_checkout").exists(), "installed a package that is installed"
    check_sounds_and_pictures(notebook, name)
    return notebook

  return run


def test_the_notebook_that_continues_runs(executed, tmp_path):
  notebook = executed("1_continue")
  lengths = [len(waveform) / rate for waveform, rate in sounds(notebook)]
  assert lengths[0] == pytest.approx(1.0, abs=0.1) and lengths[1] == pytest.approx(2.0, abs=0.1)
  assert "different codes of the first level in 50 frames" in texts(notebook)
  assert "Provenance(bundle='speech'" in texts(notebook, "text/plain")


@pytest.mark.slow
def test_the_notebook_that_trains_makes_a_bundle(executed, tmp_path):
  notebook = executed("2_train")
  made = bundles.load_bundle(tmp_path / "my_bundle")
  assert list(made.stages) == ["semantic", "coarse", "fine"]
  assert made.codec.spec.codebook_size == 16
  shown = texts(notebook)
  assert shown.count("took ") == 9 and "NaN" not in shown and "nan" not in shown


@pytest.mark.slow
def test_the_notebook_that_measures_has_figures_and_classifies_samples_and_recordings(executed):
  shown = texts(executed("3_measure_and_detect"))
  stoi = {int(k): float(v) for k, v in re.findall(r"\| STOI, (\d+) levels \| ([\d.]+) \|", shown)}
  assert 0 < stoi[1] < stoi[12] < 1
  assert re.search(r"\| accuracy, 1 s \| [\d.]+ \|", shown)
  assert re.search(r"classified as synthetic: continuation, (woman|man)", shown)


def test_the_notebook_of_the_inside_runs(executed):
  shown = texts(executed("4_inside"))
  assert "25 semantic tokens, (50, 12) acoustic codes" in shown
  kept = {k: int(v) for k, v in re.findall(r"^  (\w[\w ]+\w) +\d+ +(\d+)$", shown, re.MULTILINE)}
  assert kept["through the codec"] > 50 > 10 > kept["by chance"]


def test_the_notebook_that_speaks_runs(executed):
  shown = texts(executed("5_speak"))
  (seconds,) = re.findall(r"^13 characters, ([\d.]+) s$", shown, re.MULTILINE)
  (fast,) = re.findall(r"^  rate 1.25: ([\d.]+) s$", shown, re.MULTILINE)
  assert 1.0 < float(fast) < float(seconds)


@pytest.mark.parametrize("name", RUN.NAMES)
def test_a_stored_notebook_was_run_and_can_be_looked_at(name):
  notebook = read(name)
  assert (FOLDER / f"{name}.ipynb").stat().st_size < LARGEST
  counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
  assert counts == list(range(1, len(counts) + 1)), "run it: python notebooks/run.py"
  check_sounds_and_pictures(notebook, name)


@pytest.mark.parametrize("name", RUN.NAMES)
def test_a_stored_notebook_names_nothing_of_the_machine_that_ran_it(name):
  notebook = read(name)
  assert set(notebook.metadata) == {"kernelspec", "language_info"}
  assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
  shown = texts(notebook, "text/plain") + texts(notebook)
  assert not re.search(
    r"(?<!\w)/(tmp|root|home|data|work|usr|mnt|var)\b|[Ww]arning(?!s: none)", shown
  )


@pytest.mark.parametrize("name", RUN.NAMES)
def test_badge_installation_and_links_are_of_the_repository_of_the_package(name):
  notebook = read(name)
  address = RUN.repository()
  colab = address.replace("https://github.com", "https://colab.research.google.com/github")
  assert f"]({colab}/blob/main/notebooks/{name}.ipynb)" in notebook.cells[0].source
  assert f'REPOSITORY = "{address}"' in tagged(notebook, "install").source
  for cell in notebook.cells:
    for link in re.findall(r"\]\((https?://[^)]+)\)", cell.source):
      if "assets/colab-badge" in link or "doi.org" in link:
        continue
      assert link.startswith((address, colab)), link
      path = link.removeprefix(address).removeprefix(colab).removeprefix("/blob/main/")
      assert (CHECKOUT / path.partition("#")[0]).exists(), link


def test_all_notebooks_install_in_the_same_way():
  found = {re.sub(r'\["[\w", ]+", \*', "[*", tagged(read(n), "install").source) for n in RUN.NAMES}
  assert len(found) == 1


def test_a_fork_names_its_repository_everywhere(tmp_path, monkeypatch):
  shutil.copytree(FOLDER, tmp_path / "notebooks")
  shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
  monkeypatch.setattr(RUN, "CHECKOUT", tmp_path)
  monkeypatch.setattr(RUN, "FOLDER", tmp_path / "notebooks")
  old = RUN.repository()
  RUN.name_repository("someone/fork")
  assert RUN.repository() == "https://github.com/someone/fork"
  for name in RUN.NAMES:
    text = (tmp_path / "notebooks" / f"{name}.ipynb").read_text()
    assert old not in text and text.count("someone/fork") >= 3


def test_what_differs_from_machine_to_machine_is_left_out(tmp_path):
  printed = nbformat.v4.new_output("stream", name="stdout", text=f"wrote {tmp_path}/a.wav\n")
  cell = nbformat.v4.new_code_cell("1", metadata={"scrolled": True, "tags": ["install"]})
  cell.outputs = [printed]
  notebook = RUN.clean(nbformat.v4.new_notebook(cells=[cell]), tmp_path)
  assert notebook.cells[0].outputs[0].text == "wrote a.wav\n"
  assert notebook.cells[0].metadata == {"tags": ["install"]}


def test_a_warning_is_not_stored_in_silence(tmp_path):
  cell = nbformat.v4.new_code_cell("1")
  cell.outputs = [nbformat.v4.new_output("stream", name="stderr", text="careful")]
  with pytest.raises(ValueError, match="careful"):
    RUN.clean(nbformat.v4.new_notebook(cells=[cell]), tmp_path)
