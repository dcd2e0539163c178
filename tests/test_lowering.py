"""Every program of published size lowers for GPUs and TPUs, with none of them there.

Lowering only: it proves that each operation has a translation for each platform. Whether a
compiler takes the result, and whether it then fits the memory and runs, is not looked at here.
"""

import math

import jax
import pytest

from audiolm_jax.pretrained.registry import MODELS
from tests import published_programs
from tests.published_programs import PROGRAMS

PLATFORMS = ("cuda", "tpu", "rocm")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_of_published_size_lowers_for_every_platform(name):
  exported = PROGRAMS[name](PLATFORMS)
  assert exported.platforms == PLATFORMS
  assert exported.out_avals


def test_every_published_model_that_can_be_converted_is_lowered():
  assert set(MODELS) <= {name.split()[0] for name in PROGRAMS}


@pytest.mark.parametrize(
  ("name", "count"),
  [
    ("semantic_stage_base", 153_126_400),
    ("coarse_stage_base", 161_515_008),
    ("fine_stage_base", 176_195_072),
  ],
)
def test_the_described_stages_have_the_parameters_of_the_paper_s(name, count):
  _, params, _ = published_programs.sampling_shapes(name)
  assert sum(math.prod(x.shape) for x in jax.tree.leaves(params)) == count
