import matplotlib.image
import numpy as np

from audiolm_jax.evaluation.plots import save_spectrogram_grid


def test_grid_is_a_picture_with_a_white_line_where_the_prompt_ends(tmp_path):
  rng = np.random.default_rng(0)
  clips = [0.01 * rng.standard_normal(n).astype(np.float32) for n in (16_000, 24_000, 20_000)]
  with_line, without = tmp_path / "a.png", tmp_path / "b.png"
  save_spectrogram_grid(with_line, clips, 16_000, titles=list("abc"), prompt_seconds=0.5)
  save_spectrogram_grid(without, clips, 16_000, titles=list("abc"))
  one, other = (matplotlib.image.imread(p)[..., :3] for p in (with_line, without))
  assert one.shape == other.shape
  assert one.shape[0] > 200 and one.shape[1] > 800
  changed = np.abs(one - other).sum(axis=-1) > 0.1
  assert changed.any()
  assert len(np.flatnonzero(changed.any(axis=0))) < 30  # three lines of two columns, thin
