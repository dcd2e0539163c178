import json

import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation.clips import load_pieces, speakers_of

RATE = 16_000


@pytest.fixture
def manifest(tmp_path):
  rows = []
  for name, seconds, speaker in (("a", 5, "s"), ("b", 2, "s"), ("c", 3, "t"), ("d", 0.5, "u")):
    level = np.full(round(seconds * RATE), 0.1, np.float32)
    soundfile.write(tmp_path / f"{name}.wav", level, RATE)
    row = {"path": f"{name}.wav", "seconds": seconds, "speaker": speaker, "split": "valid"}
    rows.append(row | ({"sentence": "one"} if name == "a" else {}))
  path = tmp_path / "manifest.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def test_long_clips_are_cut_and_short_pieces_dropped(manifest):
  pieces = load_pieces(manifest, "valid", RATE, piece_seconds=2.0)
  lengths = {piece.id: len(piece.waveform) / RATE for piece in pieces}
  assert lengths == {"a.wav": 2, "a.wav@2": 2, "a.wav@4": 1, "b.wav": 2, "c.wav": 2, "c.wav@2": 1}
  assert {p.id: p.sentence for p in pieces}["a.wav@2"] == "one"


def test_speakers_and_clips_come_before_further_pieces_of_the_same(manifest):
  pieces = load_pieces(manifest, "valid", RATE, piece_seconds=2.0, max_clips=3)
  assert {piece.speaker for piece in pieces[:2]} == {"s", "t"}
  assert len({piece.id.split("@")[0] for piece in pieces}) == 3


def test_the_same_seed_gives_the_same_order(manifest):
  orders = [[p.id for p in load_pieces(manifest, "valid", RATE, seed=seed)] for seed in (1, 1)]
  assert orders[0] == orders[1]


def test_clips_can_be_chosen_by_id(manifest):
  assert [p.id for p in load_pieces(manifest, "valid", RATE, ids={"b.wav"})] == ["b.wav"]


def test_a_missing_split_is_refused(manifest):
  with pytest.raises(DataError, match="probe"):
    load_pieces(manifest, "probe", RATE)


def test_speakers_of_the_training_data_can_be_excluded(manifest):
  assert speakers_of(manifest, "valid") == {"s", "t", "u"}
  pieces = load_pieces(manifest, "valid", RATE, without_speakers={"s"})
  assert [piece.id for piece in pieces] == ["c.wav"]


def test_whole_clips_have_a_text_and_all_clips_a_source(manifest):
  rows = [json.loads(line) | {"source": "people"} for line in manifest.read_text().splitlines()]
  manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
  texts = {"a.wav": "too long", "b.wav": "short"}
  pieces = load_pieces(manifest, "valid", RATE, piece_seconds=2.0, texts=texts)
  assert {piece.id: piece.text for piece in pieces if piece.text} == {"b.wav": "short"}
  assert {piece.source for piece in pieces} == {"people"}
