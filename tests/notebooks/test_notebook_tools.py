"""What the notebooks have in common."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import UserError
from tests.conftest import melody

pytest.importorskip("IPython")
PATH = Path(__file__).parents[2] / "notebooks" / "notebook_tools.py"


@pytest.fixture(scope="module")
def tools():
  spec = importlib.util.spec_from_file_location("notebook_tools", PATH)
  module = importlib.util.module_from_spec(spec)  # pyright: ignore[reportArgumentType]: it is not None
  spec.loader.exec_module(module)  # pyright: ignore[reportOptionalMemberAccess]: it is not None
  return module


def test_a_prompt_is_the_beginning_of_a_file_at_the_rate_asked_for(tools, tmp_path):
  soundfile.write(tmp_path / "a.wav", melody(2.0), 16_000)
  waveform = tools.load_prompt(str(tmp_path / "a.wav"), 8_000, seconds=0.5)
  assert waveform.shape == (4_000,) and np.abs(waveform).max() > 0.1


@pytest.mark.parametrize("name", ["upload", "record"])
def test_elsewhere_than_on_colab_a_path_is_asked_for(tools, name):
  with pytest.raises(UserError, match="give the path of a file"):
    tools.load_prompt(name, 16_000, 1.0)


def test_of_a_command_the_lines_asked_for_are_printed(tools, capfd):
  tools.run(["python", "-c", "print('took 3 s'); print('other')"], shown="took")
  assert capfd.readouterr().out == "took 3 s\n"


def test_the_error_of_a_failed_command_has_its_last_lines(tools):
  with pytest.raises(RuntimeError, match="no such bundle here"):
    tools.run(["python", "-c", "raise SystemExit('no such bundle here')"], shown="nothing")


def test_a_player_holds_the_sound_of_the_file(tools, tmp_path, capfd, monkeypatch):
  shown = []
  monkeypatch.setattr(tools, "display", shown.append)
  tools.listen(str(tmp_path / "a.mp3"), melody(1.5), 16_000)
  assert "a.mp3, 1.5 s" in capfd.readouterr().out
  assert shown[0].data == (tmp_path / "a.mp3").read_bytes()
