import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from audiolm_jax import bundles

RATE = 16_000


@pytest.fixture(scope="module")
def melody():
  rng = np.random.default_rng(0)

  def make(seconds: float, base: float) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    notes = base * 2 ** (rng.integers(0, 8, int(seconds * 4) + 1) / 12)
    phase = 2 * np.pi * np.cumsum(notes[(t * 4).astype(int)]) / RATE
    return (0.2 * sum(np.sin(k * phase) / k for k in range(1, 9))).astype(np.float32)  # pyright: ignore[reportAttributeAccessIssue]: a sum of arrays

  return make


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, melody):
  folder = tmp_path_factory.mktemp("corpus")
  rows = []
  for split, count, seconds in (("train", 4, 7.0), ("valid", 2, 8.0), ("probe", 4, 2.0)):
    for i in range(count):
      path = f"{split}_{i}.wav"
      soundfile.write(folder / path, melody(seconds, 110 + 60 * (i % 2)), RATE)
      row = {"path": path, "seconds": seconds, "speaker": f"{split}{i % 2}", "split": split}
      row["text"] = "no words at all"
      rows.append(row | ({"sentence": f"s{i // 2}"} if split == "probe" else {}))
  (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  return folder / "manifest.jsonl"


@pytest.fixture(scope="module")
def bundle_folder(miniature_bundle, detector, tmp_path_factory):
  bundle = dataclasses.replace(miniature_bundle, detector=detector)
  return bundles.save_bundle(bundle, tmp_path_factory.mktemp("bundles") / "miniature")


@pytest.fixture(scope="module")
def items(corpus, tmp_path_factory):
  """ABX items in the clips of `corpus`: phones of a quarter of a second, by two speakers."""
  path = tmp_path_factory.mktemp("items") / "dev.item"
  lines = ["#file onset offset #phone prev-phone next-phone speaker"]
  for file in ("valid_0", "valid_1"):
    for i in range(8):
      lines.append(f"{file} {i / 4} {(i + 1) / 4} {'ab'[i % 2]} x y {file}")
  path.write_text("\n".join(lines))
  return path


@pytest.fixture(scope="module")
def sound_pairs(corpus, tmp_path_factory):
  path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
  names = [str(corpus.parent / f"probe_{i}.wav") for i in range(4)]
  rows = [{"good": names[i], "bad": names[i + 1], "category": "tune"} for i in (0, 2)]
  path.write_text("\n".join(json.dumps(row) for row in rows))
  return path


def test_every_suite_writes_its_rows(run_cli, corpus, bundle_folder, items, sound_pairs, tmp_path):
  done = run_cli(
    "eval",
    f"--bundle={bundle_folder}",
    f"--data={corpus}",
    "--suite=all",
    f"--output_dir={tmp_path / 'results'}",
    "--max_clips=2",
    "--max_continuations=2",
    "--duration=1",
    "--encode_hours=0.002",
    "--speaker_steps=2",
    f"--items={items}",
    f"--items_audio_dir={corpus.parent}",
    f"--pairs={sound_pairs}",
    f"--other_bundle={bundle_folder}",
  )
  assert done.code == 0, done.err
  results = json.loads((tmp_path / "results" / "results.json").read_text())
  figures = [row["figure"] for row in results["rows"]]
  for wanted in (
    "STOI, 4 levels",
    "codebook perplexity over its size, worst level",
    "same sentence by another voice nearer than another by the same voice",
    "share below the better bigram, semantic",
    "share below the better bigram, coarse",
    "share below the better bigram, fine",
    "prompt's speaker found, among 2, continuation",
    "audio seconds made per second",
    "semantic token distance, samples of one prompt",
    "sound distance (log-mel statistics), real continuations of different prompts",
    "ABX error across speakers, semantic tokens",
    "accuracy by the mean over tokens, fine stage, tune",
    "speaker found, among 4, resynthesis",
    "word error rate against the text, resynthesis above codec",
    "accuracy, 1 s, MP3 at 24 kbit/s",
    "samples of another bundle classified as synthetic, miniature, 1 s",
    "sample, nothing compiled before, s",
    "encode, peak memory, GB, 0.002 h",
  ):
    assert results["rows"][figures.index(wanted)]["estimate"]["n"] >= 1
    assert f"| {wanted} |" in done.out
  assert results["bundle"] == "miniature"
  assert len(results["token_hash"]) == 16
  assert (tmp_path / "results" / "continuations.png").stat().st_size > 5000
  sound, rate = soundfile.read(tmp_path / "results" / "continuation_1.flac")
  assert (len(sound), rate) == (4 * RATE, RATE)
  page = (tmp_path / "results" / "index.html").read_text()
  assert page.count("<audio") == 2 and page.count("<img") == 1 and "STOI, 4 levels" in page
  table = (tmp_path / "results" / "results.csv").read_text()
  assert len(table.splitlines()) == 1 + len(figures)


def test_the_page_has_piano_by_two_bundles(run_cli, corpus, bundle_folder, tmp_path):
  arguments = (
    f"--bundle={bundle_folder}", f"--data={corpus}", f"--other_bundle={bundle_folder}",
    "--suite=piano", "--domain=music", "--max_continuations=2", "--duration=1",
  )  # fmt: skip
  done = run_cli("eval", *arguments, f"--output_dir={tmp_path}")
  assert done.code == 0, done.err
  rows = {row["figure"]: row for row in json.loads((tmp_path / "results.json").read_text())["rows"]}
  # The same bundle with the same seeds samples the same: every comparison is a tie.
  tie = rows["chroma cosine nearer to the real one, continuation than miniature continuation"]
  assert (tie["estimate"]["value"], tie["estimate"]["n"]) == (0.5, 2)
  assert rows["same key, another piece's"]["estimate"]["n"] == 2
  page = (tmp_path / "index.html").read_text()
  assert page.count("<audio") == 4 and "prompt and miniature continuation" in page


def test_suites_whose_data_are_missing_are_skipped(run_cli, corpus, bundle_folder, tmp_path):
  arguments = (f"--bundle={bundle_folder}", f"--data={corpus}", f"--output_dir={tmp_path}")
  done = run_cli("eval", *arguments, "--suite=content,likelihood,piano")
  assert done.code == 2 and "every suite was skipped" in done.err
  details = json.loads((tmp_path / "results.json").read_text())["details"]
  assert details["content"] == {"skipped": "it needs ABX items (--items)"}
  assert details["likelihood"] == {"skipped": "it needs pairs of sounds (--pairs)"}
  assert details["piano"] == {"skipped": "it needs music (--domain=music)"}


def test_check_prints_what_the_data_sets_have(run_cli, corpus, items, sound_pairs):
  done = run_cli(
    *("eval", "--check", f"--data={corpus}", f"--items={items}", f"--pairs={sound_pairs}"),
    f"--items_audio_dir={corpus.parent}",
  )
  assert done.code == 0, done.err
  assert "train: 4 clips, 2 named speakers" in done.out
  assert f"{corpus}: layout manifest, 0 audio files left out" in done.out
  assert "16 items in 2 files, none is missing" in done.out and "2 pairs, none" in done.out
  missing = run_cli("eval", "--check", f"--items={items}", f"--items_audio_dir={items.parent}")
  assert missing.code == 2 and "the items name valid_0" in missing.err
  assert "--check needs" in run_cli("eval", "--check").err


def test_check_prints_the_layout_and_what_does_not_match_it(run_cli, tmp_path):
  for name in ("train-clean-100/19/1/a.wav", "test-clean/61/7/b.wav", "stray.wav"):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(tmp_path / name, np.full(1_600, 0.1), 16_000)
  done = run_cli("eval", "--check", f"--data={tmp_path}")
  assert done.code == 0 and done.out.splitlines() == [
    f"{tmp_path}: layout librispeech, 1 audio files left out",
    "  stray.wav: not part of the layout librispeech",
    f"{tmp_path}: test: 1 clips, 1 named speakers",
    f"{tmp_path}: train: 1 clips, 1 named speakers",
  ]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--suite=codecs"], "no suite 'codecs'"),
    (["--suite=codec"], "--data is needed"),
    (["--suite=codec", "--data=x"], "--output_dir is needed"),
    (["--suite=cost", "--data=x", "--output_dir=OUT", "--encode_hours=0"], "encode_hours"),
    (["--suite=codec", "--data=missing.jsonl", "--output_dir=OUT"], "missing.jsonl"),
    (["--suite=codec", "--data=x", "--output_dir=OUT", "--bundle=nobody"], "no bundle 'nobody'"),
  ],
)
def test_errors_are_one_line(run_cli, bundle_folder, tmp_path, arguments, message):
  given = [a.replace("OUT", str(tmp_path / "out")) for a in arguments]
  done = run_cli("eval", f"--bundle={bundle_folder}", *given)
  assert done.code == 2
  assert message in done.err
  assert len(done.err.strip().splitlines()) == 1


def test_importing_the_command_imports_no_heavy_package():
  code = "import audiolm_jax.eval, sys; print(*sys.modules)"
  loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
  assert not {"jax", "matplotlib", "tensorflow", "pesq", "librosa"} & set(loaded)


def test_clips_that_begin_in_silence_are_skipped(run_cli, melody, bundle_folder, tmp_path):
  for i in range(3):
    late = np.concatenate([np.zeros(2 * RATE if i else 0, np.float32), melody(6.0, 150 + 40 * i)])
    soundfile.write(tmp_path / f"valid_{i}.wav", late, RATE)
  rows = [{"path": f"valid_{i}.wav", "speaker": f"s{i}", "split": "valid"} for i in range(3)]
  (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  arguments = (
    f"--bundle={bundle_folder}", f"--data={tmp_path / 'manifest.jsonl'}", "--domain=music",
    "--suite=continuation", "--prompt_seconds=1", "--duration=1",
  )  # fmt: skip
  done = run_cli("eval", *arguments, f"--output_dir={tmp_path / 'results'}")
  assert done.code == 0, done.err
  assert done.out.count("skipped: ") == 2 and "is silent" in done.out
