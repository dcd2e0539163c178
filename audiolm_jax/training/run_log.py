"""The log of a run: metrics.jsonl, warnings.jsonl, TensorBoard, log.txt and the terminal."""

import contextlib
import datetime
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from tqdm import tqdm

from audiolm_jax.core.configs import JsonDict
from audiolm_jax.training.metrics import Audio, Image, spectrogram_image

METRICS_FILE = "metrics.jsonl"
WARNINGS_FILE = "warnings.jsonl"
_SHOWN = 4
_CLIPS = 4


@runtime_checkable
class SummaryWriter(Protocol):
  """Writes TensorBoard files to one folder, like `clu.metric_writers.MetricWriter`."""

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None: ...

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None: ...

  def write_audios(
    self, step: int, audios: Mapping[str, np.ndarray], *, sample_rate: int
  ) -> None: ...

  def flush(self) -> None: ...

  def close(self) -> None: ...


# Creates a writer for a folder; raises ImportError if a package is missing.
SummaryWriterFactory = Callable[[Path], SummaryWriter]


class RunLog:
  """The log of one run folder; only process 0 writes.

  Each line of `metrics.jsonl` is an object {"step", "split", metrics...}; the split is "train" or
  "eval". The metrics are also written to TensorBoard files in `train/` and `training_eval/`, with
  audio and images of the first held-out clips. If the package for TensorBoard files is missing, the
  log states this once. Each line of `warnings.jsonl` is an object {"step", "text"}.

  Args:
    model_dir: the run folder.
    title: name of the model in the output on the terminal.
    total_steps: number of steps of the run.
    summary_writer: creates the writer of TensorBoard files in a folder; None for no such files.

  Attributes:
    rows: rows of metrics.jsonl, read by `begin` or logged since; empty except in process 0.
    warnings: rows of warnings.jsonl, read by `begin` or logged since; empty except in process 0.
  """

  def __init__(
    self,
    model_dir: str | os.PathLike[str],
    *,
    title: str,
    total_steps: int,
    summary_writer: SummaryWriterFactory | None = None,
  ):
    self._dir = Path(model_dir)
    self._writes = jax.process_index() == 0
    self._title, self._total = title, total_steps
    self._interactive = sys.stderr.isatty()
    self._bar: tqdm | None = None
    self._unwritten: set[str] = set()
    self.rows: list[JsonDict] = []
    self.warnings: list[JsonDict] = []
    self._writers: dict[str, SummaryWriter] = {}
    self._writers = self._open(summary_writer) if summary_writer and self._writes else {}

  def info(self, sentence: str) -> None:
    """Prints one line to the terminal and appends it to log.txt."""
    if not self._writes:
      return
    tqdm.write(sentence, file=sys.stderr)
    now = datetime.datetime.now().isoformat(timespec="seconds")
    self._append("log.txt", f"{now} {sentence}\n")

  def warn(self, step: int, text: str) -> None:
    """Appends a warning to warnings.jsonl.

    Of the warnings of one kind, only the 1st, 2nd, 4th, 8th, … are printed; see `warning_kind`.
    """
    if not self._writes:
      return
    self.warnings.append({"step": step, "text": text})
    self._append(WARNINGS_FILE, json.dumps(self.warnings[-1]) + "\n")
    times = sum(warning_kind(text) == warning_kind(other["text"]) for other in self.warnings)
    if times & (times - 1) == 0:  # a power of two
      again = f" ({times} times so far)" if times > 1 else ""
      self.info(f"step {step}: {text}{again}")

  def rows_of(self, split: str) -> list[JsonDict]:
    """Returns the rows of metrics.jsonl of the split "train" or "eval"."""
    return [row for row in self.rows if row["split"] == split]

  def begin(self, step: int) -> None:
    """Starts the progress bar at `step`; removes rows of later steps, as these steps run again."""
    if not self._writes:
      return
    self.rows = _rows_until(self._dir / METRICS_FILE, step)
    self.warnings = _rows_until(self._dir / WARNINGS_FILE, step)
    if self._interactive:
      if self._bar is None:
        self._bar = tqdm(total=self._total, desc=self._title, dynamic_ncols=True, unit="step")
      self._bar.reset(self._total)
      self._bar.update(step)
      self._bar.refresh()

  def has_evaluation(self, step: int) -> bool:
    """Returns whether the log has an evaluation at `step`."""
    return any(row["step"] == step for row in self.rows_of("eval"))

  def advance(self) -> None:
    """Advances the progress bar by one step."""
    if self._bar is not None:
      self._bar.update(1)

  def train(self, step: int, metrics: Mapping[str, float]) -> None:
    """Logs a row of training metrics.

    Args:
      step: number of completed steps.
      metrics: means over the steps since the last call.
    """
    if not self._writes:
      return
    self._write(step, "train", metrics)
    shown = _shown(metrics)
    if self._bar is not None:
      self._bar.set_postfix_str(shown)
    else:
      rate = metrics.get("steps_per_second", 0.0)
      remaining = (self._total - step) / rate if rate else 0.0
      print(
        f"{self._title} {step}/{self._total}  {rate:.2f} steps/s  {shown}  "
        f"{datetime.timedelta(seconds=round(remaining))} left",
        file=sys.stderr,
        flush=True,
      )

  def evaluation(
    self, step: int, metrics: Mapping[str, float], summaries: Mapping[str, Audio | Image]
  ) -> None:
    """Logs a row of metrics on held-out data.

    Args:
      step: number of completed steps.
      metrics: means over the evaluation batches.
      summaries: audio and images for TensorBoard, by name.
    """
    if not self._writes:
      return
    self._write(step, "eval", metrics)
    self.info(f"step {step}, held-out: {_shown(metrics)}")
    if "eval" in self._writers:
      with self._to_tensorboard():
        self._show(self._writers["eval"], step, summaries)

  def _show(self, writer: SummaryWriter, step: int, summaries: Mapping[str, Audio | Image]) -> None:
    for name, value in summaries.items():
      if isinstance(value, Audio):
        samples = np.asarray(value.samples[:_CLIPS], np.float32)
        writer.write_audios(step, {name: samples[..., None]}, sample_rate=value.sample_rate)
        images = [spectrogram_image(clip, value.sample_rate) for clip in samples]
        writer.write_images(step, {f"{name}_spectrogram": np.stack(images)})
      else:
        writer.write_images(step, {name: np.asarray(value.pixels[:_CLIPS], np.float32)})
    writer.flush()

  def close(self) -> None:
    """Closes the TensorBoard files and the progress bar."""
    if self._bar is not None:
      self._bar.close()
    with self._to_tensorboard():
      for writer in self._writers.values():
        writer.close()

  def _write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    row = {"step": step, "split": split, **{n: float(v) for n, v in sorted(metrics.items())}}
    self.rows.append(row)
    self._append(METRICS_FILE, json.dumps(row) + "\n")
    if split in self._writers:
      with self._to_tensorboard():
        self._writers[split].write_scalars(step, dict(metrics))
        self._writers[split].flush()

  def _append(self, name: str, line: str) -> None:
    """Appends a complete line to a file; after an error, prints the error and appends nothing."""
    path = self._dir / name
    size = path.stat().st_size if path.exists() else 0
    try:
      with open(path, "a") as file:
        file.write(line)
    except OSError as error:
      if path.exists():
        os.truncate(path, size)
      self._print_unwritten(str(path), error.strerror or str(error))

  @contextlib.contextmanager
  def _to_tensorboard(self) -> Iterator[None]:
    """Returns a context for the code that writes TensorBoard files.

    After an error, such as a full disk, no more TensorBoard files are written, and the run
    continues. An ImportError is raised again.
    """
    try:
      yield
    except ImportError:
      raise
    except Exception as error:  # TensorFlow has its own exception types
      why = str(error).splitlines()[0].split("}} ")[-1]
      self._print_unwritten(f"TensorBoard files in {self._dir}", why)
      self._writers = {}  # each further attempt would print a long message

  def _print_unwritten(self, what: str, why: str) -> None:
    if what not in self._unwritten:
      tqdm.write(f"cannot write {what}: {why}; lines are lost", file=sys.stderr)
    self._unwritten.add(what)

  def _open(self, summary_writer: SummaryWriterFactory) -> dict[str, SummaryWriter]:
    folders = {"train": "train", "eval": "training_eval"}
    try:
      with self._to_tensorboard():
        return {k: summary_writer(self._dir / v) for k, v in folders.items()}
    except ImportError as error:
      self.info(f"no TensorBoard files ({error}); the metrics are in {self._dir / METRICS_FILE}")
    return {}


def warning_kind(text: str) -> str:
  """Returns a warning with "#" in place of numbers; warnings of one kind have equal results."""
  return re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", text)


def _shown(metrics: Mapping[str, float]) -> str:
  names = [n for n in metrics if "loss" in n or "accuracy" in n]
  names.sort(key=lambda n: (n != "loss", n))
  return "  ".join(f"{n} {metrics[n]:.4g}" for n in names[:_SHOWN])


def _rows_until(path: Path, step: int) -> list[JsonDict]:
  """Returns the rows of a file up to `step`, and removes all later rows from the file.

  The file is truncated, not written again, so this also succeeds on a full disk.
  """
  if not path.exists():
    return []
  rows, kept = [], 0
  for line in path.read_bytes().splitlines(keepends=True):
    if not line.endswith(b"}\n") or json.loads(line)["step"] > step:
      break
    rows.append(json.loads(line))
    kept += len(line)
  if kept < path.stat().st_size:
    os.truncate(path, kept)
  return rows
