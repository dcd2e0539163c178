import json

from audiolm_jax.data.manifest import AudioClip
from audiolm_jax.evaluation.transcripts import read_field, read_transcripts, texts_of


def test_texts_and_sentences_come_from_a_manifest(tmp_path):
  rows = [{"path": "a.wav", "sentence": "s1", "text": "One."}, {"path": "b.wav"}]
  (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  assert read_field(tmp_path / "m.jsonl", "sentence") == {"a.wav": "s1"}
  assert read_transcripts(tmp_path / "m.jsonl") == {"a.wav": "One."}
  assert read_field(tmp_path, "sentence") == {}


def test_texts_of_librispeech_and_ljspeech_come_from_their_own_files(tmp_path):
  chapter = tmp_path / "libri" / "103" / "1240"
  chapter.mkdir(parents=True)
  (chapter / "103-1240.trans.txt").write_text("103-1240-0000 CHAPTER ONE\n103-1240-0001 A LADY\n")
  expected = {"103-1240-0000": "CHAPTER ONE", "103-1240-0001": "A LADY"}
  assert read_transcripts(tmp_path / "libri") == expected
  (tmp_path / "lj").mkdir()
  (tmp_path / "lj" / "metadata.csv").write_text("LJ001-0001|in 1455|in fourteen fifty-five\n")
  assert read_transcripts(tmp_path / "lj") == {"LJ001-0001": "in fourteen fifty-five"}


def test_texts_are_found_by_the_id_of_a_clip_or_its_name_without_suffix(tmp_path):
  (tmp_path / "metadata.csv").write_text("a|one|one\nb|two|two\n")
  clips = [AudioClip("wavs/a.wav", "a"), AudioClip("c.wav", "c")]
  assert texts_of(clips, tmp_path) == {"wavs/a.wav": "one"}
