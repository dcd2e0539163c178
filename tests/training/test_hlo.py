"""Analysis of the text of a compiled program."""

import jax
import jax.numpy as jnp
import pytest

from audiolm_jax.training.hlo import Array, HloProgram

# A loop of five rounds with an all-reduce, and a fusion with another one.
TEXT = """HloModule jit_step, is_scheduled=true

%fused (p.1: f32[8,4]) -> f32[8,4] {
  %p.1 = f32[8,4]{1,0:T(8,128)} parameter(0)
  %inner = f32[8,4,4]{2,1,0} broadcast(%p.1), dimensions={0,1}
  ROOT %all-gather.1 = f32[8,4]{1,0:T(8,128)} all-gather(%p.1), dimensions={0}
}

%body (state: (s32[], bf16[2,64])) -> (s32[], bf16[2,64]) {
  %state = (s32[]{:T(128)}, bf16[2,64]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %value = bf16[2,64]{1,0} get-tuple-element(%state), index=1
  %sum = bf16[2,64]{1,0} all-reduce(%value), replica_groups={}, to_apply=%add
  %work = bf16[2,64]{1,0} add(%sum, %sum), backend_config={"estimated_cycles":"100"}
  ROOT %out = (s32[]{:T(128)}, bf16[2,64]{1,0:T(8,128)(2,1)}) tuple(%next, %work)
}

%condition (state.2: (s32[], bf16[2,64])) -> pred[] {
  %state.2 = (s32[], bf16[2,64]) parameter(0)
  %counter = s32[]{:T(128)} get-tuple-element(%state.2), index=0
  %five = s32[]{:T(128)} constant(5)
  ROOT %less = pred[] compare(%counter, %five), direction=LT
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %loop = (s32[], bf16[2,64]) while(%begin), condition=%condition, body=%body
  %scattered = f32[2,4]{1,0} reduce-scatter(%x), dimensions={0}, to_apply=%add
  %odd = f32[8,4]{1,0} negate(%x), backend_config={"estimated_cycles":"9223372036854775807"}
  ROOT %f = f32[8,4]{1,0} fusion(%x), kind=kCustom, calls=%fused, backend_config={"estimated_cycles":"7"}
}
"""  # noqa: E501


@pytest.fixture
def program():
  return HloProgram(TEXT)


def test_collectives_in_loops_and_fusions_count_once_per_execution(program):
  found = {c.kind: c for c in program.collectives()}
  assert {kind: c.times for kind, c in found.items()} == {
    "all-reduce": 5,
    "reduce-scatter": 1,
    "all-gather": 1,
  }
  assert found["all-reduce"].arrays == (Array("bf16", (2, 64)),)
  assert found["all-reduce"].num_bytes == 5 * 2 * 64 * 2


def test_the_size_of_a_collective_is_the_larger_of_operands_and_results(program):
  found = {c.kind: c.arrays for c in program.collectives()}
  assert found["reduce-scatter"] == (Array("f32", (8, 4)),)


def test_cycles_of_a_loop_count_for_every_round(program):
  assert program.estimated_cycles() == 5 * 100 + 7


def test_arrays_within_a_fusion_are_not_stored(program):
  assert Array("f32", (8, 4, 4)) not in program.stored_arrays()
  assert Array("bf16", (2, 64)) in program.stored_arrays()


@pytest.mark.parametrize(
  ("dtype", "expected"), [("f32", 24), ("bf16", 12), ("pred", 6), ("s8", 6), ("f8e4m3fn", 6)]
)
def test_bytes_of_an_array(dtype, expected):
  assert Array(dtype, (2, 3)).num_bytes == expected


def test_loops_of_a_compiled_program_are_counted():
  def step(x):
    return jax.lax.scan(lambda c, _: (jnp.tanh(c @ c), None), x, length=7)[0]

  text = jax.jit(step).lower(jnp.ones((16, 16))).compile().as_text()
  program = HloProgram(text)  # pyright: ignore[reportArgumentType]: it is not None
  assert 7 in program._times.values()
  assert Array("f32", (16, 16)) in program.stored_arrays()
  assert program.collectives() == []
