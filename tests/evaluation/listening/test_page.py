"""The page in a real browser: clicks, keys, a reload, the downloaded answers."""

import json
import time

import numpy as np
import pytest

from audiolm_jax.evaluation.listening import build, score
from tests import chromium
from tests.conftest import melody

pytestmark = pytest.mark.skipif(chromium.PATH is None, reason="no Chromium is installed")
RATE = 16_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
  browser = chromium.Chromium(tmp_path_factory.mktemp("browser"))
  yield browser
  browser.close()


def tones(count, seconds):
  return [melody(seconds, seed=i) for i in range(count)]


def test_real_or_synthetic_by_mouse_with_a_reload_between(browser, tmp_path):
  trials = build.real_or_synthetic(
    ["a", "b", "c"], tones(3, 0.4), tones(3, 0.8), tones(3, 0.8), RATE
  )
  key = score.read_key(
    build.write_test(tmp_path / "page", build.ListeningTestKind.REAL_OR_SYNTHETIC, trials, RATE)
  )
  browser.download_to(tmp_path)
  browser.open(f"file://{tmp_path / 'page' / 'index.html'}")
  browser.click("#begin")
  browser.wait("document.getElementById('place').textContent === 'Trial 1 of 3'")
  assert browser.run("document.querySelector('.known').style.width").startswith("33.3")
  # An answer needs a clip that has been played.
  browser.click("button.answer", 0)
  assert browser.run("document.getElementById('next').disabled")
  assert "Still to be heard" in browser.run("document.getElementById('status').textContent")
  for number in (1, 2, 3):
    browser.click("button.play")
    browser.wait("players[0].heard")
    browser.click("button.answer", number % 2)
    browser.wait("!document.getElementById('next').disabled")
    if number == 1:
      browser.picture(tmp_path / "trial.png")
      assert (tmp_path / "trial.png").stat().st_size > 10_000
    browser.click("#next")
    if number == 2:
      browser.reload()
      assert browser.run("document.getElementById('begin').textContent") == "Resume"
      browser.click("#begin")
      browser.wait("document.getElementById('place').textContent === 'Trial 3 of 3'")
  browser.wait("!document.getElementById('end').hidden")
  browser.click("#download")
  (file,) = wait_for_files(tmp_path, "answers-*.json")
  (answers,) = score.read_answers([file], key)
  assert sorted(answers.by_trial) == sorted(key["trials"])
  result = json.loads(file.read_text())
  assert [entry["answer"] for entry in result["answers"]] == ["synthetic", "real", "synthetic"]
  assert all(entry["plays"] == [1] and entry["seconds"] > 0 for entry in result["answers"])
  assert len(score.score(key, [answers]).rows) >= 3


def test_preference_by_keyboard_alone(browser, tmp_path):
  systems = {"one": tones(1, 0.6), "two": tones(2, 0.6)[1:]}
  trials = build.preference(["a"], systems, 0.2)
  key = score.read_key(
    build.write_test(tmp_path / "page", build.ListeningTestKind.PREFERENCE, trials, RATE)
  )
  browser.open(f"file://{tmp_path / 'page' / 'index.html'}")
  tab, enter = ("Tab", 9, ""), ("Enter", 13, "\r")
  browser.press(*tab)
  browser.press(*enter)
  browser.wait("document.activeElement.id === 'place'")  # where a screen reader continues
  for player in (0, 1):
    browser.press(*tab)
    assert browser.run("document.activeElement.textContent") == f"Play {'AB'[player]}"
    browser.press(*enter)
    browser.wait(f"players[{player}].heard")
  browser.press(*tab)
  browser.press(*tab)
  assert browser.run("document.activeElement.textContent") == "B is better"
  browser.press(*enter)
  assert browser.run("document.activeElement.getAttribute('aria-pressed')") == "true"
  browser.press(*tab)
  browser.press(*enter)
  browser.wait("document.activeElement.id === 'thanks'")
  (entry,) = browser.run("progress.answers")
  shown = browser.run("JSON.parse(document.getElementById('test').textContent)")
  assert entry["trial"] == shown["trials"][0]["id"]
  assert score._fits(key, entry["trial"], entry["answer"])


def test_mushra_records_a_rating_for_each_version(browser, tmp_path):
  original = tones(1, 0.5)
  trials = build.mushra(["a"], original, {"codec": [0.9 * original[0]]}, RATE)
  key = score.read_key(
    build.write_test(tmp_path / "page", build.ListeningTestKind.MUSHRA, trials, RATE)
  )
  browser.open(f"file://{tmp_path / 'page' / 'index.html'}")
  browser.click("#begin")
  browser.wait("players.length === 4")  # the reference and three versions
  for index in range(4):
    browser.click("button.play", index)
    browser.wait(f"players[{index}].heard")
  for index in range(3):
    assert browser.run("document.getElementById('next').disabled")
    browser.click("input[type=range]", index)  # in the middle
    browser.press("ArrowRight", 39)
  browser.wait("!document.getElementById('next').disabled")
  browser.click("#next")
  (entry,) = browser.run("progress.answers")
  assert sorted(entry["answer"]) == ["0", "1", "2"]
  assert all(45 <= value <= 55 for value in entry["answer"].values())
  assert score._fits(key, entry["trial"], entry["answer"])


def test_every_button_has_a_name_and_text_has_contrast(browser, tmp_path):
  trials = build.real_or_synthetic(["a"], tones(1, 0.3), tones(1, 0.3), tones(1, 0.3), RATE)
  build.write_test(tmp_path / "page", build.ListeningTestKind.REAL_OR_SYNTHETIC, trials, RATE)
  browser.open(f"file://{tmp_path / 'page' / 'index.html'}")
  browser.click("#begin")
  names = browser.run("[...document.querySelectorAll('button')].map(b => b.textContent.trim())")
  assert all(names)
  assert browser.run("document.documentElement.lang") == "en"
  assert browser.run("document.getElementById('answers').getAttribute('aria-labelledby')")
  for text, back in (("--text", "--back"), ("--strong", "--back")):
    colours = [
      browser.run(f"getComputedStyle(document.documentElement).getPropertyValue('{c}').trim()")
      for c in (text, back)
    ]
    assert contrast(*colours) >= 4.5


def contrast(one: str, other: str) -> float:
  """Source: WCAG 2, relative luminance."""

  def luminance(colour: str) -> float:
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])

  darker, lighter = sorted((luminance(one), luminance(other)))
  return (lighter + 0.05) / (darker + 0.05)


def wait_for_files(folder, pattern):
  end = time.monotonic() + 30
  while not (found := [p for p in folder.glob(pattern) if p.stat().st_size]):
    assert time.monotonic() < end, f"no {pattern} in {folder}"
    time.sleep(0.1)
  return found
