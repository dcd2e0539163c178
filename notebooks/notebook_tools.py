"""Functions of the notebooks: audio players, commands, and recording on Colab."""

import base64
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from IPython.display import Audio, display
from jaxtyping import Float

import audiolm_jax
from audiolm_jax.core.errors import AudioError, UserError
from audiolm_jax.io import audio

CHECKOUT = Path(audiolm_jax.__file__).resolve().parents[1]
_SHOWN_LINES = 30

# Records in the browser, which also decodes the recording, because libsndfile does not read its
# format. Returns 16-bit samples as base64.
_RECORD = """
async (seconds, sampleRate) => {
  const stream = await navigator.mediaDevices.getUserMedia({audio: true});
  const recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  const ended = new Promise((resolve) => { recorder.onstop = resolve; });
  recorder.start();
  await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  recorder.stop();
  await ended;
  stream.getTracks().forEach((track) => track.stop());
  const context = new OfflineAudioContext(1, 1, sampleRate);
  const sound = await context.decodeAudioData(await new Blob(parts).arrayBuffer());
  const samples = sound.getChannelData(0);
  const bytes = new Uint8Array(2 * samples.length);
  const view = new DataView(bytes.buffer);
  samples.forEach((x, i) => view.setInt16(2 * i, 32767 * Math.max(-1, Math.min(1, x)), true));
  let text = "";
  bytes.forEach((byte) => { text += String.fromCharCode(byte); });
  return btoa(text);
}
"""


def load_prompt(name: str, sample_rate: int, seconds: float) -> Float[np.ndarray, " samples"]:
  """Returns the beginning of a file, of an upload, or of a recording of the microphone.

  Args:
    name: "upload" or "record", on Colab only, or the path of a file.
    sample_rate: Hz.
    seconds: the longest clip.

  Raises:
    AudioError: the file does not exist, or is not an audio file.
    UserError: an upload or a recording outside of Colab.
  """
  if name == "record":
    return record(sample_rate, seconds)
  if name == "upload":
    name = upload()
  return audio.load_audio(name, sample_rate, seconds=seconds)


def upload() -> str:
  """Uploads a file on Colab, and returns its name there."""
  return next(iter(_colab().files.upload()))


def record(sample_rate: int, seconds: float) -> Float[np.ndarray, " samples"]:
  """Returns a recording of the microphone at `sample_rate` Hz, on Colab."""
  output = _colab().output
  print(f"Speak now, for {seconds:g} s.")
  encoded = output.eval_js(f"({_RECORD})({seconds}, {sample_rate})")
  samples = np.frombuffer(base64.b64decode(encoded), "<i2")
  if not len(samples):
    raise AudioError("the recording is empty; allow the page to use the microphone, and try again")
  return samples.astype(np.float32) / 32767


def _colab():
  try:
    import google.colab
    import google.colab.files
    import google.colab.output
  except ImportError:
    raise UserError(
      "uploading and recording work on Colab only; give the path of a file instead"
    ) from None
  return google.colab


def listen(
  path: str,
  waveform: Float[np.ndarray, " samples"],
  sample_rate: int,
  tags: Mapping[str, str] | None = None,
) -> None:
  """Writes an audio file, such as .mp3, and shows a player that contains it.

  Args:
    path: of the file.
    waveform: the audio.
    sample_rate: Hz.
    tags: metadata, as in `audio.write_audio`.
  """
  audio.write_audio(path, waveform, sample_rate, tags)
  print(f"{path}, {len(waveform) / sample_rate:.1f} s")
  display(Audio(path))


def run(command: Sequence[str], shown: str = "") -> None:
  """Runs a command in the folder of the project with the Python of this notebook.

  Args:
    command: begins with "python" or a script of `launch/`. Paths must be absolute.
    shown: regular expression of the lines of its output that are printed.

  Raises:
    RuntimeError: the command failed; contains the last lines of its output.
  """
  python = [sys.executable] if command[0] == "python" else ["bash", command[0]]
  environment = os.environ | {"PYTHON": sys.executable, "PYTHONUNBUFFERED": "1"}
  lines = []
  with subprocess.Popen(
    [*python, *command[1:]],
    cwd=CHECKOUT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  ) as process:
    for line in process.stdout or ():
      lines.append(line)
      if re.search(shown, line):
        print(line, end="", flush=True)
  if process.returncode:
    raise RuntimeError(f"{' '.join(command[:3])} failed:\n{''.join(lines[-_SHOWN_LINES:])}")
