import pytest

from audiolm_jax.core.errors import UserError
from audiolm_jax.data import manifest, synthetic_corpora

TEXT = "h\N{LATIN SMALL LETTER O WITH ACUTE}"


def test_a_corpus_is_resumed_with_its_settings_only(tmp_path):
  folder = tmp_path / "new" / "corpus"
  synthetic_corpora.begin(folder, {"seed": 1, "voices": ["a"]})
  synthetic_corpora.begin(folder, {"seed": 1, "voices": ["a"]})
  with pytest.raises(UserError, match="other settings: --seed, --voices; give the same ones"):
    synthetic_corpora.begin(folder, {"seed": 2, "voices": []})
  (folder / "a.wav").touch()
  synthetic_corpora.write_manifest(folder, [{"path": "a.wav", "text": TEXT}])
  (clip,) = manifest.list_clips(folder / "manifest.jsonl", texts=True)
  assert clip.text == TEXT


def test_folders_of_something_else_are_refused(tmp_path):
  (tmp_path / "manifest.jsonl").touch()
  with pytest.raises(UserError, match="has the manifest of another corpus"):
    synthetic_corpora.begin(tmp_path, {})
  with pytest.raises(UserError, match="cannot create the folder"):
    synthetic_corpora.begin(tmp_path / "manifest.jsonl" / "below", {})
