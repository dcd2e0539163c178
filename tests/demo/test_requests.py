"""What may be asked of the demo."""

import pytest

from audiolm_jax.bundles.continuation import Mode
from audiolm_jax.core.errors import UserError
from audiolm_jax.demo.requests import Limits, checked


def test_values_of_a_page_become_a_request(ask, prompt):
  request = checked(ask(num_samples=2.0, seed="5"), ["miniature"], Limits())
  assert (request.mode, request.prompt) == (Mode.CONTINUATION, prompt)
  assert (request.num_samples, request.seed, request.used_prompt_seconds) == (2, 5, 1.0)
  assert request.temperatures == {"semantic": 0.6, "coarse": 0.8, "fine": 0.6}


def test_a_mode_takes_of_the_prompt_what_it_needs(ask):
  unconditional = checked(ask(mode="unconditional"), ["miniature"], Limits())
  assert unconditional.prompt is None
  resynthesis = checked(ask(mode="resynthesis", duration=4.0), ["miniature"], Limits())
  assert resynthesis.used_prompt_seconds == 4.0


@pytest.mark.parametrize(
  "change, words",
  [
    ({"bundle": "/etc"}, "bundle '/etc' is not one of miniature"),
    ({"mode": "sing"}, "mode 'sing' is not one of continuation, unconditional, resynthesis"),
    ({"prompt": None}, "continuation needs a prompt: record one, upload a file, or pick"),
    ({"duration": 21}, "duration 21 is out of range; use 0.5 to 20"),
    ({"duration": float("nan")}, "duration nan"),
    ({"duration": None}, "duration None is not a number"),
    ({"prompt_seconds": 0.1}, "prompt seconds 0.1"),
    ({"num_samples": 5}, "num samples 5"),
    ({"temperature_fine": -1}, "temperature fine -1"),
    ({"seed": "x"}, "seed 'x' is not a number"),
    ({"seed": 2**32}, "seed 4.29497e"),
  ],
)
def test_a_value_beyond_a_limit_is_reported_with_the_limit(ask, change, words):
  with pytest.raises(UserError, match=words):
    checked(ask(**change), ["miniature"], Limits(max_duration=20.0))
