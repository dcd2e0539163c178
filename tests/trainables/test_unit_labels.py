"""Labels, encoder and clusters on sounds whose phones are known: bands of noise, in two voices."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import DataError
from audiolm_jax.data.datasets import InMemoryLabelledFrames
from audiolm_jax.data.frame_labels import save_frame_labels
from audiolm_jax.data.manifest import list_clips
from audiolm_jax.semantic.features import LogMelConfig
from audiolm_jax.semantic.unit_encoder import UnitEncoderConfig
from audiolm_jax.trainables import run
from audiolm_jax.trainables.semantic_tokenizer import load_tokenizer
from audiolm_jax.trainables.unit_labels import (
  cepstral_features,
  cluster_clips,
  encoder_features,
  label_clips,
)
from audiolm_jax.trainables.units import UnitTrainable, UnitTrainingConfig
from audiolm_jax.training.checkpoints import CheckpointConfig
from audiolm_jax.training.optimizers import OptimizerConfig
from audiolm_jax.training.trainer import TrainConfig

FRONT_END = LogMelConfig(hop_length=320, num_mels=24)
PHONES = "aeiou"
HERTZ = dict(zip(PHONES, (500, 1000, 1900, 3200, 5000), strict=True))
SPELLED = {"canonical": (1.0, 8), "other": (1.12, 11)}  # factor of frequencies, frames per phone


def speak(text, speaker, seed):
  """Returns 16 kHz noise in a band for each letter, and the letter of each frame."""
  factor, frames = SPELLED[speaker]
  rng = np.random.default_rng(seed)
  parts, spoken = [], []
  for letter in text:
    count = frames + int(rng.integers(-2, 3))
    spectrum = np.fft.rfft(rng.standard_normal(count * 320))
    hertz = np.fft.rfftfreq(count * 320, 1 / 16_000)
    spectrum *= np.exp(-0.5 * ((hertz / (HERTZ[letter] * factor) - 1) / 0.08) ** 2)
    sound = np.fft.irfft(spectrum)
    parts.append(0.2 * sound / np.abs(sound).max())
    spoken += letter * count
  return np.concatenate(parts).astype(np.float32), spoken


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  """Eight texts by both voices, and one by the canonical voice alone; phones of every clip."""
  folder = tmp_path_factory.mktemp("units")
  rng = np.random.default_rng(0)
  rows, phones = [], {}
  for i in range(9):
    text = "".join(rng.permutation(list(PHONES * 3)))
    for speaker in list(SPELLED)[: 1 if i == 8 else 2]:
      path = f"{speaker}_{i}.wav"
      waveform, phones[path] = speak(text, speaker, seed=i)
      soundfile.write(folder / path, waveform, 16_000)
      # Spelling differs, as in texts from different sources.
      written = text.upper() + "!" if speaker == "other" else text
      rows.append(
        {
          "path": path,
          "speaker": speaker,
          "text": written,
          "split": "valid" if i == 7 else "train",
        }
      )
  (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
  return folder, phones


def agreement(labels, phones, speaker):
  """The share of the frames of one voice whose label is that of their phone most often."""
  names = [name for name in labels.clips if name.startswith(speaker)]
  found = np.concatenate([labels.clips[name] for name in names])
  spoken = np.array([letter for name in names for letter in phones[name]])
  counts = {
    letter: np.bincount(
      np.concatenate(
        [x[np.array(phones[n]) == letter] for n, x in labels.clips.items() if "canonical" in n]
      ),
      minlength=labels.num_labels,
    )
    for letter in PHONES
  }
  best = {label: max(PHONES, key=lambda p: counts[p][label]) for label in range(labels.num_labels)}
  return np.mean([best[int(label)] == letter for label, letter in zip(found, spoken, strict=True)])


def test_another_voice_gets_the_labels_of_the_canonical_one(corpus):
  folder, phones = corpus
  clips = list_clips(folder / "manifest.jsonl")
  labels, report = label_clips(
    clips,
    "canonical",
    cepstral_features(FRONT_END),
    num_labels=12,
    kept_share=1.0,
    canonical_share=1.0,
  )
  assert (
    report.canonical == report.canonical_kept == 9 and report.aligned == 8 and report.unread == 0
  )
  assert {n: len(x) for n, x in labels.clips.items()} == {n: len(p) for n, p in phones.items()}
  assert agreement(labels, phones, "canonical") > 0.85
  assert agreement(labels, phones, "other") > 0.8

  few, report = label_clips(
    clips,
    "canonical",
    cepstral_features(FRONT_END),
    num_labels=12,
    kept_share=0.5,
    canonical_share=1.0,
  )
  assert report.dropped == 4 and len(few.clips) == 9 + 4
  fewer, report = label_clips(
    clips, "canonical", cepstral_features(FRONT_END), num_labels=12, kept_share=1.0,
    canonical_share=0.3,
  )  # fmt: skip
  frames = {
    speaker: sum(len(x) for name, x in fewer.clips.items() if name.startswith(speaker))
    for speaker in SPELLED
  }
  assert 0.2 < frames["canonical"] / sum(frames.values()) <= 0.3
  assert report.aligned == 8 and 0 < report.canonical_kept < 9
  assert all(np.array_equal(x, labels.clips[name]) for name, x in fewer.clips.items())
  with pytest.raises(DataError, match="no clip is of the speaker 'nobody'; there are canonical"):
    label_clips(clips, "nobody", cepstral_features(FRONT_END))
  alone = [clip for clip in clips if clip.speaker == "canonical" or clip.id == "other_0.wav"]
  without = [c for c in alone if c.id != "canonical_0.wav"]
  with pytest.raises(DataError, match="canonical reads no text of another speaker"):
    label_clips(without, "canonical", cepstral_features(FRONT_END), num_labels=4)


def test_an_encoder_learns_the_labels_and_its_clusters_are_phones(corpus, tmp_path, run_cli):
  folder, phones = corpus
  source = str(folder / "manifest.jsonl")
  clips = list_clips(source)
  first = cepstral_features(FRONT_END)
  labels, _ = label_clips(
    clips, "canonical", first, num_labels=12, kept_share=1.0, canonical_share=1.0
  )
  save_frame_labels(tmp_path / "labels.npz", labels)
  encoder = UnitEncoderConfig(FRONT_END, dim=24, dilations=(1, 1), kernel_size=5)
  optimizer = OptimizerConfig(name="adamw", learning_rate=5e-3, schedule="constant")
  config = UnitTrainingConfig(
    encoder, num_labels=12, augment=None, ema_decay=0.8, optimizer=optimizer
  )

  def dataset(split, num_epochs):
    return InMemoryLabelledFrames(
      source, str(tmp_path / "labels.npz"), 1.0, split, 8, num_epochs=num_epochs
    )

  run.train(
    model=UnitTrainable(config),
    config=TrainConfig(
      str(tmp_path / "run"),
      total_steps=60,
      eval_period=60,
      log_period=20,
      checkpoint=CheckpointConfig(period=60),
    ),
    train_dataset=dataset("train", None),
    eval_dataset=dataset("valid", 1),
  )
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  metrics = [json.loads(line) for line in lines]
  held_out = [row for row in metrics if row["split"] == "eval"][-1]
  assert held_out["accuracy"] > 0.6 and held_out["loss"] < 1.5  # chance: 0.1, 2.5

  # A second round, with features of the encoder.
  from audiolm_jax.trainables.registry import load_inference_params

  component, loaded, params = load_inference_params(tmp_path / "run")
  assert component == "units" and loaded == config
  again, report = label_clips(
    clips, "canonical", encoder_features(encoder, params["encoder"]), num_labels=12, kept_share=1.0
  )
  assert report.aligned == 8 and agreement(again, phones, "other") > 0.85

  # Clusters of the features of each clip, without texts.
  own = cluster_clips(clips, encoder_features(encoder, params["encoder"]), num_labels=12)
  assert own.clips.keys() == phones.keys() and agreement(own, phones, "other") > 0.85

  # A copy gets the labels of its source recording, which has the same length.
  noisy = dataclasses.replace(clips[1], id="noisy", path=str(tmp_path / "noisy.wav"))
  noisy = dataclasses.replace(noisy, source_path=clips[1].path)
  waveform, rate = soundfile.read(clips[1].path)
  noise = 0.1 * np.random.default_rng(0).standard_normal(len(waveform))
  soundfile.write(noisy.path, waveform + noise, rate)
  features = encoder_features(encoder, params["encoder"])
  copied = cluster_clips([*clips, noisy], features, num_labels=12, of_source=True).clips
  np.testing.assert_array_equal(copied["noisy"], copied[clips[1].id])
  longer = dataclasses.replace(noisy, source_path=clips[2].path)
  with pytest.raises(DataError, match=r"noisy has .* samples and its source recording"):
    cluster_clips([longer, *clips], features, num_labels=12, of_source=True)

  run_cli(
    "fit_kmeans",
    f"--encoder_dir={tmp_path / 'run'}",
    f"--manifest={source}",
    f"--output={tmp_path / 'kmeans'}",
    "--num_clusters=8",
  )
  tokenizer = load_tokenizer(tmp_path / "kmeans")
  assert tokenizer.spec.frame_rate == 25.0 and tokenizer.spec.num_clusters == 8
  tokens = tokenizer.tokenize_long(soundfile.read(folder / "other_7.wav", dtype="float32")[0])
  assert len(tokens) == -(-len(phones["other_7.wav"]) // 2) and len(set(tokens.tolist())) >= 4


def test_a_clip_of_one_frame_has_features_without_slopes():
  features = cepstral_features(FRONT_END).of(speak("a", "canonical", seed=0)[0][:200])
  assert features.shape == (1, 26) and np.isfinite(features).all()
  np.testing.assert_array_equal(features[:, 13:], 0.0)
