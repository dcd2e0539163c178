"""The conditioned stage: its examples, its model and its loss."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers_conditioned import CLUSTERS, CONFIG, PAIRS, SPEC, conditioned_batch, conditioned_params

from audiolm_jax.core import shapes
from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.lm import text
from audiolm_jax.lm.conditioned import (
  ConditionedConfig,
  ConditionedSpec,
  at_rate,
  text_stage,
  transcript_stage,
)
from audiolm_jax.lm.conditioned_loss import conditioned_loss, deleted, frozen
from audiolm_jax.lm.config import TransformerConfig
from audiolm_jax.lm.tokens import BOS, EOS, PAD

PRETRAINING = dataclasses.replace(SPEC, source="nothing")
SCANNED = dataclasses.replace(
  CONFIG, transformer=dataclasses.replace(CONFIG.transformer, scan_layers=True)
)


@pytest.fixture(scope="module")
def params():
  return conditioned_params()


@functools.partial(jax.jit, static_argnums=0)
def logits_of(config, params, source, tokens):
  return SPEC.model(config).apply({"params": params}, source, tokens)


@functools.partial(jax.jit, static_argnums=(0, 1))
def gradients(spec, config, params, batch):
  def loss(params):
    return conditioned_loss(spec, config, params, batch)[0]

  return jax.grad(loss)(params)


loss_of = jax.jit(conditioned_loss, static_argnums=(0, 1))


def test_an_example_has_the_characters_and_the_shifted_tokens_with_an_end():
  batch = conditioned_batch(("It.", [7, 7, 2]))
  source, inputs, targets, weights = (
    batch[name][0]
    for name in (
      "source_tokens", "decoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights"
    )
  )  # fmt: skip
  places = [4 + text.CHARACTERS.index(character) for character in "it."]
  assert source[:5].tolist() == [*places, EOS, PAD] and not source[5:].any()
  assert targets[:5].tolist() == [11, 11, 6, EOS, PAD]
  assert inputs[:5].tolist() == [BOS, 11, 11, 6, PAD]
  assert weights.sum() == 4 and weights[:4].all()
  for name, feature in SPEC.features().items():
    assert batch[name].shape[1:] == feature.shape and batch[name].dtype == feature.dtype


def test_a_semantic_source_is_that_of_another_recording():
  spec = dataclasses.replace(SPEC, source="semantic", source_clusters=9, source_rate=50.0)
  assert [(s.key, s.size, s.rate) for s in spec.reads] == [("source.semantic", 9, 50.0)]
  made = spec.example({"source.semantic": np.array([8, 0]), "semantic": np.array([1])})
  first = spec.first_source_cluster
  assert made["source_tokens"][:4].tolist() == [first + 8, first, EOS, PAD]
  assert first == 4 + len(text.CHARACTERS)


@pytest.mark.parametrize(
  ("words", "steps", "reason"),
  [
    ("", 3, "no source.text tokens"),
    (" ", 3, "the text is empty"),
    ("a\N{SECTION SIGN}b", 3, r"the text has '\\xa7', which the stage does not know"),
    ("a" * 25, 3, "the source has 25 tokens, the text stage reads up to 24"),
    ("ok", 101, "longer than 4 s"),
    ("ok", 0, "no semantic tokens"),
  ],
)
def test_clips_that_are_no_examples_are_refused_with_a_reason(words, steps, reason):
  record = {"source.text": text.code_points(words), "semantic": np.zeros(steps, np.int32)}
  assert reason.replace("\\\\", "\\") in SPEC.refusal(record)
  with pytest.raises(DataError, match=reason):
    SPEC.example(record)
  assert not SPEC.refusal({"source.text": text.code_points("ok"), "semantic": np.zeros(3)})


def test_configurations_that_cannot_work_are_refused():
  for make, message in (
    (lambda: ConditionedConfig(TransformerConfig()), "rotary positions"),
    (lambda: dataclasses.replace(CONFIG, trained_encoder_layers=3), "exceeds the 2 layers"),
    (lambda: dataclasses.replace(CONFIG, deleted_share=1.0), "between 0 and 1"),
    (lambda: text_stage(source="music"), "'music' is not one of text, semantic, nothing"),
    (lambda: text_stage(characters="aba"), "has 3 characters; give 1 to 4096, each once"),
    (lambda: text_stage(longest_seconds=0.01), "no room"),
  ):
    with pytest.raises(ConfigError, match=message):
      make()


def test_logits_depend_on_the_whole_source_and_on_earlier_tokens_only(params):
  batch = conditioned_batch(*PAIRS)
  source, tokens = batch["source_tokens"], batch["decoder_input_tokens"]
  before = np.asarray(logits_of(CONFIG, params, source, tokens))
  assert before.shape == (2, 101, CLUSTERS + 1)
  later = tokens.copy()
  later[1, 3] = 9
  after = np.asarray(logits_of(CONFIG, params, source, later))
  np.testing.assert_array_equal(after[1, :3], before[1, :3])
  assert np.abs(after[1, 3:6] - before[1, 3:6]).max() > 0.1
  for place in (0, 9):  # the first and the last character
    other = source.copy()
    other[1, place] = 4
    changed = np.asarray(logits_of(CONFIG, params, other, tokens))
    assert np.abs(changed[1, 0] - before[1, 0]).max() > 1e-3
    np.testing.assert_array_equal(changed[0], before[0])


def test_padding_of_the_source_changes_nothing(params):
  batch = conditioned_batch(*PAIRS)
  source, tokens = batch["source_tokens"], batch["decoder_input_tokens"]
  whole = logits_of(CONFIG, params, source, tokens)
  short = logits_of(CONFIG, params, source[:, :12], tokens)
  np.testing.assert_allclose(whole, short, atol=1e-4)


def test_the_parameters_have_the_computed_shapes_scanned_or_not(params):
  wanted = SPEC.parameter_shapes(CONFIG)
  assert shapes.of_arrays(params) == wanted
  scanned = conditioned_params(SCANNED)
  assert shapes.of_arrays(SPEC.inference_params(scanned)) == wanted
  again = SPEC.training_params(SCANNED, SPEC.inference_params(scanned))
  jax.tree.map(np.testing.assert_array_equal, again, scanned)
  batch = conditioned_batch(*PAIRS)
  source, tokens = batch["source_tokens"], batch["decoder_input_tokens"]
  one = logits_of(SCANNED, SPEC.training_params(SCANNED, params), source, tokens)
  np.testing.assert_allclose(one, logits_of(CONFIG, params, source, tokens), atol=1e-4)


def test_pretraining_and_text_share_their_parameters(params):
  assert PRETRAINING.parameter_shapes(CONFIG) == SPEC.parameter_shapes(CONFIG)
  assert SPEC.accepts_params_of(PRETRAINING) and PRETRAINING.accepts_params_of(SPEC)
  assert not SPEC.accepts_params_of(dataclasses.replace(SPEC, characters="ab"))


def test_the_deletion_keeps_the_order_and_about_its_share():
  spec = text_stage(source="nothing", num_clusters=400, longest_seconds=12.0)
  made = spec.example({"semantic": np.arange(299)})
  assert "source_tokens" not in made and not spec.reads
  targets = np.stack([made["decoder_target_tokens"]] * 4)
  source = np.asarray(deleted(spec, jnp.asarray(targets), jax.random.key(0), 0.6))
  assert source.shape[1] == spec.source_length
  for row in source:
    end = row.tolist().index(EOS)
    kept = row[:end] - spec.first_source_cluster
    assert 0.3 < end / 299 < 0.5 and (np.diff(kept) > 0).all() and not row[end + 1 :].any()
  assert len({row.tobytes() for row in source}) == 4


def test_label_smoothing_adds_the_mean_over_all_tokens(params):
  batch = conditioned_batch(*PAIRS)
  plain, metrics = loss_of(SPEC, CONFIG, params, batch)
  smoothed, same = loss_of(SPEC, dataclasses.replace(CONFIG, label_smoothing=0.25), params, batch)
  assert metrics["loss"] == plain == same["loss"] and metrics["weight"] == 4 + 8
  logits = np.asarray(logits_of(CONFIG, params, batch["source_tokens"],
                                batch["decoder_input_tokens"]), np.float64)  # fmt: skip
  nats = -(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
  weights = batch["decoder_loss_weights"]
  uniform = (weights * nats.mean(-1)).sum() / weights.sum()
  np.testing.assert_allclose(smoothed, 0.75 * plain + 0.25 * uniform, rtol=1e-5)
  ends = [nats[0, 3, -1], nats[1, 7, -1]]
  np.testing.assert_allclose(metrics["loss_end"], np.mean(ends), rtol=1e-5)


@pytest.mark.parametrize("config", [CONFIG, SCANNED], ids=["layers", "scanned"])
def test_only_the_lowest_encoder_layers_are_trained_if_the_others_are_frozen(config, params):
  part = dataclasses.replace(config, trained_encoder_layers=1)
  assert SPEC.is_frozen(part) and not SPEC.is_frozen(config)
  assert frozen(config, params) is params

  def total(tree):
    return sum(leaf.sum() for leaf in jax.tree.leaves(frozen(part, tree)))

  found = SPEC.inference_params(jax.grad(total)(SPEC.training_params(config, params)))
  for trained in (found["source_embedding"], found["encoder"]["layers_0"]):
    assert all(np.all(leaf == 1) for leaf in jax.tree.leaves(trained))
  fixed = [found[name] for name in ("embedding", "decoder", "head")]
  fixed += [found["encoder"][name] for name in ("layers_1", "final_norm")]
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(fixed))


def test_the_loss_has_no_gradient_of_frozen_parameters(params):
  part = dataclasses.replace(CONFIG, trained_encoder_layers=1)
  found = gradients(SPEC, part, params, conditioned_batch(*PAIRS))
  assert not np.any(found["head"]) and np.any(found["source_embedding"])


def test_the_rate_changes_the_number_of_tokens_and_not_their_order():
  tokens = np.repeat(np.arange(20), 3)
  for rate in (0.8, 1.0, 1.25):
    changed = at_rate(tokens, rate)
    assert abs(len(changed) * rate / 60 - 1) < 0.02
    assert (np.diff(changed) >= 0).all() and set(changed) == set(range(20))
  np.testing.assert_array_equal(at_rate(tokens, 1.0), tokens)
  assert at_rate(np.array([3]), 2.0).tolist() == [3]


def test_the_operations_grow_with_the_model():
  batch = conditioned_batch(*PAIRS)
  wide = dataclasses.replace(
    CONFIG, transformer=dataclasses.replace(CONFIG.transformer, mlp_dim=64)
  )
  assert 0 < SPEC.flops_per_step(CONFIG, batch) < SPEC.flops_per_step(wide, batch)


def test_specs_are_stored_as_plain_values():
  from audiolm_jax.core import configs

  spec = text_stage(characters="ab c", language="es")
  assert configs.from_dict(ConditionedSpec, configs.to_dict(spec)) == spec
  assert configs.from_dict(ConditionedConfig, configs.to_dict(CONFIG)) == CONFIG
  with pytest.raises(ConfigError, match="encoder_layers"):
    configs.from_dict(ConditionedConfig, configs.to_dict(CONFIG) | {"encoder_layers": 10**6})


TRANSCRIPT = transcript_stage(num_clusters=CLUSTERS, longest_seconds=4.0, longest_text=24)


def test_a_transcript_reads_the_semantic_tokens_and_predicts_the_characters_of_the_same_clip():
  record = {"source.text": text.code_points("It."), "semantic": np.array([7, 7, 2])}
  made = TRANSCRIPT.example(record)
  first = TRANSCRIPT.first_source_cluster
  assert made["source_tokens"][:5].tolist() == [first + 7, first + 7, first + 2, EOS, PAD]
  places = [4 + text.CHARACTERS.index(character) for character in "it."]
  assert made["decoder_target_tokens"][:5].tolist() == [*places, EOS, PAD]
  assert made["decoder_input_tokens"][:5].tolist() == [BOS, *places, PAD]
  for name, feature in TRANSCRIPT.features().items():
    assert made[name].shape == feature.shape and made[name].dtype == feature.dtype
  assert TRANSCRIPT.streams.keys() == SPEC.streams.keys() == record.keys()
  assert [s.key for s in TRANSCRIPT.reads] == ["source.semantic"]
  assert TRANSCRIPT.writes.key == "text"
  classes = TRANSCRIPT.target_classes(record["source.text"])
  assert text.of_code_points(TRANSCRIPT.target_tokens(classes)) == "it."


@pytest.mark.parametrize(
  ("words", "steps", "reason"),
  [
    ("", 3, "no source.text tokens"),
    ("a" * 25, 3, "the text has 25 characters, the transcript stage predicts up to 24"),
    ("a\N{SECTION SIGN}b", 3, "which the stage does not know"),
    ("ok", 101, "longer than 4 s"),
    ("ok", 0, "no semantic tokens"),
  ],
)
def test_clips_that_a_transcript_cannot_learn_from_are_refused(words, steps, reason):
  record = {"source.text": text.code_points(words), "semantic": np.zeros(steps, np.int32)}
  assert reason in TRANSCRIPT.refusal(record)
  with pytest.raises(DataError, match=reason):
    TRANSCRIPT.example(record)


def test_the_model_of_a_transcript_has_one_output_per_character():
  batch = conditioned_batch(*PAIRS, spec=TRANSCRIPT)
  params = conditioned_params(spec=TRANSCRIPT)
  assert shapes.of_arrays(params) == TRANSCRIPT.parameter_shapes(CONFIG)
  assert len(params["head"]) == 4 + len(text.CHARACTERS)
  loss, metrics = loss_of(TRANSCRIPT, CONFIG, params, batch)
  assert np.isfinite(loss) and metrics["weight"] == 3 + 11
  assert not TRANSCRIPT.accepts_params_of(dataclasses.replace(SPEC, name="transcript"))


@pytest.mark.parametrize(
  "wrong",
  [{"source": "text"}, {"source": "nothing"}, {"source_rate": 50.0}, {"source_clusters": 9}],
)
def test_a_transcript_needs_the_semantic_tokens_of_the_clip(wrong):
  with pytest.raises(ConfigError, match='the source must be "semantic"'):
    dataclasses.replace(TRANSCRIPT, **wrong)
  with pytest.raises(ConfigError, match="stage target 'song' is not one of semantic, text"):
    dataclasses.replace(TRANSCRIPT, target="song")
