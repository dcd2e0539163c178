"""From values of the page to sound, files and lines, without the page."""

import re
import threading

import numpy as np
import pytest
import soundfile

from audiolm_jax import read_provenance
from audiolm_jax.demo.jobs import Jobs
from audiolm_jax.demo.requests import RequestLimits
from audiolm_jax.demo.serving import serve
from audiolm_jax.demo.turns import Turns
from audiolm_jax.io import audio, token_file

pytest.importorskip("matplotlib")
RATE = 16_000


@pytest.fixture
def jobs(tmp_path):
  return Jobs(tmp_path)


def text(shown):
  return re.sub("<[^>]*>", "", shown.status)


def run(asked, bundle, jobs, **limits):
  return list(serve(asked, "me", {"miniature": bundle}, RequestLimits(**limits), jobs, Turns(1, 1)))


def test_samples_are_those_of_the_command_with_the_seeds_one_after_another(
  demo_bundle, jobs, ask, prompt, tmp_path
):
  shown = run(ask(num_samples=2), demo_bundle, jobs)
  assert shown[0].visible == 2 and text(shown[-1]).startswith("Made 2 samples in ")
  (folder,) = tmp_path.iterdir()
  waveform, _ = soundfile.read(prompt)
  for number, seed in ((1, 3), (2, 4)):
    expected = demo_bundle.continue_audio(
      waveform, RATE, duration=1.0, prompt_seconds=1.0, seed=seed,
      temperature={"semantic": 0.6, "coarse": 0.8, "fine": 0.6},
    )  # fmt: skip
    path = folder / f"sample_{number}.wav"
    made, _ = audio.read_audio(path)
    np.testing.assert_allclose(made, expected.waveform, atol=1 / 32_000)
    tokens = token_file.load_tokens(folder / f"sample_{number}.npz")
    np.testing.assert_array_equal(tokens.codes, expected.tokens.codes)
    np.testing.assert_array_equal(tokens.tokens["semantic"], expected.tokens.semantic)
    recorded = read_provenance(path)
    assert recorded and (recorded.seed, recorded.mode, recorded.prompt_seconds) == (
      seed,
      "continuation",
      1.0,
    )
    assert (folder / f"sample_{number}.png").read_bytes().startswith(b"\x89PNG")
  (job,) = [jobs.find(folder.name)]
  assert job and [len(s.since(0)) for s in job.samples] == [64_000, 64_000]


def test_audio_is_available_before_the_request_has_ended(demo_bundle, jobs, ask, tmp_path):
  steps = serve(ask(), "me", {"miniature": demo_bundle}, RequestLimits(), jobs, Turns(1, 1))
  seconds = []
  for _ in steps:
    job = jobs.find(next(tmp_path.iterdir()).name)
    if job and job.samples:
      seconds.append((job.samples[0].seconds, job.samples[0].is_complete))
  assert (1.0, False) in seconds and seconds[-1] == (2.0, True)
  assert len({received for received, _ in seconds}) > 3


def test_the_detectors_verdict_is_shown(demo_bundle, miniature_bundle, jobs, ask):
  verdict = "".join(run(ask(), demo_bundle, jobs)[-2].details.values())
  assert re.search(r"Detector: (synthetic|real), [01]\.\d{3}", verdict)
  without = "".join(run(ask(), miniature_bundle, jobs)[-2].details.values())
  assert "this bundle has no detector" in without


@pytest.mark.parametrize(
  "content, words",
  [
    (b"no sound " * 50, "voice.wav is not a supported audio file"),
    (b"", "voice.wav is empty"),
    (None, "voice.wav does not exist"),
    (np.zeros(RATE), "voice.wav is silent"),
    (np.full(1_600, 0.1), "voice.wav is 0.10 s long"),
  ],
)
def test_a_prompt_that_cannot_be_used_is_one_line_without_its_folder(
  demo_bundle, jobs, ask, tmp_path_factory, content, words
):
  path = tmp_path_factory.mktemp("secret") / "voice.wav"
  if isinstance(content, bytes):
    path.write_bytes(content)
  elif content is not None:
    soundfile.write(path, content, RATE)
  last = run(ask(prompt=str(path)), demo_bundle, jobs)[-1]
  assert words in text(last) and "secret" not in last.status and "message error" in last.status
  assert jobs.num_active == 0


def test_what_nobody_foresaw_is_logged_and_not_shown(demo_bundle, jobs, ask, monkeypatch, caplog):
  def fail(*_, **__):
    raise RuntimeError("the key is 1234")

  monkeypatch.setattr(type(demo_bundle), "stream", fail)
  last = run(ask(), demo_bundle, jobs)[-1]
  assert "Something went wrong" in text(last) and "1234" not in last.status
  assert "the key is 1234" in caplog.text and jobs.num_active == 0


def test_a_stop_ends_the_making_between_two_pieces(demo_bundle, jobs, ask):
  steps = serve(
    ask(duration=20.0), "me", {"miniature": demo_bundle}, RequestLimits(), jobs, Turns(1, 1)
  )
  shown = [next(steps), next(steps)]
  threading.Timer(0.2, jobs.stop, ["me"]).start()
  shown += list(steps)
  assert text(shown[-1]) == "Stopped."  # A completed job shows "Done".
  assert jobs.num_active == 0 and not any(s.details.get(0) for s in shown)


def test_a_stop_takes_effect_before_there_is_any_new_sound(demo_bundle, jobs, ask, tmp_path):
  steps = serve(
    ask(duration=20.0), "me", {"miniature": demo_bundle}, RequestLimits(), jobs, Turns(1, 1)
  )
  shown = [next(steps), next(steps), next(steps)]  # as far as the prompt
  jobs.stop("me")
  assert text(list(steps)[-1]) == "Stopped."
  job = jobs.find(next(tmp_path.iterdir()).name)
  assert job and job.samples[0].seconds == 1.0 and len(shown) == 3


def test_a_page_that_is_left_ends_its_job(demo_bundle, jobs, ask):
  steps = serve(
    ask(duration=20.0), "me", {"miniature": demo_bundle}, RequestLimits(), jobs, Turns(1, 1)
  )
  next(steps), next(steps)  # pyright: ignore[reportUnusedExpression]: for its effect
  assert jobs.num_active == 1
  steps.close()  # pyright: ignore[reportAttributeAccessIssue]: it is a generator
  assert jobs.num_active == 0


def test_a_request_past_its_time_is_given_up_in_a_line(demo_bundle, jobs, ask):
  last = run(ask(duration=20.0), demo_bundle, jobs, timeout=0.001)[-1]
  assert "took longer than 0.001 s" in text(last) and jobs.num_active == 0


def test_a_request_shows_its_place_until_its_turn(demo_bundle, jobs, ask):
  turns = Turns(1, 1)
  with turns.joined():
    steps = serve(ask(), "me", {"miniature": demo_bundle}, RequestLimits(timeout=60.0), jobs, turns)
    assert text(next(steps)) == "Waiting; place 1 in the queue."
    refused = [*serve(ask(), "you", {"miniature": demo_bundle}, RequestLimits(), jobs, turns)]
    assert "1 requests already wait" in text(refused[-1])
  assert text(next(steps)) == "Making …"
  steps.close()  # pyright: ignore[reportAttributeAccessIssue]: it is a generator
  with turns.joined() as turn:
    assert turn.ahead == 0


def test_a_text_is_spoken_as_by_the_command(speaking_bundle, jobs, ask, prompt, tmp_path):
  asked = ask(bundle="speaking", text="It is five.", temperature_text=0.7)
  shown = list(
    serve(asked, "me", {"speaking": speaking_bundle}, RequestLimits(), jobs, Turns(1, 1))
  )
  assert text(shown[-1]).startswith("Made 1 sample in ")
  (folder,) = tmp_path.iterdir()
  made, rate = audio.read_audio(folder / "sample_1.wav")
  waveform, _ = soundfile.read(prompt)
  stream = speaking_bundle.stream_speech(
    "It is five.", voice=waveform, sample_rate=RATE, prompt_seconds=1.0, seed=3,
    temperature={"semantic": 0.6, "coarse": 0.8, "text": 0.7},
  )  # fmt: skip
  np.testing.assert_allclose(made, np.concatenate([*stream]), atol=1 / 32_000)
  recorded = read_provenance(folder / "sample_1.wav")
  assert recorded and (recorded.mode, recorded.seed, rate) == ("speech", 3, RATE)


def test_speech_beyond_the_longest_duration_is_a_message(speaking_bundle, jobs, ask):
  asked = ask(bundle="speaking", text="It is five.")
  limits = RequestLimits(max_duration=0.05)
  shown = list(serve(asked, "me", {"speaking": speaking_bundle}, limits, jobs, Turns(1, 1)))
  assert re.search(r"would take \d+\.\d s, and 0\.05 s are allowed; shorten", text(shown[-1]))
