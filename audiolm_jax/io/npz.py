"""Reads npz files from untrusted sources.

`numpy.load` trusts the headers: an array may declare any shape, and a few bytes may expand to
gigabytes. This module checks every header before it reads an array: the elements must be
numbers, bools or texts, and the stored size must be exactly the size that the shape needs.
"""

import math
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import numpy as np

# In bytes. The codes of 62 hours, with 12 levels at 50 Hz in 32 bits, have this size.
LARGEST_ARRAYS = 1 << 29
_LARGEST_HEADER = 4_096
_BLOCK = 1 << 20
_HEADER = re.compile(
  rb"\{'descr': '([<|>=]?[a-zA-Z]\d{1,7})', 'fortran_order': (False|True), "
  rb"'shape': \(((?:\d{1,12},? ?){0,4})\), \}\s*"
)
_KINDS = "biufU"
# Exceptions that `zipfile`, `zlib` and the modules that they use raise for a damaged file.
_DAMAGED = (
  *(OSError, EOFError, KeyError, IndexError, NotImplementedError, RuntimeError),
  *(struct.error, zlib.error, zipfile.BadZipFile, UnicodeDecodeError, OverflowError),
)


class Arrays(Mapping[str, np.ndarray]):
  """The arrays of an npz file by name; each access reads the array from the file.

  Args:
    file: an open file; it must stay open while arrays are read.
    most_arrays: largest accepted number of arrays.

  Raises:
    ValueError: the file is damaged or too large, has more than `most_arrays` arrays, or has an
      array of an unsupported type. An access to a damaged array also raises `ValueError`. The
      message is one line.
  """

  def __init__(self, file: BinaryIO, most_arrays: int = 256):
    try:
      self._zip = zipfile.ZipFile(file)
      members = self._zip.infolist()
      if len(members) > most_arrays:
        raise ValueError(f"it has {len(members)} arrays, more than {most_arrays}")
      if any(i.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for i in members):
        raise ValueError("it is compressed in a way that NumPy does not use")
      self._members = {info.filename.removesuffix(".npy"): info for info in members}
      total = sum(info.file_size for info in members)
      if total > LARGEST_ARRAYS:
        raise ValueError(f"its arrays would take {total} bytes, more than {LARGEST_ARRAYS}")
      self._headers = {name: self._read_header(name) for name in self._members}
    except _DAMAGED as error:
      raise ValueError(_line(error)) from error

  def __getitem__(self, name: str) -> np.ndarray:
    dtype, shape, fortran, start = self._headers[name]
    content, filled = bytearray(self._members[name].file_size), 0
    try:
      with self._zip.open(self._members[name]) as member:
        while part := member.read(_BLOCK):
          content[filled : filled + len(part)] = part
          filled += len(part)
    except _DAMAGED as error:
      raise ValueError(f"{name}: {_line(error)}") from error
    if filled != len(content):
      raise ValueError(f"{name} has {filled} of {len(content)} bytes")
    array = np.frombuffer(content, dtype, offset=start)
    if dtype.kind == "U" and array.size and dtype.itemsize:
      points = np.frombuffer(content, np.dtype("u4").newbyteorder(dtype.byteorder), offset=start)
      if points.max() > sys.maxunicode:
        raise ValueError(f"{name} has a text with the invalid character {int(points.max()):#x}")
    return array.reshape(shape, order="F" if fortran else "C")

  def __iter__(self) -> Iterator[str]:
    return iter(self._headers)

  def __len__(self) -> int:
    return len(self._headers)

  def shape(self, name: str) -> tuple[int, ...]:
    """Returns the shape of an array without reading it."""
    return self._headers[name][1]

  def dtype(self, name: str) -> np.dtype:
    """Returns the type of an array without reading it."""
    return self._headers[name][0]

  def text(self, name: str) -> str:
    """Returns the printable text in an array without axes; raises `ValueError` for other arrays."""
    if self.dtype(name).kind != "U" or self.shape(name):
      raise ValueError(f"{name} is not a text")
    text = str(self[name])
    if not text.isprintable():
      raise ValueError(f"{name} is {text[:40]!r}, which has characters that cannot be printed")
    return text

  def texts(self, name: str) -> list[str]:
    """Returns the texts in an array of one axis; raises `ValueError` for other arrays."""
    # NumPy writes an empty array of texts as an array of numbers.
    is_text = self.dtype(name).kind == "U" or self.shape(name) == (0,)
    if not is_text or len(self.shape(name)) != 1:
      raise ValueError(f"{name} is not a row of texts")
    found = [str(text) for text in self[name]]
    for text in found:
      try:
        text.encode("utf-8", "surrogateescape")  # a file name may be invalid UTF-8
      except UnicodeEncodeError as error:
        raise ValueError(f"{name} has a text with half of a surrogate pair") from error
    return found

  def number(self, name: str) -> float | int:
    """Returns the finite number in an array without axes; raises `ValueError` for other arrays."""
    if self.dtype(name).kind not in "iuf" or self.shape(name):
      raise ValueError(f"{name} is not a number")
    value = self[name].item()
    if not math.isfinite(value):
      raise ValueError(f"{name} is not finite")
    return value

  def _read_header(self, name: str) -> tuple[np.dtype, tuple[int, ...], bool, int]:
    info = self._members[name]
    with self._zip.open(info) as member:
      start = member.read(12)
      if start[:6] != b"\x93NUMPY" or len(start) < 12:
        raise ValueError(f"{name} is not an array")
      wide = start[6] > 1
      (length,) = struct.unpack("<I" if wide else "<H", start[8 : 12 if wide else 10])
      if length > _LARGEST_HEADER:
        raise ValueError(f"{name} has a header of {length} bytes")
      header = (start[10:] + member.read(length - 2)) if not wide else member.read(length)
    found = _HEADER.fullmatch(header)
    if not found:
      raise ValueError(f"{name} is not an array of numbers or texts")
    code = found[1].decode()
    try:
      dtype = np.dtype(code) if code.lstrip("<|>=")[0] in _KINDS else None
    except TypeError:  # a width that this type of number does not have
      dtype = None
    if dtype is None:
      raise ValueError(f"{name} has the type {code}")
    shape = tuple(int(n) for n in found[3].replace(b",", b" ").split())
    begin = (12 if wide else 10) + length
    needed = begin + math.prod(shape) * dtype.itemsize
    if needed != info.file_size:
      raise ValueError(f"{name} of shape {shape} needs {needed} bytes and has {info.file_size}")
    return dtype, shape, found[2] == b"True", begin


def _line(error: BaseException) -> str:
  text = " ".join(str(error).split()) or type(error).__name__
  return text if len(text) <= 200 else f"{text[:200]}..."
