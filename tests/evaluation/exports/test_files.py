import pytest

from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation.exports.files import names_of


def test_names_stay_in_the_folder_and_keys_have_no_white_space():
  assert names_of(["84/a b.flac", "../../c.wav", "/tmp/d.e.wav"]) == [
    ("84/a b", "84/a_b"),
    ("c", "c"),
    ("tmp/d.e", "tmp/d.e"),
  ]


def test_two_files_of_one_name_are_an_error():
  with pytest.raises(DataError, match=r"a b\.wav and a_b\.flac would both be named a_b"):
    names_of(["a b.wav", "a_b.flac"])
