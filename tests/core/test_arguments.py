"""Values of any type that callers and browsers give."""

import pathlib

import numpy as np
import pytest

from audiolm_jax.core import arguments
from audiolm_jax.core.errors import UserError
from audiolm_jax.core.ranges import Range

TEN = Range(0, 10)


@pytest.mark.parametrize("value", [3, 3.0, np.int64(3), np.uint8(3), np.float32(3), np.array(3)])
def test_whole_numbers_of_every_type_become_ints(value):
  found = arguments.whole(value, "seed", TEN)
  assert found == 3 and type(found) is int
  assert type(arguments.number(value, "duration", TEN)) is float


ODD = [None, True, "7", "", b"7", [3], {}, np.array([3]), float("nan"), float("inf"), 10**400, -1]


@pytest.mark.parametrize("value", [*ODD, 2.5, 1e300, 3j, np.nan, np.array("3"), object()])
def test_everything_else_is_refused_in_one_line_with_the_value_and_the_range(value):
  with pytest.raises(UserError, match=r"^seed is .*; give a whole number from 0 to 10$") as caught:
    arguments.whole(value, "seed", TEN)
  assert len(str(caught.value)) < 160


@pytest.mark.parametrize("value", ODD)
def test_a_number_is_finite_and_in_its_range(value):
  with pytest.raises(UserError, match=r"^duration is .*; give a number from 0 to 10, or None$"):
    arguments.number(value, "duration", TEN, "None")


@pytest.mark.parametrize("value", [None, "a.wav", ["a"], [[1, 2], [1]], {1}, object(), [None]])
def test_what_is_no_array_of_numbers_is_refused(value):
  with pytest.raises(UserError, match=r"^codes (is|is no array) .*; give integers$"):
    arguments.array(value, "codes", "integers")


def test_paths_and_collections_of_names():
  assert arguments.path(pathlib.Path("a"), "folder", "a folder") == "a"
  for value in (None, 5, ["a"], "", b"a"):
    with pytest.raises(UserError, match=r"^folder is .*; give a folder$"):
      arguments.path(value, "folder", "a folder")
  assert arguments.names({"a": 1}.keys(), "stages", "names") == ("a",)
  for value in ("semantic", 3, [1], {"a": 1}):
    with pytest.raises(UserError, match=r"^stages is .*; give names$"):
      arguments.names(value, "stages", "names")
