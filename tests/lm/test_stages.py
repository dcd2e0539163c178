"""What each stage reads and predicts."""

import numpy as np
import pytest
from helpers_lm import SPECS, random_clip

from audiolm_jax.core import configs
from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.lm import stages
from audiolm_jax.lm.tokens import BOS, SEPARATOR


def test_padded_lengths_are_the_papers():
  speech = stages.paper_stages()
  lengths = {name: spec.max_length for name, spec in speech.items()}
  assert lengths == {"semantic": 750, "coarse": 250 + 1 + 2000, "fine": 600 + 1 + 1200}


def test_piano_predicts_all_three_levels_in_the_coarse_stage():
  piano = stages.paper_stages(num_quantizers=3, codebook_size=2**14)
  assert set(piano) == {"semantic", "coarse"}
  assert piano["coarse"].num_target_quantizers == 3
  assert piano["coarse"].layout.vocab_size == 4 + 1024 + 3 * 2**14
  assert piano["coarse"].max_length == 250 + 1 + 1500


def test_a_coarse_stage_without_a_source_has_no_separator():
  spec = stages.coarse_stage(source=stages.Source.NONE)
  assert spec.max_length == 2000
  sequence = stages.stage_sequence(spec, None, np.zeros((3, 4), np.int32))
  assert SEPARATOR not in sequence.tokens
  assert sequence.loss_weights.tolist() == [1.0] * 12


def test_coarse_sequence_is_collapsed_semantic_separator_codes():
  spec = SPECS["coarse"]  # 11 clusters, 9 codes, 2 levels
  sequence = stages.stage_sequence(
    spec, np.array([3, 3, 0]), np.array([[1, 2, 8], [4, 5, 8], [0, 0, 8]])
  )
  codes = [15 + 1, 24 + 2, 15 + 4, 24 + 5, 15, 24]
  assert sequence.tokens.tolist() == [4 + 3, 4, SEPARATOR, *codes]
  assert sequence.loss_weights.tolist() == [0, 0, 0] + [1] * 6
  assert sequence.frame_ids.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_long_runs_are_cut_where_repeats_are_kept():
  spec = stages.semantic_stage(collapse_repeats=False, num_clusters=11, longest_run=2)
  sequence = stages.stage_sequence(spec, np.array([3, 3, 3, 3, 0, 3, 3]))
  assert sequence.tokens.tolist() == [7, 7, 4, 7, 7]


@pytest.mark.parametrize(
  ("stage", "longest", "collapse"),
  [
    (stages.semantic_stage, 12, True),
    (stages.semantic_stage, 0, False),
    (stages.coarse_stage, 12, False),
  ],
)
def test_a_run_limit_is_for_semantic_stages_that_keep_repeats(stage, longest, collapse):
  with pytest.raises(ConfigError, match=f"longest_run {longest}; it must be at least 1, and is"):
    stage(longest_run=longest, collapse_repeats=collapse)


def test_fine_sequence_is_coarse_separator_fine():
  spec = SPECS["fine"]  # levels 0, 1 given, 2, 3, 4 predicted
  sequence = stages.stage_sequence(spec, None, np.array([[1, 2, 3, 4, 5], [6, 7, 8, 0, 1]]))
  source = [4 + 1, 13 + 2, 4 + 6, 13 + 7]
  target = [22 + 3, 31 + 4, 40 + 5, 22 + 8, 31, 40 + 1]
  assert sequence.tokens.tolist() == [*source, SEPARATOR, *target]
  assert sequence.loss_weights.tolist() == [0] * 5 + [1] * 6
  assert sequence.frame_ids.tolist() == [1, 1, 2, 2, 0, 1, 1, 1, 2, 2, 2]


def test_kept_repeats_carry_the_frame_they_begin_at():
  spec = stages.coarse_stage(collapse_repeats=False)
  sequence = stages.stage_sequence(spec, np.array([7, 7, 7]), np.zeros((6, 4), np.int32))
  assert sequence.frame_ids[:4].tolist() == [1, 3, 5, 0]


@pytest.mark.parametrize("name", SPECS)
def test_features_are_the_sequence_shifted_by_one_and_padded(name):
  spec = SPECS[name]
  clip = random_clip(spec, 0.6)
  sequence = stages.stage_sequence(spec, *clip)
  features = stages.stage_features(spec, *clip)
  count = len(sequence.tokens)
  assert {f.shape for f in features.values()} == {(spec.max_length,)}
  assert features["decoder_input_tokens"][0] == BOS
  np.testing.assert_array_equal(features["decoder_input_tokens"][1:count], sequence.tokens[:-1])
  np.testing.assert_array_equal(features["decoder_target_tokens"][:count], sequence.tokens)
  np.testing.assert_array_equal(features["decoder_frame_ids"][:count], sequence.frame_ids)
  for feature in features.values():
    assert not feature[count:].any()


def test_a_full_crop_without_repeats_fills_the_features():
  spec = SPECS["coarse"]
  semantic = np.arange(spec.crop_steps) % 2
  codes = np.zeros((spec.crop_frames, 2), np.int32)
  assert stages.stage_features(spec, semantic, codes)["decoder_target_tokens"].all()


def test_spec_survives_json():
  spec = SPECS["fine"]
  assert configs.from_dict(stages.AutoregressiveSpec, configs.to_dict(spec)) == spec


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"source": "video"}, "'video' is not one of none, semantic, coarse"),
    ({"source": "coarse", "num_target_quantizers": 2}, "only a coarse source has quantizers"),
    ({"source": "semantic"}, "predicts semantic tokens, so its source must be none"),
  ],
)
def test_impossible_specs_are_refused(values, message):
  with pytest.raises(ConfigError, match=message):
    stages.AutoregressiveSpec(name="x", **values)


def test_data_that_does_not_fit_is_refused_in_words():
  spec = SPECS["coarse"]
  semantic, codes = random_clip(spec, 1.0)
  with pytest.raises(DataError, match="needs semantic tokens"):
    stages.stage_sequence(spec, None, codes)
  with pytest.raises(DataError, match=r"codes range over 0\.\.99"):
    stages.stage_sequence(spec, semantic, np.array([[0, 99]]))
  with pytest.raises(DataError, match=r"semantic tokens range over -1..3"):
    stages.stage_sequence(spec, np.array([-1, 3]), codes)
  with pytest.raises(DataError, match="at least 2 quantizers"):
    stages.stage_sequence(spec, semantic, codes[:, :1])
  with pytest.raises(DataError, match="crop it to 2 s"):
    stages.stage_features(spec, *random_clip(spec, 3.0))
