"""How long clips are cut."""

import itertools

import pytest

from audiolm_jax.sampling.windows import Window, next_window, steps_of_frames


def plan_windows(known, total, **settings):
  """All windows that lead from `known` frames to `total`."""
  windows = []
  while known < total:
    windows.append(next_window(known, total, **settings))
    known = windows[-1].end
  return tuple(windows)


def test_windows_of_the_example():
  assert plan_windows(150, 1000, crop=500, overlap=150) == (
    Window(0, 150, 500),
    Window(350, 500, 850),
    Window(500, 850, 1000),
  )


@pytest.mark.parametrize("align", [1, 2, 3])
@pytest.mark.parametrize("known", [0, 1, 7, 20, 33])
@pytest.mark.parametrize("total", [34, 35, 60, 101])
def test_windows_fit_the_crop_overlap_and_reach_the_end(known, total, align):
  windows = plan_windows(known, total, crop=20, overlap=6, align=align)
  assert windows[0].known == known
  assert windows[-1].end == total
  for window in windows:
    assert window.end - window.start <= 20
    assert window.start % align == 0
    assert window.start <= window.known < window.end
    assert window.known - window.start >= min(6, window.known)
  for before, after in itertools.pairwise(windows):
    assert before.end == after.known


def test_a_clip_within_the_crop_is_one_window():
  assert plan_windows(150, 500, crop=500, overlap=150, align=2) == (Window(0, 150, 500),)


def test_steps_cover_the_frames():
  assert steps_of_frames(0, 7, 10.0, 5.0) == slice(0, 4)
  assert steps_of_frames(6, 20, 10.0, 5.0) == slice(3, 10)
  assert steps_of_frames(1, 2, 12.5, 25.0) == slice(2, 4)


def test_a_window_of_a_clip_without_a_length_has_all_the_frames_that_it_may():
  assert next_window(150, None, crop=500, overlap=150) == Window(0, 150, 500)
  assert next_window(500, None, crop=500, overlap=150) == Window(350, 500, 850)
