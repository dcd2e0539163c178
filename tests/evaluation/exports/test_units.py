import json

import numpy as np
import pytest

from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation.abx import PhoneItem
from audiolm_jax.evaluation.exports import units
from audiolm_jax.evaluation.suites.content import features_of
from tests.conftest import melody


def item(onset: float, offset: float, phone: str = "a", file: str = "one") -> PhoneItem:
  return PhoneItem(file, onset, offset, phone, ("x", "y"), "s")


@pytest.mark.parametrize(
  ("onset", "offset", "rate", "frames"),
  [
    (0.2925, 0.4725, 50.0, range(15, 24)),
    (0.0, 0.57, 50.0, range(29)),  # 0.57 * 50 is less than 28.5 in binary
    (0.01, 0.01, 50.0, range(1)),  # both ends belong to an item
    (0.1, 0.1016, 86.1328125, range(9, 9)),
  ],
)
def test_an_item_has_the_frames_whose_middles_are_in_it(onset, offset, rate, frames):
  assert units._frames(item(onset, offset), rate) == frames


def test_what_is_written_has_frames_for_every_item(miniature_bundle, tmp_path):
  sound = melody(1.23)
  items = [item(0.1, 0.35), item(0.3, 0.301, "short"), item(0.9, 1.27, "b"), item(0.0, 0.3, "c")]
  facts = units.export_units(
    miniature_bundle, items, lambda _: ("d/one.flac", sound), str(tmp_path)
  )
  assert (facts["items"], facts["items_without_a_frame"]) == (3, 1)

  lines = (tmp_path / "items.item").read_text().splitlines()
  assert lines[0] == "#file onset offset #phone prev-phone next-phone speaker"
  assert lines[1:] == ["one 0.1 0.35 a x y s", "one 0.9 1.27 b x y s", "one 0 0.3 c x y s"]

  tokens, features = features_of(miniature_bundle, sound)
  row = json.loads((tmp_path / "units.jsonl").read_text())
  assert row["audio"] == "d/one.flac"
  assert row["units"][: len(tokens)] == tokens.tolist()
  assert set(facts["frequencies"]) == {"semantic_tokens", "acoustic_codes_4_levels"}
  for name, found in zip(facts["frequencies"], features.values(), strict=True):
    written = np.load(tmp_path / name / "one.npy")
    assert written.dtype == np.float32
    np.testing.assert_array_equal(written[: len(found.frames)], found.frames)
    assert float(facts["frequencies"][name]) == found.frame_rate
    # The second item ends one or two frames after the last one.
    assert len(written) > len(found.frames)
    assert len(written) == units._frames(items[2], found.frame_rate).stop
    np.testing.assert_array_equal(written[-1], found.frames[-1])


def test_items_of_another_file_are_an_error(miniature_bundle, tmp_path):
  read = lambda _: ("one.wav", melody(1.0))  # noqa: E731
  with pytest.raises(DataError, match=r"ends at 3 s, after the end of the file at 1\.00 s"):
    units.export_units(miniature_bundle, [item(0.1, 3.0)], read, str(tmp_path))
  with pytest.raises(DataError, match="every item is shorter than a frame"):
    units.export_units(miniature_bundle, [item(0.1, 0.1001)], read, str(tmp_path))
