"""The log of a run."""

import json
import subprocess
import sys

import numpy as np
import pytest

from audiolm_jax.trainables.tensorboard import summary_writer
from audiolm_jax.training.metrics import Audio
from audiolm_jax.training.run_log import METRICS_FILE, RunLog


@pytest.fixture
def log(tmp_path):
  log = RunLog(tmp_path, title="toy", total_steps=10)
  yield log
  log.close()


def rows(folder):
  return [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]


def test_metrics_are_one_object_a_line(log, tmp_path):
  log.begin(0)
  log.train(2, {"loss": 0.5, "accuracy": 0.25, "steps_per_second": 4.0})
  log.evaluation(2, {"loss": 1.5}, {})
  train, held_out = rows(tmp_path)
  expected = {"step": 2, "split": "train", "loss": 0.5, "accuracy": 0.25, "steps_per_second": 4.0}
  assert train == expected
  assert held_out == {"step": 2, "split": "eval", "loss": 1.5}


def test_without_a_terminal_a_line_has_rate_and_remaining_time(log, capfd):
  log.begin(0)
  log.train(4, {"loss": 0.5, "steps_per_second": 2.0})
  assert "toy 4/10  2.00 steps/s  loss 0.5  0:00:03 left" in capfd.readouterr().err


def test_rows_after_the_resumed_step_are_removed(log, tmp_path):
  log.begin(0)
  for step in (2, 4, 6):
    log.train(step, {"loss": float(step)})
  with open(tmp_path / METRICS_FILE, "a") as file:
    file.write('{"step": 8, "spl')  # killed while writing
  log.begin(4)
  assert [row["step"] for row in rows(tmp_path)] == [2, 4]


def test_logged_sentences_are_written_to_the_file(log, tmp_path, capfd):
  log.info("the codebook has collapsed")
  assert "the codebook has collapsed" in capfd.readouterr().err
  assert (tmp_path / "log.txt").read_text().endswith(" the codebook has collapsed\n")


def test_a_full_disk_loses_lines_but_does_not_stop_the_run(tmp_path):
  # A limit on file sizes fails in the same call as a full disk.
  program = (
    "import resource, signal, sys\n"
    "from audiolm_jax.training.run_log import RunLog\n"
    "log = RunLog(sys.argv[1], title='toy', total_steps=9)\n"
    "log.train(1, {'loss': 1.0})\n"
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    "for step in (2, 3): log.train(step, {'loss': 1.0, 'x' * 80: 1.0}); log.info('y' * 200)\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert done.stderr.count("metrics.jsonl: File too large") == 1
  assert done.stderr.count("log.txt: File too large") == 1
  assert [row["step"] for row in rows(tmp_path)] == [1]
  assert (tmp_path / "log.txt").read_text() == ""


def test_tensorboard_gets_scalars_audio_and_spectrograms(tmp_path):
  pytest.importorskip("tensorflow")
  from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

  log = RunLog(tmp_path, title="toy", total_steps=10, summary_writer=summary_writer)
  log.begin(0)
  sound = np.sin(np.arange(8000) / 10, dtype=np.float32)[None]
  log.evaluation(3, {"loss": 0.5}, {"audio/original": Audio(sound, 16000)})
  log.close()
  events = EventAccumulator(str(tmp_path / "training_eval")).Reload()
  tags = events.Tags()
  found = {tag for kind in ("tensors", "audio", "images", "scalars") for tag in tags[kind]}
  assert any(tag.startswith("loss") for tag in found)
  assert any(tag.startswith("audio/original") and "spectrogram" not in tag for tag in found)
  assert any("audio/original_spectrogram" in tag for tag in found)
