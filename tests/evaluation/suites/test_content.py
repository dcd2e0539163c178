import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation.abx import PhoneItem
from audiolm_jax.evaluation.suites import content

RATE = 16_000
PITCH = {"a": 220.0, "b": 440.0}


@pytest.fixture(scope="module")
def spoken():
  """Notes of 0.2 s for phones, by two "speakers" of other overtones, and their items."""
  rng = np.random.default_rng(0)
  waveforms, items = {}, []
  for speaker in ("one", "two"):
    phones = [str(p) for p in rng.permutation(list("ab" * 5))]
    time = np.arange(round(0.2 * RATE)) / RATE
    notes = [np.sin(2 * np.pi * PITCH[p] * time) for p in phones]
    if speaker == "two":
      notes = [n + 0.3 * np.sin(2 * np.pi * 1_500 * time) for n in notes]
    waveforms[speaker] = (0.3 * np.concatenate(notes)).astype(np.float32)
    for i, phone in enumerate(phones):
      items.append(PhoneItem(speaker, 0.2 * i, 0.2 * (i + 1), phone, ("x", "y"), speaker))
  return waveforms, items


def test_both_streams_are_measured_within_and_across(miniature_bundle, spoken):
  waveforms, items = spoken
  result = content.content_suite(miniature_bundle, items, waveforms.__getitem__, coarse_levels=2)
  values = {row.figure: row.estimate for row in result.rows}
  assert set(values) == {
    *(
      f"ABX error {kind} speakers, {name}"
      for kind in ("within", "across")
      for name in ("semantic tokens", "acoustic codes, 2 levels", "acoustic codes, 4 levels")
    ),
    *("PNMI of phones and semantic tokens", "cluster purity", "phone purity"),
  }
  # Codebooks that were fitted to melodies distinguish notes an octave apart.
  assert values["ABX error within speakers, acoustic codes, 4 levels"].value < 0.2
  assert 0 < values["PNMI of phones and semantic tokens"].value < 1
  assert result.details["items"] == 20


def test_files_are_found_by_name_and_missing_ones_are_an_error(tmp_path):
  (tmp_path / "deep").mkdir()
  soundfile.write(tmp_path / "deep" / "one.flac", np.zeros(10), RATE)
  read = content.reader_of(str(tmp_path), lambda path: path)
  assert read("one").endswith("deep/one.flac")
  with pytest.raises(DataError, match="name two, and"):
    read("two")
