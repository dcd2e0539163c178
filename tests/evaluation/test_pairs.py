import json

import pytest
import soundfile

from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation import pairs
from tests.conftest import melody

RATE = 16_000
LEXICAL = """id,filename,voice,frequency,word,phones,length,correct
1,aa,A,17,brick,B R IH K,4,1
1,ab,A,,blick,B L IH K,4,0
1,ac,B,17,brick,B R IH K,4,1
1,ad,B,,blick,B L IH K,4,0
2,ae,A,0,zorb,Z AO R B,4,1
2,af,A,,zorp,Z AO R P,4,0
"""
SYNTACTIC = """id,filename,type,subtype,voice,transcription,correct
0,s0,agreement,regular,A,dogs bark,1
0,s1,agreement,regular,A,dogs barks,0
0,s2,binding,case,A,he hurt himself,1
0,s3,binding,case,A,he hurt herself,0
"""


def write(folder, names, suffix=".wav"):
  for i, name in enumerate(names):
    path = folder / f"{name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, melody(0.4 + 0.1 * i, seed=i), RATE)


def test_words_of_zerospeech_are_counted_by_frequency_and_over_voices(tmp_path):
  (tmp_path / "gold.csv").write_text(LEXICAL)
  write(tmp_path, ["aa", "ab", "ac", "ad", "ae", "af"])
  found = pairs.read_pairs(tmp_path)
  assert [(p.id, p.categories) for p in found] == [
    ("//1", ("6-20", pairs.IN_VOCABULARY)),
    ("//1", ("6-20", pairs.IN_VOCABULARY)),
    ("//2", ("oov",)),
  ]
  assert found[1].good.endswith("ac.wav") and found[1].bad.endswith("ad.wav")
  assert pairs.read_pairs(tmp_path / "gold.csv") == found


@pytest.mark.parametrize(
  ("count", "band"),
  [("1", "1-5"), ("5", "1-5"), ("20", "6-20"), ("100", "21-100"), ("101", ">100")],
)
def test_bands_of_frequency_are_those_of_the_benchmark(count, band):
  assert pairs._frequency(count) == (band, pairs.IN_VOCABULARY)


def test_a_frequency_that_is_no_number_is_refused(tmp_path):
  (tmp_path / "gold.csv").write_text(LEXICAL.replace("A,17", "A,often"))
  write(tmp_path, ["aa", "ab", "ac", "ad", "ae", "af"])
  with pytest.raises(DataError, match=r"gold\.csv: the frequency of pair 1 is 'often'"):
    pairs.read_pairs(tmp_path)


def test_sentences_of_zerospeech_are_counted_by_type(tmp_path):
  (tmp_path / "gold.csv").write_text(SYNTACTIC)
  write(tmp_path, ["s0", "s1", "s2", "s3"])
  found = pairs.read_pairs(tmp_path)
  assert [p.categories for p in found] == [("agreement",), ("binding",)]
  assert len({p.id for p in found}) == 2


def test_tasks_of_salmon_are_categories_and_0_is_the_good_one(tmp_path):
  write(tmp_path, ["speaker/sample_10_0", "speaker/sample_10_1", "room/sample_2_0"])
  with pytest.raises(DataError, match="room: sample 2 has only one of its two files"):
    pairs.read_pairs(tmp_path)
  write(tmp_path, ["room/sample_2_1"])
  found = pairs.read_pairs(tmp_path)
  assert [p.id for p in found] == ["room/2", "speaker/10"]
  assert found[1].good.endswith("sample_10_0.wav") and found[1].categories == ("speaker",)


def test_manifests_are_read_and_wrong_ones_are_refused(tmp_path):
  write(tmp_path, ["x", "y"])
  path = tmp_path / "pairs.jsonl"
  path.write_text(json.dumps({"good": "x.wav", "bad": "y.wav", "category": "topic"}) + "\n")
  (found,) = pairs.read_pairs(path)
  assert found == ("1", ("topic",), str(tmp_path / "x.wav"), str(tmp_path / "y.wav"))
  path.write_text(json.dumps({"good": "x.wav", "bad": "gone.wav"}))
  with pytest.raises(DataError, match=r"gone\.wav, which does not exist"):
    pairs.read_pairs(path)
  path.write_text('{"good": "x.wav"}')
  with pytest.raises(DataError, match="line 1: not a JSON object with the fields good and bad"):
    pairs.read_pairs(path)
  (tmp_path / "empty").mkdir()
  with pytest.raises(DataError, match="has no pairs"):
    pairs.read_pairs(tmp_path / "empty")
