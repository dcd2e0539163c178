"""Provides the miniature codec and encoder of the model tests."""

import sys
from pathlib import Path

from tests.codec.conftest import CONFIG, FRAME_RATE, chirp, codec, frame_rate_codec
from tests.semantic.conftest import encoder_config, speechlike, w2v_config

__all__ = [
  "CONFIG",
  "FRAME_RATE",
  "chirp",
  "codec",
  "encoder_config",
  "frame_rate_codec",
  "speechlike",
  "w2v_config",
]

for _folder in ("lm", "training"):
  sys.path.insert(0, str(Path(__file__).parents[1] / _folder))
