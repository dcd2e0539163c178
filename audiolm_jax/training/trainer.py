"""The training loop for every `Trainable`. This module does not depend on audio.

Rerun the same command to resume a killed run from its last checkpoint. On a CPU, the losses are
bit-identical to the losses of an uninterrupted run.
"""

import collections
import contextlib
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
from jaxtyping import PyTree

from audiolm_jax.core.errors import ConfigError, DataError, UserError
from audiolm_jax.core.keys import new_key
from audiolm_jax.core.modules import Batch, Params
from audiolm_jax.core.products import Precision
from audiolm_jax.io import files
from audiolm_jax.training import anomalies, precision, run_folder, run_lock, summary
from audiolm_jax.training import checkpoints as checkpoints_lib
from audiolm_jax.training import metrics as metrics_lib
from audiolm_jax.training.batches import Batches, Prefetched
from audiolm_jax.training.checkpoints import CheckpointConfig, Checkpoints
from audiolm_jax.training.partitioning import Partitioner, PartitioningConfig
from audiolm_jax.training.processes import agreed
from audiolm_jax.training.program import TrainingProgram
from audiolm_jax.training.run_log import RunLog, SummaryWriterFactory
from audiolm_jax.training.stop_signal import StopSignal
from audiolm_jax.training.throughput import Throughput
from audiolm_jax.training.trainable import AnyTrainable

# Returns a new iterator over batches, at its beginning.
Dataset = Callable[[], Batches]
# Returns the parameters from which a new run starts.
InitialParams = Callable[[], Params]

_STATUS_LAG = 2
_MAX_ROLLBACKS = 3


class TrainingError(UserError):
  """Raised when a run cannot continue with its configuration."""


@dataclasses.dataclass(frozen=True)
class TrainResult:
  """The result of a call of `train`.

  Attributes:
    step: number of completed steps; the checkpoint of this step is saved.
    finished: whether all steps are completed; False if SIGTERM or Ctrl-C ended the run earlier.
    metrics: mean training metrics of the last log period of this call; empty if no log period ended
      in this call.
    eval_metrics: mean metrics of the last evaluation of this call; empty without evaluation.
  """

  step: int
  finished: bool
  metrics: Mapping[str, float]
  eval_metrics: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Settings of a run that do not depend on the model.

  Attributes:
    model_dir: the run folder, created if missing.
    total_steps: number of steps, counted from the beginning of the run.
    eval_period: steps between two evaluations; the last step is always evaluated. 0 for no
      evaluation.
    eval_steps: largest number of batches per evaluation. All evaluations use the same batches.
    log_period: steps between two rows of training metrics.
    random_seed: seed of initialisation and of the randomness in training steps.
    checkpoint: when to save checkpoints; the last step is always saved.
    partitioning: sizes of the device mesh and axis rules.
    products: "float32" or "bfloat16", the type to which training rounds the operands of float32
      matrix products; "auto" keeps the type of a resumed run, and selects the faster type on this
      machine for a new run. Evaluation does not round.
    max_skipped_steps: number of consecutive non-finite updates after which the run restores the
      last checkpoint and continues with new data.
    tensorboard: whether to write TensorBoard files in addition to metrics.jsonl.
    config_text: content of config.gin; "" to write no such file.
  """

  model_dir: str | os.PathLike[str]
  total_steps: int
  eval_period: int = 1000
  eval_steps: int = 16
  log_period: int = 100
  random_seed: int = 0
  checkpoint: CheckpointConfig = CheckpointConfig()
  partitioning: PartitioningConfig = PartitioningConfig()
  products: str = precision.AUTO
  max_skipped_steps: int = 10
  tensorboard: bool = True
  config_text: str = ""

  def __post_init__(self) -> None:
    if self.total_steps < 1 or self.log_period < 1 or self.checkpoint.period < 1:
      raise ConfigError("total_steps, log_period and the checkpoint period must be at least 1")
    choices = (precision.AUTO, *Precision)
    if self.products not in choices:
      raise ConfigError(f"products {self.products!r} is not one of {', '.join(choices)}")


def train(
  config: TrainConfig,
  *,
  model: AnyTrainable,
  train_dataset: Dataset,
  eval_dataset: Dataset | None = None,
  initial_params: InitialParams | None = None,
  summary_writer: SummaryWriterFactory | None = None,
) -> TrainResult:
  """Trains `model` until `config.total_steps`.

  If the run folder has checkpoints, training resumes from the last checkpoint.

  Args:
    config: settings of the run.
    model: the trainable.
    train_dataset: returns the iterator of training batches; each process reads its own rows.
    eval_dataset: returns the iterator of held-out batches; None for no evaluation.
    initial_params: returns the parameters from which a new run starts; None for random parameters.
      It is not called if the run has a checkpoint.
    summary_writer: creates a writer of TensorBoard files in a folder; None for no such files.

  Raises:
    CheckpointError: the checkpoints are damaged or have a different configuration, or the last
      checkpoint cannot be written.
    ConfigError: the model cannot start from `initial_params`, the mesh does not fit the devices or
      the batch, or `config.products` is "auto" and the resumed run has not recorded its precision.
    DataError: the training data ended before the last step, or the held-out data have no full
      batch.
    LockError: another process trains in the same folder.
    TrainingError: losses or gradients are not finite, and several rollbacks to the same checkpoint
      did not help.
    UserError: the run folder cannot be created or is not writable.
  """
  model_dir = Path(config.model_dir).absolute()
  run_folder.make_folder(model_dir)
  with run_lock.held(model_dir) as lock:
    run = _Run(config, model, train_dataset, eval_dataset, initial_params, summary_writer, lock)
    return _finished(run)


def _finished(run: "_Run") -> TrainResult:
  """Runs the training loop and closes the run, also after an error."""
  try:
    with StopSignal() as stop:
      result = run.loop(stop)
  except BaseException as error:
    if isinstance(error, UserError):
      run.sum_up(f"ended by an error: {error}")
    # A save in progress would wait for the other processes, but one of them may have ended.
    run.close(finish_save=jax.process_count() == 1)
    raise
  run.close()
  return result


class _Run:
  """The resources and the training loop of one call of `train`; see `train` for the arguments."""

  def __init__(
    self,
    config: TrainConfig,
    model: AnyTrainable,
    train_dataset: Dataset,
    eval_dataset: Dataset | None,
    initial_params: InitialParams | None,
    summary_writer: SummaryWriterFactory | None,
    lock: run_lock.RunLock | None,
  ):
    self.lock = lock
    self.started, self.seconds_before = time.monotonic(), 0.0
    self.config, self.model, self.initial_params = config, model, initial_params
    self.model_dir = model_dir = Path(config.model_dir).absolute()
    self.total_steps = config.total_steps
    if not (config.eval_period and config.eval_steps):
      eval_dataset = None
    iterator = train_dataset()
    # Created before compilation, because this call fails if a corpus has no held-out clips.
    self.eval_iterator = eval_dataset() if eval_dataset else None
    self.eval_start = self.eval_iterator.get_state() if self.eval_iterator else {}
    start = iterator.get_state()
    batch = _first(iterator)
    iterator.set_state(start)
    description = checkpoints_lib.describe_model(model, batch, config.random_seed)
    self.checkpoints = Checkpoints(model_dir, keep=config.checkpoint.keep)
    if self.checkpoints.latest_step() is not None:
      checkpoints_lib.check_same_model(model_dir, description, type(model.config))
    self._closers = contextlib.ExitStack()
    self.log = RunLog(
      model_dir,
      title=model.component,
      total_steps=self.total_steps,
      summary_writer=summary_writer if config.tensorboard else None,
    )
    self._closers.callback(self.log.close)
    self.log.info(f"{model.component}: {jax.device_count()} {jax.default_backend()} device(s)")
    resumed = self.checkpoints.latest_step() is not None
    self.precision, why = precision.choose(config.products, model_dir, resumed)
    self.log.info(f"{model.component}: matrix products in {self.precision} ({why})")
    self.program = TrainingProgram(model, Partitioner(config.partitioning), batch, self.precision)
    run_folder.write_run_files(
      model_dir,
      model=description,
      arrays=self.program.description(),
      precision=self.precision,
      config_text=config.config_text,
    )
    self.key = self.program.put(new_key(config.random_seed))
    self.first_batch = batch
    self._begin(iterator)
    self.data = Prefetched(iterator)
    self._closers.callback(self.data.close)
    self._compile()
    self.skip_reports: dict[str, str] = {}
    self.empty_shares: list[float] = []
    self._log_skipped()

  def _begin(self, iterator: Batches) -> None:
    """Initialises the state and the data position, or restores both from the last checkpoint."""
    restored = self.checkpoints.restore(self.program.abstract_state)
    self.rollbacks: list[int] = []
    if restored is None:
      self.step = self.saved_step = 0
      self.state = self._fresh_state()
      self.totals = self.program.empty_metrics()
    else:
      self._log_damaged(restored)
      self.step = self.saved_step = restored.step
      self.state = restored.state
      self.totals = self.program.restored_metrics(restored.progress["metrics"])
      self.rollbacks = list(restored.progress["rollbacks"])
      iterator.set_state(restored.progress["data"])
      self.log.info(f"{self.model.component}: resuming from checkpoint_{self.step}")

  def _fresh_state(self) -> PyTree:
    """Returns a new state with the initial parameters, or with random parameters."""
    params = None
    if self.initial_params is not None:
      params = jax.device_get(self.initial_params())
      self.log.info(f"{self.model.component}: starts from the initial parameters")
    return self.program.init(self.key, self.first_batch, params)

  def _compile(self) -> None:
    """Compiles the program of the next step, if there is a next step and it is not compiled yet."""
    if self.step >= self.total_steps or self.program.is_compiled(self.step):
      return
    self.log.info(f"{self.model.component}: compiling the training step")
    before = self.program.compile_seconds
    self.program.compiled(self.step)
    seconds = self.program.compile_seconds - before
    self.log.info(f"{self.model.component}: compiled in {seconds:.1f} s")

  def loop(self, stop: StopSignal) -> TrainResult:
    """Trains until the last step or a request to stop, and saves a checkpoint at the end.

    Raises:
      UserError: see `train`.
    """
    config, clock = self.config, Throughput()
    statuses: collections.deque[jax.Array] = collections.deque()
    last: dict[str, float] = {}
    evaluated: dict[str, float] = {}
    save_due, stop_cause = False, ""
    last_save = time.monotonic()
    self.log.begin(self.step)
    if self.log.rows_of("train"):
      self.seconds_before = self.log.rows_of("train")[-1].get("wall_seconds", 0.0)
    if self._evaluation_is_missing():
      evaluated = self._evaluate()
    while self.step < self.total_steps:
      self._compile()
      started = time.monotonic()
      batch = _first(self.data, self.step)
      waited, amounts = time.monotonic() - started, self.program.amounts(batch)
      clock.step(waited=waited, flops=self.program.flops(self.step), amounts=amounts)
      self.empty_shares.append(anomalies.empty_share(batch, amounts))
      self.state, self.totals, status = self.program.step(
        self.step, self.state, self.totals, batch, self.key
      )
      self.step += 1
      self.log.advance()
      statuses.append(status)
      # The host reads an old status, so that it is at most _STATUS_LAG steps ahead of the device.
      in_a_row = _read(statuses.popleft()) if len(statuses) > _STATUS_LAG else 0

      if self.step % config.log_period == 0 or self.step == self.total_steps:
        last = {**metrics_lib.means(self.totals), **clock.read()}
        last["wall_seconds"] = self._run_seconds()
        self._log_training(last)
        self.empty_shares.clear()
        skipped = self.totals.skipped_in_a_row
        self.totals = self.program.empty_metrics()._replace(skipped_in_a_row=skipped)
        clock.restart()
        save_due |= self._minutes_passed(last_save)
      if in_a_row >= config.max_skipped_steps:
        self._roll_back(in_a_row)
        statuses.clear()
        continue

      if self.lock is not None:
        self.lock.check()
      stop_cause = stop.requested(self.step)
      at_end = self.step == self.total_steps
      save_due |= self.step % config.checkpoint.period == 0
      # Not saved within a series of skipped updates: a rollback must restore a state before it.
      if at_end or stop_cause or (save_due and not _read(status)):
        self._save(final=at_end or bool(stop_cause))
        save_due, last_save = False, time.monotonic()
      if stop_cause:
        break
      if self._evaluation_is_due():
        evaluated = self._evaluate()
        clock.restart()
    self.checkpoints.wait()
    self._log_skipped()
    finished = self.step == self.total_steps
    if not finished:
      self.log.info(
        f"{stop_cause}: saved checkpoint_{self.step} of {self.total_steps}; "
        "rerun the same command to resume"
      )
    self.sum_up("" if finished else f"stopped by {stop_cause}")
    return TrainResult(self.step, finished, last, evaluated)

  def _log_training(self, metrics: dict[str, float]) -> None:
    self.log.train(self.step, metrics)
    warnings = anomalies.of_training(self.log.rows_of("train"))
    warnings += anomalies.of_data(statistics.fmean(self.empty_shares))
    if metrics.get("skipped_steps"):
      warnings.append(f"{metrics['skipped_steps']:.0f} non-finite update(s) were skipped")
    if self.program.metric_names <= set(metrics):
      warnings += self.model.warnings(metrics)
    self._warn(warnings)

  def _warn(self, sentences: Sequence[str]) -> None:
    for sentence in sentences:
      self.log.warn(self.step, sentence)

  def _evaluation_is_due(self) -> bool:
    at_end = self.step == self.total_steps
    return bool(self.eval_iterator) and (at_end or self.step % self.config.eval_period == 0)

  def _evaluation_is_missing(self) -> bool:
    """Returns whether the evaluation at the current step is due but not in the log."""
    if self.step == 0 or not self._evaluation_is_due():
      return False
    return not agreed(self.log.has_evaluation(self.step))

  def _evaluate(self) -> dict[str, float]:
    iterator = self.eval_iterator
    assert iterator is not None  # no evaluation is due without held-out data
    iterator.set_state(self.eval_start)
    batches = []
    for _ in range(self.config.eval_steps):
      try:
        batches.append(next(iterator))
      except StopIteration:
        break
    if not batches:
      raise DataError("the held-out data have no full batch; add clips or lower BATCH_SIZE")
    metrics = self.program.evaluate(self.state, batches)
    # All evaluations use the same batches, so audio and images show the same clips.
    self.log.evaluation(self.step, metrics, self.program.summaries(self.state, batches[0]))
    self._warn(anomalies.of_evaluation(self.log.rows_of("train"), self.log.rows_of("eval")))
    self._log_skipped()
    return metrics

  def _log_skipped(self) -> None:
    """Logs the report of skipped clips for each split, if the report of the split has changed."""
    for split, batches in (("training", self.data), ("held-out", self.eval_iterator)):
      report = batches.skip_report() if batches else ""
      if report and report != self.skip_reports.get(split):
        self.log.info(f"{split} data: {report}")
        self.skip_reports[split] = report

  def _save(self, *, final: bool) -> None:
    progress = {
      "metrics": metrics_lib.to_json(self.totals),
      "data": self.data.get_state(),
      "rollbacks": self.rollbacks,
    }
    if self.step == self.saved_step:
      return
    self._wait_for_save()
    try:
      self.checkpoints.save(self.step, self.state, progress)
      self.saved_step = self.step
    except checkpoints_lib.CheckpointError as error:
      if final:
        raise
      self.log.info(f"step {self.step}: {error}; training continues")

  def _wait_for_save(self) -> None:
    """Waits for the save in progress; logs an error of this save instead of raising it."""
    try:
      self.checkpoints.wait()
    except checkpoints_lib.CheckpointError as error:
      self.log.info(f"step {self.step}: {error}; training continues")

  def _roll_back(self, in_a_row: int) -> None:
    """Restores the state of the last checkpoint, or a new state; keeps the data position.

    Args:
      in_a_row: number of consecutive skipped updates.

    Raises:
      CheckpointError: all checkpoints are damaged.
      TrainingError: there were too many rollbacks to the same step.
    """
    failed_step = self.step
    self._wait_for_save()
    restored = self.checkpoints.restore(self.program.abstract_state)
    if restored is None:
      self.step = self.saved_step = 0
      self.state = self._fresh_state()
    else:
      self._log_damaged(restored)
      self.step = self.saved_step = restored.step
      self.state = restored.state
    self.totals = self.program.empty_metrics()
    self.rollbacks.append(self.step)
    if self.rollbacks.count(self.step) > _MAX_ROLLBACKS:
      raise TrainingError(
        f"training failed for the {_MAX_ROLLBACKS + 1}th time after step {self.step}: losses or "
        "gradients are not finite; lower the learning rate or check the data"
      )
    self.log.info(
      f"step {failed_step}: {in_a_row} consecutive updates were not finite; continuing from "
      f"{f'checkpoint_{self.step}' if restored else 'the beginning'} with the next data"
    )
    self.log.begin(self.step)

  def _log_damaged(self, restored: checkpoints_lib.Restored) -> None:
    for step, why in restored.damaged.items():
      self.log.info(
        f"checkpoint_{step} cannot be read ({why}); renamed it and using checkpoint_{restored.step}"
      )
    self.checkpoints.set_aside(restored.damaged)

  def _minutes_passed(self, last_save: float) -> bool:
    minutes = self.config.checkpoint.period_minutes
    passed = bool(minutes) and time.monotonic() - last_save > 60 * minutes
    return agreed(passed)

  def sum_up(self, how: str) -> None:
    """Writes summary.txt and logs a summary in one line.

    Args:
      how: reason why the call ended; "" if all steps are completed.
    """
    if jax.process_index() != 0:
      return
    ending = summary.Ending(
      component=self.model.component,
      next_command=self.model.next_command,
      model_dir=str(self.model_dir),
      how=how,
      step=self.step,
      total_steps=self.total_steps,
      batch_size=self.program.batch_size,
      parameters=self.program.num_inference_parameters(),
      call_seconds=time.monotonic() - self.started,
      run_seconds=self._run_seconds(),
      compile_seconds=self.program.compile_seconds,
      checkpoints=self.checkpoints.all_steps(),
      rollbacks=self.rollbacks,
      left_out=[f"{split} data: {report}" for split, report in self.skip_reports.items()],
      versions={**run_folder.versions(), run_folder.PRODUCTS: self.precision},
    )
    try:
      with files.atomic_write(self.model_dir / summary.SUMMARY_FILE) as file:
        file.write(summary.page(ending, self.log.rows, self.log.warnings).encode())
    except UserError as error:  # a missing summary must not fail a finished run
      self.log.info(str(error))
    self.log.info(summary.in_one_line(ending, self.log.rows))

  def _run_seconds(self) -> float:
    return self.seconds_before + time.monotonic() - self.started

  def close(self, finish_save: bool = True) -> None:
    """Stops the data thread and closes the log.

    Args:
      finish_save: whether to wait for a save in progress and to close the checkpoints.
    """
    self._closers.close()
    if not finish_save:
      return
    with contextlib.suppress(checkpoints_lib.CheckpointError):  # `loop` reports such errors
      self.checkpoints.close()


def _first(iterator: Iterator[Batch] | Batches, step: int = 0) -> Batch:
  try:
    return next(iterator)
  except StopIteration:
    raise DataError(
      f"the training data ended at step {step}; repeat the data or lower TRAIN_STEPS"
    ) from None


def _read(status: jax.Array) -> int:
  return int(jax.device_get(status))
