import json

import numpy as np
import pytest
import soundfile
import yaml

from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation.exports import sounds
from tests.conftest import melody

RATE = 16_000


def read_list(path) -> dict[str, str]:
  return dict(line.split(maxsplit=1) for line in path.read_text().splitlines())


def names_of_metrics(path) -> list[str]:
  return [entry["name"] for entry in yaml.safe_load(path.read_text())]


@pytest.fixture
def corpus(tmp_path):
  """Two recordings of other rates and lengths, and a manifest with the text of one of them."""
  folder = tmp_path / "corpus"
  (folder / "one").mkdir(parents=True)
  soundfile.write(folder / "one" / "a b.wav", 0.3 * melody(1.01)[: RATE + 7], RATE)
  soundfile.write(folder / "c.flac", 0.3 * melody(0.5, seed=1), 44_100)
  rows = [{"path": "one/a b.wav", "text": "some\twords", "split": "test"}, {"path": "c.flac"}]
  (folder / "list.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
  return folder


def test_rendered_sounds_have_the_names_rates_and_lengths_of_the_recordings(
  miniature_bundle, corpus, tmp_path
):
  recordings = sounds.list_recordings(str(corpus / "list.jsonl"))
  halved = lambda waveform, index: 0.5 * waveform[: len(waveform) - index]  # noqa: E731
  sounds.export_rendered(miniature_bundle, recordings, "codec", halved, str(tmp_path))
  made, references = (read_list(tmp_path / f"{n}.scp") for n in ("codec", "recordings"))
  assert list(made) == list(references) == ["c", "one/a_b"]
  assert made["one/a_b"] == str(tmp_path / "codec" / "one" / "a b.wav")
  for key, path in made.items():
    (sound, rate), (reference, expected) = soundfile.read(path), soundfile.read(references[key])
    assert (rate, len(sound)) == (expected, len(reference))
    assert np.corrcoef(sound, reference)[0, 1] > 0.99
    assert np.std(sound) == pytest.approx(0.5 * np.std(reference), rel=0.05)
  assert not (tmp_path / "text").exists()  # one of them has none
  metrics = names_of_metrics(tmp_path / "codec.yaml")
  assert metrics == ["pesq", "stoi", "signal_metric", "speaker", "pseudo_mos"]


def test_a_split_with_texts_has_them_for_word_errors(miniature_bundle, corpus, tmp_path):
  recordings = sounds.list_recordings(str(corpus / "list.jsonl"), "test")
  sounds.export_rendered(
    miniature_bundle, recordings, "resynthesis", lambda waveform, _: waveform, str(tmp_path)
  )
  assert read_list(tmp_path / "text") == {"one/a_b": "some words"}
  assert names_of_metrics(tmp_path / "resynthesis.yaml")[-1] == "whisper_wer"


def test_continuations_have_the_length_of_the_real_ones(miniature_bundle, tmp_path, capsys):
  data = tmp_path / "data"
  data.mkdir()
  for name, sound in {"a": melody(1.5), "b": melody(1.1), "c": melody(1.5, seed=1)}.items():
    soundfile.write(data / f"{name}.wav", sound * (name != "a"), RATE)
  settings = {"prompt_seconds": 0.6, "duration": 0.8, "seed": 3}
  recordings = sounds.list_recordings(str(data))
  facts = sounds.export_continuations(miniature_bundle, recordings, str(tmp_path), **settings)
  assert facts == {"continuations": 1, "skipped": 2}
  out = capsys.readouterr().out
  assert "the prompt of" in out and "is silent" in out and "b.wav is 1.10 s long" in out
  found = {}
  for kind, seconds in (("continuation", 0.8), ("real", 0.8), ("prompt", 0.6)):
    (key,), (path,) = zip(*read_list(tmp_path / f"{kind}.scp").items(), strict=True)
    found[kind], rate = soundfile.read(path, dtype="float32")
    assert (key, rate, len(found[kind])) == ("c", RATE, round(seconds * RATE))
  recording, _ = soundfile.read(data / "c.wav", dtype="float32")
  both = np.concatenate([found["prompt"], found["real"]])
  np.testing.assert_allclose(both, recording[: len(both)], atol=1e-4)
  expected = miniature_bundle.continue_audio(
    recording[: round(0.6 * RATE)], RATE, duration=0.8, seed=5, prompt_seconds=None
  )
  new = np.asarray(expected.waveform)[-len(found["continuation"]) :]
  np.testing.assert_allclose(found["continuation"], new, atol=1e-4)
  assert names_of_metrics(tmp_path / "continuation.yaml") == ["speaker", "pseudo_mos"]
  with pytest.raises(DataError, match=r"no recording has 1\.4 s and a prompt that is not silent"):
    sounds.export_continuations(miniature_bundle, recordings[:2], str(tmp_path), **settings)
