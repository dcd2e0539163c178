"""What may be asked of the demo."""

import pytest

from audiolm_jax.bundles.settings import Mode
from audiolm_jax.core.errors import UserError
from audiolm_jax.demo.requests import RequestLimits, checked


def test_values_of_a_page_become_a_request(ask, prompt):
  request = checked(ask(num_samples=2.0, seed="5"), ["miniature"], RequestLimits())
  assert (request.mode, request.prompt) == (Mode.CONTINUATION, prompt)
  assert (request.num_samples, request.seed, request.used_prompt_seconds) == (2, 5, 1.0)
  assert request.temperatures == {"semantic": 0.6, "coarse": 0.8, "fine": 0.6}


def test_a_mode_takes_of_the_prompt_what_it_needs(ask):
  unconditional = checked(ask(mode="unconditional"), ["miniature"], RequestLimits())
  assert unconditional.prompt is None
  resynthesis = checked(ask(mode="resynthesis", duration=4.0), ["miniature"], RequestLimits())
  assert resynthesis.used_prompt_seconds == 4.0


@pytest.mark.parametrize(
  "change, words",
  [
    ({"bundle": "/etc"}, "bundle '/etc' is not one of miniature"),
    ({"mode": "sing"}, "mode 'sing' is not one of continuation, unconditional, resynthesis"),
    ({"prompt": None}, "continuation needs a prompt: record one, upload a file, or pick"),
    ({"bundle": ["miniature"]}, r"bundle \['miniature'\] is not one of miniature"),
    ({"bundle": {}}, "bundle {} is not one of miniature"),
    ({"mode": {}}, "mode {} is not one of continuation"),
    ({"prompt": {"path": "a"}}, "continuation needs a prompt"),
    ({"duration": 21}, "duration is 21; give a number from 0.5 to 20"),
    ({"duration": float("nan")}, "duration is nan"),
    ({"duration": None}, "duration is None; give a number"),
    ({"duration": True}, "duration is True; give a number"),
    ({"prompt_seconds": 0.1}, "prompt seconds is 0.1"),
    ({"num_samples": 5}, "num samples is 5"),
    ({"num_samples": 1.5}, "num samples is 1.5; give a whole number from 1 to 4"),
    ({"temperature_fine": -1}, "temperature fine is -1"),
    ({"temperature_fine": [10**400]}, r"temperature fine is \[1000.*; give a number"),
    ({"seed": "x"}, "seed is 'x'; give a whole number"),
    ({"seed": 2**32}, "seed is 4294967296; give a whole number"),
    ({"seed": 10**400}, r"seed is 1000.*\(401 characters\); give a whole number"),
  ],
)
def test_a_value_beyond_a_limit_is_reported_with_the_limit(ask, change, words):
  with pytest.raises(UserError, match=words):
    checked(ask(**change), ["miniature"], RequestLimits(max_duration=20.0))


def test_a_text_is_spoken_in_the_voice_of_the_prompt_or_in_a_drawn_one(ask, prompt):
  for change, voice in (({}, prompt), ({"prompt": None}, None), ({"mode": "unconditional"}, None)):
    request = checked(ask(text="Stop.", **change), ["miniature"], RequestLimits(max_duration=20.0))
    assert (request.mode, request.text, request.prompt) == (None, "Stop.", voice)
    assert (request.duration, request.used_prompt_seconds) == (20.0, 1.0)


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("", "there is no text to speak; write at least one word"),
    (" \n", "there is no text to speak"),
    (None, "there is no text to speak"),
    ("a" * 101, "the text has 101 characters, and 100 are allowed; shorten it"),
  ],
)
def test_a_text_beyond_its_limits_is_reported(ask, text, words):
  with pytest.raises(UserError, match=words):
    checked(ask(text=text), ["miniature"], RequestLimits(max_characters=100))
