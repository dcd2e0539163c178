"""Analyses the HLO text of a compiled program.

`compiled.as_text()` lists the instructions of every computation. It contains the body of a loop
only once, but the methods of `HloProgram` count an instruction once per execution.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_COLLECTIVES = (
  *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"),
  "ragged-all-to-all",
)
_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_CALLS = re.compile(r"\b(?:calls|body|condition|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_UNKNOWN_CYCLES = 2**63 - 1


class Array(NamedTuple):
  """The type of an array in HLO text, such as bf16[4,1024]."""

  dtype: str
  shape: tuple[int, ...]

  @property
  def num_bytes(self) -> int:
    """Size in bytes, without padding."""
    bits = _BITS.get(self.dtype) or int(re.sub(r"\D*(\d+).*", r"\1", self.dtype) or 0)
    return math.prod(self.shape) * bits // 8

  def __str__(self) -> str:
    return f"{self.dtype}[{','.join(map(str, self.shape))}]"


class Collective(NamedTuple):
  """A collective operation between devices.

  Attributes:
    kind: XLA's name of the operation, such as "all-reduce".
    arrays: types of the operands or of the results, whichever contain the larger array.
    times: number of executions per call of the program.
  """

  kind: str
  arrays: tuple[Array, ...]
  times: int

  @property
  def num_bytes(self) -> int:
    """Bytes of all arrays in all executions."""
    return self.times * sum(array.num_bytes for array in self.arrays)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of HLO text: `%name = arrays kind(rest`.

  Attributes:
    name: name of the result.
    arrays: types of the results.
    kind: name of the operation, such as "fusion".
    rest: operands and attributes.
  """

  name: str
  arrays: tuple[Array, ...]
  kind: str
  rest: str


class HloProgram:
  """The computations of a compiled program.

  Args:
    text: the result of `compiled.as_text()`.
  """

  def __init__(self, text: str):
    self._computations: dict[str, list[Instruction]] = {}
    entry, current = "", []
    for line in text.splitlines():
      header = _HEADER.match(line)
      if header and " = " not in line.partition("(")[0]:
        current = self._computations[header[2]] = []
        entry = header[2] if header[1] else entry
      elif found := _INSTRUCTION.match(line):
        current.append(Instruction(found[1], tuple(_arrays(found[2])), found[3], found[4]))
    self._times = self._count(entry)

  def collectives(self) -> list[Collective]:
    """Returns all collective operations, in descending order of their largest array."""
    found = []
    for name, instruction, times in self._run():
      kind = instruction.kind.removesuffix("-start")
      if kind in _COLLECTIVES:
        operands, results = self._operands(name, instruction), instruction.arrays
        larger = max(
          operands, results, key=lambda arrays: max((a.num_bytes for a in arrays), default=0)
        )
        found.append(Collective(kind, larger, times))
    return sorted(found, key=lambda c: -max(array.num_bytes for array in c.arrays))

  def estimated_cycles(self) -> int:
    """Returns the TPU compiler's estimate of cycles, summed over all executed instructions.

    Only the ratio of the estimates of two programs is meaningful. Instructions without an estimate
    are omitted.
    """
    return sum(
      times * int(found[1])
      for _, instruction, times in self._run()
      if (found := _CYCLES.search(instruction.rest)) and int(found[1]) != _UNKNOWN_CYCLES
    )

  def stored_arrays(self) -> set[Array]:
    """Returns the types of all arrays that are written to memory: results outside of fusions."""
    return {
      array
      for name, instruction, _ in self._run()
      if name not in self._fused
      for array in instruction.arrays
    }

  def _run(self) -> Iterator[tuple[str, Instruction, int]]:
    for name, times in self._times.items():
      for instruction in self._computations.get(name, ()):
        yield name, instruction, times

  def _count(self, entry: str) -> Mapping[str, int]:
    """Returns how often each computation is executed; `_fused` becomes the names within fusions."""
    times: dict[str, int] = {}
    self._fused: set[str] = set()
    waiting = [(entry, 1, False)]
    while waiting:
      name, count, fused = waiting.pop()
      times[name] = times.get(name, 0) + count
      if fused:
        self._fused.add(name)
      for instruction in self._computations.get(name, ()):
        rounds = self._rounds(instruction) if instruction.kind == "while" else 1
        for called in _called(instruction):
          waiting.append((called, count * rounds, fused or instruction.kind == "fusion"))
    return times

  def _rounds(self, loop: Instruction) -> int:
    """Returns the number of iterations of a loop, from its trip count or bound; 1 if unknown."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
    if known:
      return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
    instructions = self._computations.get(condition[1], []) if condition else []
    constants = {
      i.name: int(found[1])
      for i in instructions
      if i.kind == "constant" and (found := re.match(r"(\d+)\)", i.rest))
    }
    for instruction in instructions:
      if instruction.kind == "compare" and "direction=LT" in instruction.rest:
        bounds = [constants[o] for o in _operand_names(instruction) if o in constants]
        if bounds:
          return bounds[0]
    return 1

  def _operands(self, computation: str, instruction: Instruction) -> tuple[Array, ...]:
    types = {i.name: i.arrays for i in self._computations[computation]}
    return tuple(array for name in _operand_names(instruction) for array in types.get(name, ()))


def _operand_names(instruction: Instruction) -> list[str]:
  return _OPERAND.findall(instruction.rest.split(")")[0])


def _called(instruction: Instruction) -> list[str]:
  names = _CALLS.findall(instruction.rest)
  for listed in _BRANCHES.findall(instruction.rest):
    names += re.findall(r"[\w.\-]+", listed)
  return names


def _arrays(text: str) -> Iterator[Array]:
  for dtype, sizes in _SHAPE.findall(text):
    yield Array(dtype, tuple(int(n) for n in sizes.split(",") if n))
