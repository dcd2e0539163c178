"""A codec that needs no training, distinguishable voices, and notes."""

import numpy as np
import pytest

from audiolm_jax.codec.interface import CodecSpec
from audiolm_jax.detection.classifier import ClassifierConfig
from audiolm_jax.evaluation.speaker_classifier import fit_speaker_classifier
from audiolm_jax.semantic.features import LogMelConfig
from tests.partial_codec import PartialCodec

RATE = 16_000
VOICES = {"low": (110.0, 500.0), "middle": (180.0, 1_200.0), "high": (260.0, 2_500.0)}


class PulseCodec(PartialCodec):
  """Codes each sample by two levels of a uniform quantizer; `lengths` has the input shapes."""

  spec = CodecSpec(sample_rate=RATE, hop_length=1, num_quantizers=2, codebook_size=16)
  codebooks = np.zeros((2, 16, 1), np.float32)

  def __init__(self):
    self.lengths = set()

  def encode(self, waveform):
    self.lengths.add(waveform.shape)
    fine = np.clip(np.round((waveform + 1) * 127.5), 0, 255).astype(np.int32)
    return np.stack([fine // 16, fine % 16], axis=-1)

  def encode_long(self, waveform):
    return self.encode(waveform[None])[0]

  def decode(self, codes):
    rest = codes[..., 1] if codes.shape[-1] == 2 else np.full(codes.shape[:-1], 8)
    return ((codes[..., 0] * 16 + rest) / 127.5 - 1).astype(np.float32)


def make_voice(pitch: float, formant: float, seed: int, seconds: float = 6.0) -> np.ndarray:
  """Harmonics under one resonance, in syllables whose times differ by `seed`."""
  rng = np.random.default_rng(seed)
  t = np.arange(round(seconds * RATE)) / RATE
  glide = pitch * (1 + 0.05 * np.sin(2 * np.pi * rng.uniform(0.5, 1) * t + rng.uniform(0, 6)))
  phase = 2 * np.pi * np.cumsum(glide) / RATE
  sound = sum(
    np.exp(-(((k * pitch - formant) / 600) ** 2)) * np.sin(k * phase) for k in range(1, 30)
  )
  syllables = np.clip(np.sin(2 * np.pi * rng.uniform(2, 4) * t + rng.uniform(0, 6)), 0, None)
  return (0.1 * sound * syllables + 0.001 * rng.standard_normal(len(t))).astype(np.float32)


def play_notes(notes, seconds: float) -> np.ndarray:
  """Struck strings of (time in s, MIDI number), with six partials that die away."""
  sound = np.zeros(round(seconds * RATE))
  for time, pitch in notes:
    start = round(time * RATE)
    t = np.arange(len(sound) - start) / RATE
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    attack = np.minimum(1, t / 0.005)
    for k in range(1, 7):
      if k * frequency < 4_000:
        sound[start:] += attack * np.exp(-t * (4 + k)) * np.sin(2 * np.pi * k * frequency * t) / k
  return (0.2 * sound).astype(np.float32)


@pytest.fixture
def pulse_codec():
  return PulseCodec()


@pytest.fixture(scope="session")
def voice():
  return make_voice


@pytest.fixture(scope="session")
def play():
  return play_notes


@pytest.fixture(scope="session")
def voice_classifier(voice):
  """A classifier of the three `VOICES`."""
  clips = [voice(*VOICES[name], seed=i) for name in VOICES for i in range(2)]
  names = [name for name in VOICES for _ in range(2)]
  config = ClassifierConfig(features=LogMelConfig(num_mels=32), channels=(8, 16), groups=2)
  return fit_speaker_classifier(
    clips, names, config=config, steps=400, batch_size=16, learning_rate=5e-3
  )
