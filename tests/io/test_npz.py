"""Arrays of a file that anybody may have written: what they declare is what they hold."""

import io
import zipfile

import numpy as np
import pytest

from audiolm_jax.io import npz


def stored(**arrays):
  file = io.BytesIO()
  np.savez_compressed(file, **arrays)
  return file


def zipped(**members):
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, content in members.items():
      archive.writestr(f"{name}.npy", content)
  return file


def header(shape, descr="<i4", data=b""):
  text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
  text += b" " * (-(len(text) + 11) % 64) + b"\n"
  return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def test_arrays_are_those_that_numpy_wrote():
  rng = np.random.default_rng(0)
  arrays = {
    "tokens": rng.integers(0, 99, (5, 3)).astype(np.uint16),
    "fortran": np.asfortranarray(rng.standard_normal((2, 3))),
    "nothing": np.zeros((0, 4), np.float32),
    "number": np.float64(2.5),
    "text": np.array("ä€"),
    "texts": np.array(["a", "b\udce9"]),
    "no_texts": np.array([]),
  }
  found = npz.Arrays(stored(**arrays))
  assert set(found) == set(arrays) and len(found) == 7
  for name, value in arrays.items():
    np.testing.assert_array_equal(found[name], value)
    assert found.shape(name) == value.shape and found.dtype(name) == value.dtype
  assert found.number("number") == 2.5 and found.text("text") == "ä€"
  assert found.texts("texts") == ["a", "b\udce9"] and found.texts("no_texts") == []


@pytest.mark.parametrize(
  "file, words",
  [
    (io.BytesIO(b""), "not a zip file"),
    (io.BytesIO(b"PK" * 100), "zip"),
    (stored(a=np.zeros(1 << 27, np.int32)), "its arrays would take 5368"),
    (zipped(a=header((10**9, 12))), r"a of shape \(1000000000, 12\) needs 48000000\d+ bytes"),
    (zipped(a=header((2,), data=b"1234")), "needs 136 bytes and has 132"),
    (zipped(a=b"text"), "a is not an array"),
    (zipped(a=header("(" * 900, data=b"")), "a is not an array of numbers or texts"),
    (zipped(a=header("()", descr="|O8", data=b"x" * 8)), r"a has the type \|O8"),
    (zipped(a=header("()", descr="<c8", data=b"x" * 8)), "a has the type <c8"),
    (zipped(a=header("()", descr="<b9", data=b"x" * 9)), "a has the type <b9"),
    (zipped(a=header("()", descr="<a1", data=b"x")), "a has the type <a1"),
    (zipped(**{f"a{i}": header("(0,)") for i in range(300)}), "it has 300 arrays"),
  ],
  ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_an_array_declares_is_checked_before_it_is_read(file, words):
  with pytest.raises(ValueError, match=words) as caught:
    npz.Arrays(file)
  assert "\n" not in str(caught.value)


def test_a_text_with_characters_that_do_not_exist_is_refused():
  for order in "<>":
    data = np.array([ord("a"), 0x11_0000], f"{order}u4").tobytes()
    arrays = npz.Arrays(zipped(text=header("()", f"{order}U2", data)))
    with pytest.raises(ValueError, match="invalid character 0x110000"):
      arrays.text("text")


def test_one_flipped_byte_is_found():
  content = bytearray(stored(a=np.random.default_rng(0).integers(0, 9, 4000)).getvalue())
  content[len(content) // 2] ^= 0x10
  with pytest.raises(ValueError, match=r"(a:|a has)"):
    npz.Arrays(io.BytesIO(content))["a"]


def test_other_types_than_the_wanted_ones_are_refused():
  found = npz.Arrays(
    stored(text=np.array("a\x1bb"), half=np.array(["\ud800"]), many=np.zeros(2), nan=np.nan)
  )
  with pytest.raises(ValueError, match="cannot be printed"):
    found.text("text")
  with pytest.raises(ValueError, match="surrogate"):
    found.texts("half")
  for method in (found.text, found.texts, found.number):
    with pytest.raises(ValueError, match="many is not a"):
      method("many")
  with pytest.raises(ValueError, match="nan is not finite"):
    found.number("nan")
