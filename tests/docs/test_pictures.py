import math
import runpy
from pathlib import Path

from audiolm_jax.sampling.windows import next_window

PICTURES = Path(__file__).parents[2] / "docs/pictures"
DRAWN = runpy.run_path(str(PICTURES / "draw.py"))


def test_the_pictures_are_those_that_the_script_draws():
  for name, draw in DRAWN["PICTURES"].items():
    assert (PICTURES / f"{name}.svg").read_text() == draw(), f"run docs/pictures/draw.py for {name}"


def test_the_windows_drawn_are_those_that_are_planned():
  planned, known = [], 150
  while known < 1000:
    planned.append(next_window(known, total=1000, crop=500, overlap=150))
    known = planned[-1].end
  assert [tuple(frame / 50 for frame in window) for window in planned] == list(DRAWN["WINDOWS"])


def test_the_passes_drawn_mask_as_many_frames_as_planned():
  """With 7 new frames and 3 passes, floor(7 cos(pi i / 6)) stay masked after pass i."""
  masked = [sum(depth == 0 for depth in depths) for _, depths in DRAWN["PASSES"]]
  assert masked[:4] == [7, *(math.floor(7 * math.cos(math.pi * i / 6)) for i in (1, 2)), 0]
