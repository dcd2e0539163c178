"""Our w2v-BERT 2.0 against the one in `transformers`, live, small and at the published width.

pip install -r requirements/pretrained.txt
python -m pytest tests/pretrained -m "slow or not slow"
"""

import importlib

import numpy as np
import pytest

from audiolm_jax.pretrained import w2v_bert_2, w2v_bert_2_tokenizer
from audiolm_jax.pretrained.weights import read_published
from tests.pretrained.conftest import layers_of
from tests.pretrained.equality import relative_difference

pytest.importorskip("torch")
pytest.importorskip("transformers")
reference = importlib.import_module("tests.pretrained.w2v_bert_2_reference")

LENGTHS = (32_000, 23_457, 16_090, 560)  # the third is an odd number of frames


def assert_equal(model, folder):
  """Features of every layer from waveforms on; ours side by side, the reference one by one."""
  model.save_pretrained(folder)
  published = read_published(folder)
  tokenizer = w2v_bert_2_tokenizer.convert(
    published.config, published.weights, layer=model.config.num_hidden_layers
  )
  clips = [reference.sound(samples, i) for i, samples in enumerate(LENGTHS)]
  inputs = [np.asarray(tokenizer.inputs_of(clip)) for clip in clips]
  ends = [len(steps) for steps in inputs]
  rows = np.stack([np.pad(steps, ((0, max(ends) - len(steps)), (0, 0))) for steps in inputs])
  config = tokenizer.config.encoder
  encoder = w2v_bert_2.W2vBert2Encoder(config, config.num_layers)
  found = layers_of(encoder, {"params": tokenizer.params["encoder"]}, rows, ends)
  for i, clip in enumerate(clips):
    expected = reference.features(model, [clip])
    assert len(expected) == config.num_layers + 1
    for layer in range(1, len(expected)):
      ours, theirs = found[layer][i, : ends[i]], expected[layer][0, : ends[i]]
      assert relative_difference(ours, theirs) < 1e-4, (i, layer)
  return config


def test_a_small_model_equals_the_reference(tmp_path):
  assert_equal(reference.random_w2v_bert_2(1, **reference.SMALL), tmp_path)


def test_the_reference_side_by_side_needs_its_mask_to_give_what_it_gives_alone():
  model = reference.random_w2v_bert_2(2, **reference.SMALL)
  clips = [reference.sound(samples, i) for i, samples in enumerate((8_000, 16_090))]
  alone = reference.features(model, clips[:1])[2][0]
  masked = reference.features(model, clips)[2][0, : len(alone)]
  assert relative_difference(masked, alone) < 1e-4
  inputs = reference.extracted(clips).input_features
  unmasked = model(inputs, output_hidden_states=True).hidden_states[2][0, : len(alone)]
  assert relative_difference(unmasked.detach().numpy(), alone) > 1e-2


def test_the_reference_without_its_mask_reads_a_step_that_is_half_padding():
  model = reference.random_w2v_bert_2(3, **reference.SMALL)
  inputs = reference.extracted([reference.sound(16_090, 0)])
  assert not inputs.attention_mask[0, -1] and inputs.attention_mask[0, :-1].all()
  masked, unmasked = (
    model(**given, output_hidden_states=True).hidden_states[2][0, :-1].detach().numpy()
    for given in (inputs, {"input_features": inputs.input_features})
  )
  assert relative_difference(unmasked, masked) > 1e-3


@pytest.mark.slow
def test_layers_of_the_published_width_equal_the_reference(tmp_path):
  config = assert_equal(reference.random_w2v_bert_2(4, num_hidden_layers=2), tmp_path)
  assert config == w2v_bert_2.W2vBert2Config(num_layers=2)
