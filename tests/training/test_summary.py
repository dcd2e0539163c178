"""The summary at the end of a run."""

import dataclasses

import pytest
import toy_trainable as toy

from audiolm_jax.training import summary, trainer

ENDING = summary.Ending(
  component="coarse_stage",
  next_command="export_bundle --token_store=TOKENS --stage_dir=coarse={dir} --output=BUNDLE",
  model_dir="runs/coarse",
  how="",
  step=200,
  total_steps=200,
  batch_size=8,
  parameters=161_515_008,
  call_seconds=100.4,
  run_seconds=7300,
  compile_seconds=20,
  checkpoints=[100, 200],
  rollbacks=[],
  left_out=[],
  versions={
    "packages": {"jax": "0.12.0"},
    "python": "3.12.1",
    "devices": ["TPU v5 lite"],
    "device_count": 16,
    "products": "float32",
    "git_commit": "abc123",
    "git_dirty": True,
    "command": ["/somewhere/audiolm_jax/train.py", "--gin_file=a.gin", "--gin_bindings=X = 'y'"],
  },
)


def row(step, split="train", **values):
  return {"step": step, "split": split} | values


ROWS = [
  row(50, loss=3.0, perplexity_0=9.0, steps_per_second=2.0, tokens_per_second=20.0, mfu=0.3),
  row(100, "eval", loss=2.5, loss_quantizer_10=1.0, loss_quantizer_9=2.0),
  row(150, loss=2.0, steps_per_second=4.0, tokens_per_second=60.0, mfu=0.4, skipped_steps=2.0),
  row(200, "eval", loss=2.75, loss_quantizer_10=1.5, loss_quantizer_9=2.5),
  row(200, loss=2.25, steps_per_second=4.0, tokens_per_second=60.0, mfu=0.4, skipped_steps=1.0),
]


def line(page, start):
  return next(line for line in page.splitlines() if line.strip().startswith(start)).split()


def test_the_page_has_the_facts_about_the_run():
  page = summary.page(ENDING, ROWS, [])
  for text in (
    "coarse_stage, 161,515,008 parameters",
    "200 of 200, finished",
    "0:01:40 in this call (0:00:20 to compile), 2:01:40 in total",
    # 50 steps of 10 tokens, 150 of 15
    "1,600 examples, 2,750 tokens",
    "4 steps/s, 60 tokens/s, 40.0% of the devices' peak (MFU)",
    "100, 200",
    "3 non-finite updates",
    "Rolled back  never",
    "Warnings: none",
    "16 x TPU v5 lite",
    "float32 in training",
    "abc123, with uncommitted changes",
    "--token_store=TOKENS --stage_dir=coarse=runs/coarse --output=BUNDLE",
  ):
    assert text in page
  assert len(page.splitlines()) < 60 and max(map(len, page.splitlines())) < 130


def test_metrics_are_listed_with_their_steps_and_levels_in_order():
  page = summary.page(ENDING, ROWS, [])
  assert line(page, "loss")[1:] == ["3", "@50", "2.25", "@200", "2", "@150", "3", "@50"]
  assert "perplexity_0" not in page and "steps_per_second" not in page
  held_out = page[page.index("Held-out") :].splitlines()
  names = [text.split()[0] for text in held_out[1:4]]
  assert names == ["loss", "loss_quantizer_9", "loss_quantizer_10"]


def test_warnings_of_a_kind_are_one_line():
  warnings = [{"step": s, "text": f"codebook 3 has perplexity {s / 7:.1f}"} for s in (10, 20, 30)]
  page = summary.page(ENDING, ROWS, [*warnings, {"step": 40, "text": "the loss is high"}])
  assert "3 times, steps 10 to 30: codebook 3 has perplexity 4.3" in page
  assert "step 40: the loss is high" in page


def test_the_page_of_a_stopped_run_has_the_command_to_resume():
  stopped = dataclasses.replace(ENDING, how="SIGTERM", step=150, rollbacks=[100])
  page = summary.page(stopped, ROWS, [])
  assert "150 of 200, SIGTERM" in page and "to step 100" in page
  command = "python -m audiolm_jax.train --gin_file=a.gin '--gin_bindings=X = '\"'\"'y'\"'\"''"
  assert command in page and "export_bundle" not in page


def test_a_line_for_the_terminal_has_the_best_held_out_loss():
  assert summary.in_one_line(ENDING, ROWS) == (
    "coarse_stage: 200 of 200 steps in 2:01:40, held-out loss 2.75 (lowest 2.5 at step 100); "
    "see runs/coarse/summary.txt"
  )


def test_a_run_ends_with_a_summary_and_counts_the_time_of_all_calls(tmp_path):
  toy.run(tmp_path, total_steps=6)
  toy.run(tmp_path, total_steps=12, eval_dataset=lambda: toy.ToyData(end=3), eval_period=6)
  page = (tmp_path / "summary.txt").read_text()
  assert "Trained      toy, 577 parameters" in page
  assert "12 of 12, finished" in page and "96 examples" in page
  assert "Held-out" in page and "gradient_norm" in page and "Git commit" in page
  assert "summary.txt" in (tmp_path / "log.txt").read_text()


def test_the_summary_of_a_failed_run_has_the_error(tmp_path):
  bad = range(6, 1000)
  with pytest.raises(trainer.TrainingError):
    toy.run(
      tmp_path,
      train_dataset=lambda: toy.ToyData(bad=bad),
      total_steps=500,
      max_skipped_steps=3,
    )
  page = (tmp_path / "summary.txt").read_text()
  assert "ended by an error: training failed for the 4th time after step 5" in page
  assert "to step 5, to step 5" in page
