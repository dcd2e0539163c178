"""The device mesh, and the mapping from logical axes of arrays to mesh axes."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence

import flax.linen as nn
import jax
import numpy as np
from flax.core import meta
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.modules import Batch, ShapedBatch

# Pairs (logical axis, mesh axes); None for an axis that is not split.
AxisRules = tuple[tuple[str, str | tuple[str, ...] | None], ...]

MESH_AXES = ("data", "fsdp", "model")
BATCH_AXES = ("data", "fsdp")


@dataclasses.dataclass(frozen=True)
class PartitioningConfig:
  """The number of devices along each mesh axis; -1 stands for all remaining devices.

  Only the axis `data` spans several TPU slices, because the network between slices is slower than
  the network within a slice.

  Attributes:
    data: devices along the axis that splits the batch.
    fsdp: devices along the axis that splits the batch and the parameters.
    model: devices along the axis that splits the parameters and the computation of each example.
    additional_rules: axis rules that precede the standard rules; see
      `standard_logical_axis_rules`.
  """

  data: int = -1
  fsdp: int = 1
  model: int = 1
  additional_rules: AxisRules = ()


def standard_logical_axis_rules(additional_rules: AxisRules = ()) -> AxisRules:
  """Returns pairs (logical axis, mesh axes); the first matching pair applies to a logical axis.

  A pair is skipped if another axis of the array already has one of its mesh axes. A logical axis
  that maps to None is not split.

  Args:
    additional_rules: pairs to insert before the standard pairs.

  Source: names and semantics of T5X's `standard_logical_axis_rules`.
  """
  return (
    *additional_rules,
    ("batch", BATCH_AXES),
    ("vocab", "model"),
    ("mlp", "model"),
    ("heads", "model"),
    ("joined_kv", "model"),
    ("codebook", "model"),
    ("embed", "fsdp"),
    ("conv_in", "fsdp"),
    ("latent", "fsdp"),
    # Not split: on a mesh of 2 x 2 x 2, the gradients that XLA computed of split convolutions had
    # errors of several per cent. The axis `fsdp` splits kernels by input channels ("conv_in").
    ("channels", None),
    ("kv", None),
    ("length", None),
    ("relpos_buckets", None),
    ("layers", None),
    ("quantizers", None),
    ("kernel", None),
  )


def make_mesh(config: PartitioningConfig, devices: Sequence[object] | None = None) -> Mesh:
  """Returns a mesh with the axes data, fsdp and model.

  Args:
    config: sizes of the axes.
    devices: devices of the mesh; None for all devices.

  Raises:
    ConfigError: a size is invalid, the product of the sizes is not the number of devices, or `data`
      is not a multiple of the number of TPU slices.
  """
  devices = list(jax.devices() if devices is None else devices)
  sizes = [config.data, config.fsdp, config.model]
  given = math.prod(s for s in sizes if s != -1)
  asked = " x ".join(f"{n}={s}" for n, s in zip(MESH_AXES, sizes, strict=True))
  if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
    raise ConfigError(f"mesh {asked}: sizes must be positive; at most one may be -1")
  if -1 in sizes and len(devices) % given == 0:
    sizes[sizes.index(-1)] = len(devices) // given
  if math.prod(sizes) != len(devices):
    raise ConfigError(f"mesh {asked} does not fit {len(devices)} devices; change a size")
  # Linen's logical constraints need axes of the type Auto; the default type of JAX is Explicit.
  axis_types = (AxisType.Auto,) * len(MESH_AXES)
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  # Needed if a mesh axis is not a product of physical axes, such as 16 for 8 x 8 x 4 chips.
  split = {"allow_split_physical_axes": True}
  if slices == 1:
    grid = mesh_utils.create_device_mesh(sizes, devices, **split)
    return Mesh(grid, MESH_AXES, axis_types=axis_types)
  if sizes[0] % slices:
    raise ConfigError(
      f"mesh {asked}: data={sizes[0]} is not a multiple of the {slices} slices; choose fsdp and "
      "model that fit within one slice"
    )
  within = (sizes[0] // slices, *sizes[1:])
  grid = mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1), devices, **split)
  return Mesh(grid, MESH_AXES, axis_types=axis_types)


class Partitioner:
  """A mesh with its axis rules, and the shardings that result from these rules.

  Args:
    config: sizes of the mesh axes and additional axis rules; None for the defaults.
    devices: devices of the mesh; None for all devices.

  Attributes:
    mesh: the mesh.
    rules: the axis rules.
    replicated: sharding of an array that every device stores completely.
    batch_sharding: sharding of an array whose first axis counts examples.
  """

  def __init__(
    self, config: PartitioningConfig | None = None, devices: Sequence[object] | None = None
  ):
    config = config or PartitioningConfig()
    self.mesh = make_mesh(config, devices)
    self.rules = standard_logical_axis_rules(config.additional_rules)
    self.replicated = NamedSharding(self.mesh, PartitionSpec())
    self.batch_sharding = NamedSharding(self.mesh, PartitionSpec(BATCH_AXES))

  @contextlib.contextmanager
  def context(self) -> Iterator[None]:
    """Returns a context in which models are traced with this mesh and these axis rules."""
    with jax.set_mesh(self.mesh), nn.logical_axis_rules(self.rules):
      yield

  def state_shardings(self, boxed: PyTree) -> PyTree:
    """Returns a NamedSharding for each array of the state.

    An array is replicated if it has no axis names, or fewer axes than names, such as a factored
    moment. An axis is not split if its size is not divisible by the size of its mesh axes.

    Args:
      boxed: tree of ShapeDtypeStructs, boxed with logical axis names.
    """

    def sharding(entry: PyTree) -> PyTree:
      if not _is_box(entry):
        return self.replicated
      if not jax.tree.leaves(entry.value):  # the optimizer has no state for this parameter
        return entry.value
      names = entry.get_partition_spec()
      return self._fitting(nn.logical_to_mesh_sharding(names, self.mesh, self.rules), entry.value)

    return jax.tree.map(sharding, boxed, is_leaf=_is_box)

  def _fitting(self, sharding: NamedSharding, array: jax.ShapeDtypeStruct) -> NamedSharding:
    spec = tuple(sharding.spec)
    if len(spec) > len(array.shape):
      return self.replicated
    axes = []
    for size, names in zip(array.shape, spec, strict=False):
      names = (names,) if isinstance(names, str) else names
      divides = names and size % math.prod(self.mesh.shape[n] for n in names) == 0
      axes.append(tuple(names) if divides else None)
    return NamedSharding(self.mesh, PartitionSpec(*axes))

  def check_batch(self, batch: ShapedBatch) -> None:
    """Raises `ConfigError` if the mesh cannot split the batch of all processes evenly.

    Args:
      batch: the rows of this process.
    """
    shards = math.prod(self.mesh.shape[a] for a in BATCH_AXES)
    for name, value in batch.items():
      total = len(value) * jax.process_count()
      if total % shards:
        raise ConfigError(
          f"a batch of {total} ({name!r}) cannot be split over {shards} devices "
          f"(mesh axes {' x '.join(BATCH_AXES)}); make BATCH_SIZE a multiple of {shards}"
        )

  def abstract_batch(self, batch: ShapedBatch) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes, dtypes and shardings of `put_batch(batch)` for the rows of all processes.

    Args:
      batch: the rows of this process.
    """
    rows = jax.process_count()
    local = jax.eval_shape(dict, batch)
    return {
      name: jax.ShapeDtypeStruct(
        (x.shape[0] * rows, *x.shape[1:]), x.dtype, sharding=self.batch_sharding
      )
      for name, x in local.items()
    }

  def put_batch(self, batch: Batch) -> dict[str, jax.Array]:
    """Copies the rows of this process to its devices and returns the global arrays."""
    return {
      name: jax.make_array_from_process_local_data(self.batch_sharding, np.asarray(value))
      for name, value in batch.items()
    }


def unbox(tree: PyTree) -> PyTree:
  """Returns `tree` with plain arrays in place of arrays that are boxed with axis names."""
  return jax.tree.map(lambda x: x.value if _is_box(x) else x, tree, is_leaf=_is_box)


def _is_box(entry: object) -> bool:
  return isinstance(entry, meta.AxisMetadata)


def describe(abstract: PyTree, shardings: PyTree) -> str:
  """Returns one line per array with path, dtype, shape and mesh axes, and a line with the totals.

  Args:
    abstract: tree of ShapeDtypeStructs.
    shardings: tree of NamedShardings with the structure of `abstract`.
  """
  leaves = jax.tree_util.tree_leaves_with_path(abstract)
  rows = [
    (
      jax.tree_util.keystr(path, simple=True, separator="/"),
      f"{leaf.dtype}{list(leaf.shape)}",
      _axes(sharding),
    )
    for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True)
  ]
  widths = [max(len(row[i]) for row in rows) for i in range(2)]
  lines = [f"{p:{widths[0]}}  {s:{widths[1]}}  {a}".rstrip() for p, s, a in rows]
  total = sum(math.prod(leaf.shape) for _, leaf in leaves)
  return "\n".join([*lines, f"{total:,} elements in {len(leaves)} arrays", ""])


def _axes(sharding: NamedSharding) -> str:
  used = [
    ",".join(n for n in names) if isinstance(names, tuple) else names or "-"
    for names in tuple(sharding.spec)
  ]
  return " ".join(used) if set(used) - {"-"} else ""
