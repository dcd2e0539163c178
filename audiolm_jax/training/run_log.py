"""What a run says: metrics.jsonl, remarks.jsonl, TensorBoard, log.txt and the terminal."""

import contextlib
import datetime
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from audiolm_jax.training.metrics import Audio, Image, spectrogram_image

METRICS_FILE = "metrics.jsonl"
REMARKS_FILE = "remarks.jsonl"
_SHOWN = 4
_CLIPS = 4


class RunLog:
  """The log of one run folder; only the first process writes.

  `metrics.jsonl` has one object per line: {"step", "split", metrics...}; split is "train" or
  "eval". TensorBoard gets the same numbers under `train/` and `training_eval/`, and audio and
  pictures of the first clips; it needs TensorFlow, and where that is missing the log says so once.
  `remarks.jsonl` has what was off: {"step", "text"}.

  Attributes:
    rows: of metrics.jsonl, those of earlier calls included; empty in other processes.
    remarks: of remarks.jsonl, likewise.
  """

  def __init__(
    self,
    model_dir: str | os.PathLike[str],
    *,
    title: str,
    total_steps: int,
    tensorboard: bool = True,
  ):
    self._dir = Path(model_dir)
    self._writes = jax.process_index() == 0
    self._title, self._total = title, total_steps
    self._interactive = sys.stderr.isatty()
    self._bar: tqdm | None = None
    self._unwritten: set[str] = set()
    self.rows: list[dict[str, Any]] = []
    self.remarks: list[dict[str, Any]] = []
    self._writers = self._tensorboard() if tensorboard and self._writes else {}

  def say(self, sentence: str) -> None:
    """One line for the person at the terminal, kept in log.txt."""
    if not self._writes:
      return
    tqdm.write(sentence, file=sys.stderr)
    now = datetime.datetime.now().isoformat(timespec="seconds")
    self._append("log.txt", f"{now} {sentence}\n")

  def remark(self, step: int, text: str) -> None:
    """Something is off; said the first time, then ever more rarely, and kept each time."""
    if not self._writes:
      return
    self.remarks.append({"step": step, "text": text})
    self._append(REMARKS_FILE, json.dumps(self.remarks[-1]) + "\n")
    times = sum(same_remark(text) == same_remark(other["text"]) for other in self.remarks)
    if times & (times - 1) == 0:  # a power of two
      again = f" ({times} times by now)" if times > 1 else ""
      self.say(f"step {step}: {text}{again}")

  def rows_of(self, split: str) -> list[dict[str, Any]]:
    """The rows of "train" or of "eval"."""
    return [row for row in self.rows if row["split"] == split]

  def begin(self, step: int) -> None:
    """Shows progress from `step` on; rows of a lost stretch after it are taken out."""
    if not self._writes:
      return
    self.rows = _rows_until(self._dir / METRICS_FILE, step)
    self.remarks = _rows_until(self._dir / REMARKS_FILE, step)
    if self._interactive:
      if self._bar is None:
        self._bar = tqdm(total=self._total, desc=self._title, dynamic_ncols=True, unit="step")
      self._bar.reset(self._total)
      self._bar.update(step)
      self._bar.refresh()

  def has_evaluation(self, step: int) -> bool:
    """Whether the held-out data have had their turn at `step`."""
    return any(row["step"] == step for row in self.rows_of("eval"))

  def advance(self) -> None:
    """One step done."""
    if self._bar is not None:
      self._bar.update(1)

  def train(self, step: int, metrics: Mapping[str, float]) -> None:
    """Mean training metrics of the steps since the last call."""
    if not self._writes:
      return
    self._write(step, "train", metrics)
    shown = _shown(metrics)
    if self._bar is not None:
      self._bar.set_postfix_str(shown)
    else:
      rate = metrics.get("steps_per_second", 0.0)
      left = (self._total - step) / rate if rate else 0.0
      print(
        f"{self._title} {step}/{self._total}  {rate:.2f} steps/s  {shown}  "
        f"{datetime.timedelta(seconds=round(left))} left",
        file=sys.stderr,
        flush=True,
      )

  def evaluation(
    self, step: int, metrics: Mapping[str, float], summaries: Mapping[str, Audio | Image]
  ) -> None:
    """Mean metrics on held-out data, with what there is to hear and see."""
    if not self._writes:
      return
    self._write(step, "eval", metrics)
    self.say(f"step {step}, held-out: {_shown(metrics)}")
    if "eval" in self._writers:
      with self._to_tensorboard():
        self._show(self._writers["eval"], step, summaries)

  def _show(self, writer: Any, step: int, summaries: Mapping[str, Audio | Image]) -> None:
    for name, value in summaries.items():
      if isinstance(value, Audio):
        samples = np.asarray(value.samples[:_CLIPS], np.float32)
        writer.write_audios(step, {name: samples[..., None]}, sample_rate=value.sample_rate)
        pictures = [spectrogram_image(clip, value.sample_rate) for clip in samples]
        writer.write_images(step, {f"{name}_spectrogram": np.stack(pictures)})
      else:
        writer.write_images(step, {name: np.asarray(value.pixels[:_CLIPS], np.float32)})
    writer.flush()

  def close(self) -> None:
    """Everything on disk, the progress bar ended."""
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
    """A whole line or nothing: a log that cannot be written does not end the run."""
    path = self._dir / name
    size = path.stat().st_size if path.exists() else 0
    try:
      with open(path, "a") as file:
        file.write(line)
    except OSError as error:
      if path.exists():
        os.truncate(path, size)
      self._say_unwritten(str(path), error.strerror or str(error))

  @contextlib.contextmanager
  def _to_tensorboard(self) -> Iterator[None]:
    """A full disk costs the TensorBoard files of this call of `train`, and not the run."""
    try:
      yield
    except Exception as error:  # TensorFlow has kinds of its own
      why = str(error).splitlines()[0].split("}} ")[-1]
      self._say_unwritten(f"TensorBoard files in {self._dir}", why)
      self._writers = {}  # It would print a page at every further try.

  def _say_unwritten(self, what: str, why: str) -> None:
    if what not in self._unwritten:
      tqdm.write(f"cannot write {what}: {why}; lines are missing", file=sys.stderr)
    self._unwritten.add(what)

  def _tensorboard(self) -> dict[str, Any]:
    try:
      with _silent_stderr():
        from clu import metric_writers

        from audiolm_jax.data.tensorflow_setup import keep_off_gpu
    except ImportError as error:
      self.say(f"no TensorBoard files ({error}); the metrics are in {self._dir / METRICS_FILE}")
      return {}
    keep_off_gpu()
    folders = {"train": "train", "eval": "training_eval"}
    with self._to_tensorboard():
      return {k: metric_writers.SummaryWriter(str(self._dir / v)) for k, v in folders.items()}
    return {}


def same_remark(text: str) -> str:
  """A remark without its figures: what two of one kind have in common."""
  return re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", text)


def _shown(metrics: Mapping[str, float]) -> str:
  names = [n for n in metrics if "loss" in n or "accuracy" in n]
  names.sort(key=lambda n: (n != "loss", n))
  return "  ".join(f"{n} {metrics[n]:.4g}" for n in names[:_SHOWN])


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
  """TensorFlow's libraries write to file descriptor 2 as they load, whatever their settings."""
  sys.stderr.flush()
  kept = os.dup(2)
  null = os.open(os.devnull, os.O_WRONLY)
  try:
    os.dup2(null, 2)
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)
    os.close(null)


def _rows_until(path: Path, step: int) -> list[dict[str, Any]]:
  """The rows up to `step`; the file is cut, which needs no room on a full disk, before others."""
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
