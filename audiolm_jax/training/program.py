"""Compiles the functions of a trainable for a device mesh and runs them."""

import functools
import math
import time
from collections.abc import Hashable, Sequence

import jax
import numpy as np
from jax import export
from jax.stages import Compiled, Wrapped
from jaxtyping import Float, Key, PyTree

from audiolm_jax.core import products
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.configs import Json
from audiolm_jax.core.keys import new_key
from audiolm_jax.core.modules import Batch, Params, ShapedBatch
from audiolm_jax.training import metrics as metrics_lib
from audiolm_jax.training.metrics import Accumulator, Audio, Image
from audiolm_jax.training.partitioning import Partitioner, describe, unbox
from audiolm_jax.training.trainable import Trainable

# Step s uses the key fold_in(key, s); initialisation uses this number, which no step reaches.
_INIT_STREAM = np.uint32(0xFFFFFFFF)

# The result of `Trainable.parts`.
Parts = tuple[Hashable, ...]


class TrainingProgram:
  """The compiled functions of one trainable on one mesh.

  Args:
    model: the trainable.
    partitioner: the mesh and its shardings.
    batch: the rows of this process in a training batch; only shapes and dtypes are used.
    precision: precision of the matrix products in training steps. Evaluation uses float32.

  Attributes:
    abstract_state: tree of ShapeDtypeStructs with shardings, without boxes.
    metric_names: names of the metrics of a training step, without "skipped" and "weight".
    compile_seconds: total compile time of training steps so far, in seconds.

  Raises:
    ConfigError: the mesh cannot split the batch evenly.
  """

  def __init__(
    self,
    model: Trainable,
    partitioner: Partitioner,
    batch: ShapedBatch,
    precision: products.Precision = products.Precision.FLOAT32,
  ):
    self._model, self._partitioner, self._precision = model, partitioner, precision
    partitioner.check_batch(batch)
    self._abstract_batch = partitioner.abstract_batch(batch)
    key = jax.eval_shape(new_key, 0)
    with partitioner.context():
      boxed = jax.eval_shape(model.init, key, batch)
      shapes = unbox(boxed)
      self._shardings = partitioner.state_shardings(boxed)
      self.abstract_state = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, self._shardings
      )
      # Traced only once: the compiled step inlines this trace, for equal shapes and shardings.
      self._train_step = jax.jit(self._call_train_step, static_argnums=0, inline=True)
      train_step = functools.partial(self._train_step, self._parts(0))
      rng = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=partitioner.replicated)
      _, train_metrics = jax.eval_shape(train_step, self.abstract_state, self._abstract_batch, rng)
      self._train_names = list(train_metrics)
      self.metric_names = set(train_metrics) - {metrics_lib.SKIPPED, metrics_lib.WEIGHT}
    self._steps: dict[Parts, Compiled] = {}
    self.compile_seconds = 0.0
    # jit, because device_put copies only to the devices of this process.
    self._replicate = jax.jit(lambda tree: tree, out_shardings=partitioner.replicated)
    self._evaluate = jax.jit(
      lambda state, total, batch: metrics_lib.accumulate(total, model.eval_step(state, batch)),
      in_shardings=(self._shardings, partitioner.replicated, partitioner.batch_sharding),
      out_shardings=partitioner.replicated,
      donate_argnums=(1,),  # the running sums are replaced
    )

    self._evaluations: dict[Parts, tuple[Compiled, list[str]]] = {}
    self._summarise = jax.jit(model.summaries, out_shardings=partitioner.replicated)

  def compiled(self, step: int) -> Compiled:
    """Returns the compiled program of training step `step`; compiles the program if necessary."""
    parts = self._parts(step)
    if parts not in self._steps:
      started = time.monotonic()
      with self._partitioner.context():
        self._steps[parts] = self._compile_step(parts)
      self.compile_seconds += time.monotonic() - started
    return self._steps[parts]

  def is_compiled(self, step: int) -> bool:
    """Returns whether the program of training step `step` is already compiled."""
    return self._parts(step) in self._steps

  def _parts(self, step: int) -> Parts:
    return self._model.parts(step)

  def _call_train_step(
    self, parts: Parts, state: PyTree, batch: Batch, rng: Key[Array, ""]
  ) -> PyTree:
    with products.precision(self._precision):
      return self._model.train_step(state, batch, rng, *parts)

  def exported(self, step: int, platforms: Sequence[str]) -> export.Exported:
    """Exports training step `step` as StableHLO for several platforms, from one trace.

    The platforms need not be present, because the program is not compiled.

    Args:
      step: number of the training step.
      platforms: names of platforms, such as "cuda" and "tpu".
    """
    with self._partitioner.context():
      jitted, arguments = self._jitted_step(self._parts(step))
      return export.export(jitted, platforms=platforms)(*arguments)

  def _compile_step(self, parts: Parts) -> Compiled:
    jitted, arguments = self._jitted_step(parts)
    return jitted.lower(*arguments).compile()

  def _jitted_step(self, parts: Parts) -> tuple[Wrapped, tuple[PyTree, ...]]:
    """Returns the training step for `parts` as a jitted function, and its abstract arguments."""
    p = self._partitioner
    key = jax.eval_shape(new_key, 0)

    def step(state, total, batch, key):
      rng = jax.random.fold_in(key, state.step)
      state, metrics = self._train_step(parts, state, batch, rng)
      total = metrics_lib.accumulate(total, metrics)
      # The last result is a copy, because the host reads it after `total` is donated.
      return state, total, total.skipped_in_a_row + 0.0

    jitted = jax.jit(
      step,
      in_shardings=(self._shardings, p.replicated, p.batch_sharding, p.replicated),
      out_shardings=(self._shardings, p.replicated, p.replicated),
      donate_argnums=(0, 1),  # state and running sums are replaced
    )
    total = metrics_lib.empty(self._train_names)
    return jitted, (self.abstract_state, total, self._abstract_batch, key)

  def flops(self, step: int) -> float:
    """Returns the floating-point operations of step `step` on all devices; 0 if unknown."""
    return self._model.flops_per_step(self._abstract_batch, step)

  def amounts(self, batch: Batch) -> dict[str, float]:
    """Estimates `Trainable.amounts` of the batches of all processes.

    Args:
      batch: the batch of this process.
    """
    return {n: v * jax.process_count() for n, v in self._model.amounts(batch).items()}

  def init(self, key: Key[Array, ""], batch: Batch, params: Params | None = None) -> PyTree:
    """Returns a new state on the devices.

    Args:
      key: the key of the run.
      batch: the rows of this process in a training batch.
      params: parameters to start from, see `Trainable.with_params`; None for random parameters.
    """

    def make(key, batch, params):
      state = unbox(self._model.init(jax.random.fold_in(key, _INIT_STREAM), batch))
      return state if params is None else self._model.with_params(state, params)

    with self._partitioner.context():
      make = jax.jit(make, out_shardings=self._shardings)
      return make(key, self._partitioner.put_batch(batch), params)

  def put(self, tree: PyTree) -> PyTree:
    """Copies `tree` to all devices; the values must be equal in all processes."""
    return self._replicate(tree)

  def empty_metrics(self) -> Accumulator:
    """Returns an accumulator of zeros for the metrics of training steps."""
    return self.put(metrics_lib.empty(self._train_names))

  def restored_metrics(self, values: Json) -> Accumulator:
    """Returns the accumulator of training metrics from the result of `metrics.to_json`."""
    return self.put(metrics_lib.from_json(values, self._train_names))

  def step(
    self, step: int, state: PyTree, total: Accumulator, batch: Batch, key: Key[Array, ""]
  ) -> tuple[PyTree, Accumulator, Float[Array, ""]]:
    """Runs a training step.

    Args:
      step: number of the training step, equal to `state.step`.
      state: the state before the step; its buffers are donated.
      total: accumulator of the metrics of earlier steps; its buffers are donated.
      batch: the rows of this process.
      key: the key of the run.

    Returns:
      The next state, the accumulator with the metrics of this step, and the number of consecutive
      skipped updates up to this step.
    """
    compiled = self.compiled(step)
    on_devices = self._partitioner.put_batch(batch)
    with jax.transfer_guard("disallow"):
      return compiled(state, total, on_devices, key)

  def evaluate(self, state: PyTree, batches: list[Batch]) -> dict[str, float]:
    """Returns the mean metrics over `batches`, weighted by the metric "weight".

    Args:
      state: the state to evaluate.
      batches: the rows of this process in each batch.

    Raises:
      ConfigError: the mesh cannot split a batch evenly.
    """
    total = None
    for batch in batches:
      evaluate, names = self._compiled_evaluation(batch)
      total = self.put(metrics_lib.empty(names)) if total is None else total
      on_devices = self._partitioner.put_batch(batch)
      with jax.transfer_guard("disallow"):
        total = evaluate(state, total, on_devices)
    return metrics_lib.means(total) if total is not None else {}

  def _compiled_evaluation(self, batch: Batch) -> tuple[Compiled, list[str]]:
    shapes = tuple(sorted((name, np.shape(value)) for name, value in batch.items()))
    if shapes not in self._evaluations:
      self._partitioner.check_batch(batch)
      abstract_batch = self._partitioner.abstract_batch(batch)
      with self._partitioner.context():
        names = list(jax.eval_shape(self._model.eval_step, self.abstract_state, abstract_batch))
        lowered = self._evaluate.lower(
          self.abstract_state, metrics_lib.empty(names), abstract_batch
        )
        self._evaluations[shapes] = lowered.compile(), names
    return self._evaluations[shapes]

  def summaries(self, state: PyTree, batch: Batch) -> dict[str, Audio | Image]:
    """Returns `Trainable.summaries` of a batch, with arrays on the host; may be empty."""
    with self._partitioner.context():
      found = jax.device_get(self._summarise(state, self._partitioner.put_batch(batch)))
    return {
      name: Audio(value.samples, int(value.sample_rate)) if isinstance(value, Audio) else value
      for name, value in found.items()
    }

  @property
  def batch_size(self) -> int:
    """Examples per training step in all processes."""
    return next(iter(self._abstract_batch.values())).shape[0]

  def num_inference_parameters(self) -> int:
    """Returns the number of parameters that inference needs."""
    params = jax.eval_shape(self._model.inference_params, self.abstract_state)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))

  def description(self) -> str:
    """Returns a text about the arrays of the state; see `partitioning.describe`."""
    return describe(self.abstract_state, self._shardings)
