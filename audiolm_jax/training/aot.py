"""Compiles a training step for TPU chips that need not be present, and reports its cost."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax

from audiolm_jax.core.configs import JsonDict
from audiolm_jax.training import accelerators, tpu_topologies
from audiolm_jax.training.hlo import Array, Collective, HloProgram
from audiolm_jax.training.partitioning import Partitioner, PartitioningConfig
from audiolm_jax.training.program import Trainable, TrainingProgram

# Number of a late step, at which all parts of a model are trained.
_LATE = 2**31 - 1
# Up to this sequence length, attention may store the whole matrix of weights in memory.
_SHORT = 512


@dataclasses.dataclass(frozen=True)
class StepLimits:
  """Upper limits for a training step.

  Attributes:
    memory_share: memory of arguments and temporaries as a share of a chip's memory.
    compile_seconds: compile time in seconds; 0 for no limit.
    cycle_ratio: ratio of the estimated cycles to the estimate for the first of several slices.
  """

  memory_share: float = 0.8
  compile_seconds: float = 0.0
  cycle_ratio: float = 1.05


@dataclasses.dataclass(frozen=True)
class StepReport:
  """The cost of a training step compiled for one slice; memory is in bytes per chip.

  Attributes:
    topology: name of the slice.
    chips: number of chips.
    mesh: sizes of the mesh axes data, fsdp and model.
    arguments: memory of the state and the batch.
    temporaries: memory of the intermediate results.
    memory: total memory of a chip.
    compile_seconds: compile time on this machine in seconds.
    cycles: the compiler's estimate of the cycles of a step; only the ratio of two estimates is
      meaningful.
    collectives: collective operations between chips, in descending order of their largest array.
    largest_parameter: the largest array of the state.
    squares: arrays in memory with two axes of the sequence length, for sequences longer than 512:
      attention weights that are not computed in blocks.
  """

  topology: str
  chips: int
  mesh: tuple[int, ...]
  arguments: int
  temporaries: int
  memory: int
  compile_seconds: float
  cycles: int
  collectives: tuple[Collective, ...]
  largest_parameter: Array
  squares: tuple[Array, ...]

  @property
  def memory_share(self) -> float:
    """Memory of arguments and temporaries as a share of the chip's memory."""
    return (self.arguments + self.temporaries) / self.memory

  @property
  def largest_operand(self) -> Array | None:
    """The largest array of all collective operations; None if there are none."""
    arrays = [array for c in self.collectives for array in c.arrays]
    return max(arrays, key=lambda array: array.num_bytes, default=None)

  @property
  def collective_bytes(self) -> int:
    """Bytes that a chip exchanges with other chips in a step."""
    return sum(collective.num_bytes for collective in self.collectives)

  def passed_limits(self, limits: StepLimits, first: "StepReport | None" = None) -> list[str]:
    """Returns a sentence for each limit that the step exceeds.

    Besides `limits`, these limits apply: `largest_operand` is at most as large as
    `largest_parameter`, `squares` is empty, and `arguments` is at most `first.arguments`.

    Args:
      limits: the limits.
      first: report of the same step on the first slice, for comparison; None for no comparison.
    """
    sentences = []
    if self.memory_share > limits.memory_share:
      sentences.append(
        f"memory: {self.memory_share:.0%} of a chip's, more than {limits.memory_share:.0%}; use a "
        "smaller batch per chip, more fsdp or remat"
      )
    if limits.compile_seconds and self.compile_seconds > limits.compile_seconds:
      sentences.append(
        f"compile time: {self.compile_seconds:.0f} s, more than {limits.compile_seconds:.0f} s"
      )
    operand = self.largest_operand
    if operand and operand.num_bytes > self.largest_parameter.num_bytes:
      sentences.append(
        f"collectives: {operand} is larger than the largest parameter, {self.largest_parameter}"
      )
    if self.squares:
      sentences.append(f"attention: {', '.join(map(str, self.squares))} in memory; use blocks")
    if first is not None:
      if self.arguments > first.arguments:
        sentences.append(
          f"arguments: {self.arguments:,} bytes, more than {first.arguments:,} on {first.topology}"
        )
      if self.cycles > limits.cycle_ratio * first.cycles:
        sentences.append(
          f"cycles: {self.cycles / first.cycles:.3f} times those on {first.topology}, more than "
          f"{limits.cycle_ratio:g}"
        )
    return sentences

  def as_dict(self) -> JsonDict:
    """Returns the report as JSON values."""
    names = ("topology", "chips", "arguments", "temporaries", "memory", "memory_share")
    names += ("compile_seconds", "cycles", "collective_bytes")
    return {name: getattr(self, name) for name in names} | {
      "mesh": " x ".join(map(str, self.mesh)),
      "largest_operand": str(self.largest_operand or "none"),
      "largest_operand_bytes": self.largest_operand.num_bytes if self.largest_operand else 0,
      "largest_parameter": str(self.largest_parameter),
      "largest_parameter_bytes": self.largest_parameter.num_bytes,
      "squares": [str(array) for array in self.squares],
    }

  def text(self) -> str:
    """Returns the report as text."""
    operand = self.largest_operand
    lines = [
      f"{self.topology}: {self.chips} chips, mesh {' x '.join(map(str, self.mesh))}",
      f"  compiled in           {self.compile_seconds:.1f} s",
      f"  arguments             {_gib(self.arguments)} per chip",
      f"  temporaries           {_gib(self.temporaries)} per chip",
      f"  together              {self.memory_share:.1%} of {_gib(self.memory)}",
      f"  estimated cycles      {self.cycles:,} per step",
      f"  collectives           {_mib(self.collective_bytes)} per chip and step",
      *(f"    {c.times:3} x {c.kind:19} {_shown(c.arrays)}" for c in self.collectives),
      f"  largest operand       {operand} ({_mib(operand.num_bytes)})" if operand else "",
      f"  largest parameter     {self.largest_parameter} "
      f"({_mib(self.largest_parameter.num_bytes)})",
    ]
    return "\n".join(line for line in lines if line)


def compile_step(
  model: Trainable,
  batch: Mapping[str, jax.ShapeDtypeStruct],
  partitioning: PartitioningConfig,
  topology: str,
  num_slices: int = 1,
) -> StepReport:
  """Compiles a training step for a TPU slice and returns its cost, without running it.

  Args:
    model: the trainable.
    batch: shapes and dtypes of the global batch.
    partitioning: sizes of the mesh axes over the chips of the slice.
    topology: see `tpu_topologies.tpu_devices`.
    num_slices: see `tpu_topologies.tpu_devices`.

  Raises:
    ConfigError: the slice does not exist, or the batch or the mesh does not fit the slice.
    UserError: `libtpu` is not installed.
    OutOfMemoryError: the step needs more memory than a chip has.
  """
  devices = tpu_topologies.tpu_devices(topology, num_slices)
  partitioner = Partitioner(partitioning, devices)
  try:
    program = TrainingProgram(model, partitioner, batch)
    step = program.compiled(_LATE)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise tpu_topologies.OutOfMemoryError(topology, error) from error
  memory = step.memory_analysis()
  text = step.as_text()
  assert memory is not None and text is not None  # compilers of TPUs return both
  hlo = HloProgram(text)
  lengths = {shape.shape[1] for shape in batch.values() if len(shape.shape) > 1}
  arrays = [Array(_short(x.dtype), x.shape) for x in jax.tree.leaves(program.abstract_state)]
  return StepReport(
    topology=topology if num_slices == 1 else f"{num_slices} x {topology}",
    chips=len(devices),
    mesh=tuple(partitioner.mesh.shape.values()),
    arguments=memory.argument_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    memory=accelerators.tpu_memory_bytes(devices[0].device_kind),
    compile_seconds=program.compile_seconds,
    cycles=hlo.estimated_cycles(),
    collectives=tuple(hlo.collectives()),
    largest_parameter=max(arrays, key=lambda array: array.num_bytes),
    squares=_squares(hlo.stored_arrays(), lengths),
  )


def _squares(arrays: set[Array], lengths: set[int]) -> tuple[Array, ...]:
  """Returns the arrays with two axes as long as a sequence, with or without padding.

  Args:
    arrays: arrays in memory.
    lengths: sequence lengths; lengths up to `_SHORT` are ignored. Padding extends a length to at
      most the next multiple of 128.
  """
  found = {
    array
    for array in arrays
    for length in lengths
    if length > _SHORT
    and sum(length <= n <= math.ceil(length / 128) * 128 for n in array.shape) > 1
  }
  return tuple(sorted(found, key=str))


def _short(dtype: object) -> str:
  return {"float32": "f32", "bfloat16": "bf16", "int32": "s32", "bool": "pred"}.get(
    str(dtype), str(dtype)
  )


def _shown(arrays: Sequence[Array], most: int = 4) -> str:
  ordered = sorted(arrays, key=lambda array: -array.num_bytes)
  more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
  return ", ".join(map(str, ordered[:most])) + more


def _gib(count: int) -> str:
  return f"{count / 2**30:.2f} GiB"


def _mib(count: int) -> str:
  return f"{count / 2**20:.1f} MiB"
