import shutil
import sys

import numpy as np
import pytest

from audiolm_jax.core.errors import UserError
from audiolm_jax.data import speech_engines
from audiolm_jax.data.speech_engines import Engine, EngineVoice, SpeechError

# A second of sound at 8 kHz, and beside this file how it was called.
PROGRAM = """
import sys, wave
with wave.open(sys.argv[1], "wb") as file:
  file.setparams((1, 2, 8000, 0, "NONE", ""))
  file.writeframes(bytes([0, 64, 0, 192]) * 4000)
with open(__file__ + ".called", "w") as file:
  file.write("|".join([*sys.argv[2:], sys.stdin.read()]))
"""


@pytest.fixture
def program(tmp_path):
  """Makes the command that runs a Python program."""

  def command(source, arguments="{wav}"):
    (tmp_path / "a program.py").write_text(source)
    return Engine(f"{sys.executable} -SE '{tmp_path}/a program.py' {arguments}")

  return command


def test_the_placeholders_and_standard_input_reach_the_command(program, tmp_path):
  arguments = "{wav} '{voice} voice' {text} {seed} {tempo} {stretch} {words_per_minute}"
  engine = program(PROGRAM, arguments)
  waveform, rate = speech_engines.speak("e", engine, "anna", "It's {wav} «here».", 7, 1.25)
  assert (waveform.shape, rate) == ((8000,), 8000)
  called = (tmp_path / "a program.py.called").read_text()
  assert called == "anna voice|It's {wav} «here».|7|1.25|0.800|206|It's {wav} «here».\n"


def test_the_text_file_has_the_text(program, tmp_path):
  source = PROGRAM + "open(__file__ + '.text', 'w').write(open(sys.argv[2]).read())"
  speech_engines.speak("e", program(source, "{wav} {text_file}"), "", "A line.")
  assert (tmp_path / "a program.py.text").read_text() == "A line.\n"


@pytest.mark.parametrize(
  ("source", "reason"),
  [
    ("print('out of words')", r"wrote no WAV file \(exit code 0\): out of words"),
    (PROGRAM + "sys.exit('no such voice')", r"failed \(exit code 1\): no such voice"),
    ("import sys; open(sys.argv[1], 'w').write('words')", "what .*python.* wrote is not"),
    (PROGRAM.replace("64, 0, 192", "0, 0, 0"), "what .*python.* wrote is silent"),
  ],
)
def test_a_command_that_makes_no_speech_is_an_error_that_has_the_reason(program, source, reason):
  with pytest.raises(SpeechError, match=reason):
    speech_engines.speak("e", program(source), "", "A line.")


@pytest.mark.parametrize(
  ("command", "reason"),
  [
    ("no-such-program {wav}", "'no-such-program' is not found; install it"),
    (f"{sys.executable} {{text}}", "needs {wav}"),
    (f"{sys.executable} {{wav}} {{words}}", "contains {words}, which is not one of {wav}, {text}"),
    (f"{sys.executable} '{{wav}}", "No closing quotation"),
  ],
)
def test_a_command_that_cannot_run_is_refused(command, reason):
  with pytest.raises(UserError) as error:
    speech_engines.check_engine("mine", Engine(command))
  assert reason in str(error.value) and "mine" in str(error.value)


def test_an_engine_stands_for_its_voices_and_a_voice_is_named_once():
  engines = {"a": Engine("a", ("x", "y")), "b": Engine("b")}
  voices = speech_engines.parse_voices(["a:y", "b", "a", "a:z:1"], engines)
  assert voices == [
    EngineVoice("a", "y"),
    EngineVoice("b", ""),
    EngineVoice("a", "x"),
    EngineVoice("a", "z:1"),
  ]
  assert [voice.name for voice in voices] == ["a-y", "b", "a-x", "a-z:1"]
  with pytest.raises(UserError, match="'c:x' is not an engine; the engines are a, b"):
    speech_engines.parse_voices(["a", "c:x"], engines)


def test_finished_speech_is_as_loud_and_has_ends_as_all_other():
  time = np.arange(24_000) / 24_000
  tone = 0.01 + 0.1 * np.sin(2 * np.pi * 440 * time).astype(np.float32)
  silence = np.full(24_000, 0.01, np.float32)
  waveform = np.concatenate([silence, tone, silence]).astype(np.float32)
  finished = speech_engines.finish(waveform, 24_000, 16_000, speed=1.05)
  assert len(finished) == pytest.approx(16_000 / 1.05 + 3200, abs=30)
  assert np.abs(finished).max() == pytest.approx(0.5)
  spectrum = np.abs(np.fft.rfft(finished))
  assert spectrum.argmax() * 16_000 / len(finished) == pytest.approx(440 * 1.05, abs=2)
  click = np.zeros(16_000, np.float32)
  click[8000] = 1.0
  with pytest.raises(SpeechError, match="too short"):
    speech_engines.finish(click, 16_000, 16_000)
  with pytest.raises(SpeechError, match="all of its samples are equal"):
    speech_engines.finish(np.full(16_000, 0.5, np.float32), 16_000, 24_000)


@pytest.mark.parametrize("name", speech_engines.ENGINES)
def test_the_engines_that_are_installed_speak(name):
  engine = speech_engines.ENGINES[name]
  if not shutil.which(engine.command.split()[0]):
    pytest.skip(f"{name} is not installed")
  speech_engines.check_engine(name, engine)
  text = "The quick brown fox jumps over the lazy dog."
  lengths = []
  for tempo in (0.8, 1.25):
    waveform, rate = speech_engines.speak(name, engine, engine.voices[0], text, tempo=tempo)
    lengths.append(len(waveform) / rate)
  assert 1.0 < lengths[1] < 0.8 * lengths[0] < 5.0
