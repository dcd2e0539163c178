"""The page in a real browser, on a real server: sound before the end, Stop, the verdict, errors."""

import contextlib
import http.client
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from tests import chromium

pytest.importorskip("gradio")
pytest.importorskip("matplotlib")
# Gradio's own and its dependencies' notices of what will change there.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
NO_BROWSER = pytest.mark.skipif(chromium.PATH is None, reason="no Chromium is installed")
RECEIVED = "document.querySelector('streamed-sound')?.received"
STATUS = "document.querySelector('#status').innerText"


@pytest.fixture(scope="module")
def browser(there, tmp_path_factory):
  browser = chromium.Chromium(tmp_path_factory.mktemp("browser"))
  browser.open(there.url)
  for part in ("#examples button.gallery-item", "#prompt input[type=file]", "#make", "#stop"):
    browser.wait(f"document.querySelector('{part}')")
  yield browser
  browser.close()


def choose(browser, label, value):
  """Types a number into the field of a slider."""
  field = f"document.querySelector('input[aria-label=\"number input for {label}\"]')"
  browser.run(
    f"(() => {{ const field = {field};"
    f"field.value = {value}; field.dispatchEvent(new Event('input', {{bubbles: true}}));"
    "field.dispatchEvent(new Event('blur')); })()"
  )


def pick_example(browser):
  """Presses the button until the example is loaded; a new page may not react at first."""
  is_loaded = "!document.querySelector('#prompt input[type=file]')"
  end = time.monotonic() + 60
  while not browser.run(is_loaded) and time.monotonic() < end:
    browser.click("#examples button.gallery-item")
    time.sleep(0.5)
  browser.wait(is_loaded)


def upload(browser, path):
  """Gives a file to the page's field for the prompt."""
  browser.wait("document.querySelector('#prompt input[type=file]')")
  root = browser.send("DOM.getDocument")["root"]["nodeId"]
  field = browser.send("DOM.querySelector", nodeId=root, selector="#prompt input[type=file]")
  browser.send("DOM.setFileInputFiles", files=[str(path)], nodeId=field["nodeId"])


@NO_BROWSER
def test_an_example_can_be_played_before_it_is_complete_and_is_then_classified(
  browser, there, monkeypatch
):
  from audiolm_jax.demo import making

  received, classify = threading.Event(), making.classify
  # Even with a slow browser, the request ends only after the browser has received audio.
  monkeypatch.setattr(making, "classify", lambda *asked: received.wait(200) and classify(*asked))
  pick_example(browser)
  choose(browser, "New seconds", 4)
  choose(browser, "Prompt seconds", 1)
  browser.click("#make")
  browser.wait(f"{RECEIVED} >= 16_000")
  assert browser.run("document.querySelector('.verdict')") is None
  received.set()
  browser.wait(f"{STATUS}.startsWith('Made')")
  assert browser.run(RECEIVED) == browser.run("document.querySelector('streamed-sound').total")
  browser.wait("document.querySelector('streamed-sound audio').duration > 4.9")
  verdict = browser.run("document.querySelector('.verdict').textContent")
  assert verdict.startswith(("Detector: synthetic", "Detector: real"))
  browser.wait("document.querySelector('.made img').naturalWidth > 500")
  links = browser.run("[...document.querySelectorAll('.made a')].map((link) => link.href)")
  contents = [urllib.request.urlopen(link).read(4) for link in links]
  assert contents == [b"RIFF", b"PK\x03\x04"]


@NO_BROWSER
def test_stop_ends_the_computing(browser, there):
  choose(browser, "New seconds", 30)
  browser.click("#make")
  browser.wait(f"{RECEIVED} && {STATUS}.startsWith('Sample 1')")
  assert there.jobs.num_active == 1
  browser.click("#stop")
  browser.wait(f"{STATUS}.includes('Stopped.')")
  end = time.monotonic() + 60
  while there.jobs.num_active and time.monotonic() < end:
    time.sleep(0.02)
  assert there.jobs.num_active == 0
  assert browser.run("document.querySelector('.verdict')") is None
  browser.wait("document.querySelector('streamed-sound').ended")
  assert browser.run(RECEIVED) < browser.run("document.querySelector('streamed-sound').total")


@NO_BROWSER
def test_a_file_without_audio_is_reported_on_the_page(browser, there, tmp_path):
  (tmp_path / "letter.wav").write_text("no sound " * 50)
  browser.click("#prompt button[aria-label=Clear]")
  upload(browser, tmp_path / "letter.wav")
  browser.wait("!document.querySelector('#prompt input[type=file]')")
  browser.click("#make")
  browser.wait(f"{STATUS}.includes('letter.wav is not a supported audio file')")
  assert str(tmp_path) not in browser.run("document.body.innerText")


def test_a_file_that_is_too_large_is_refused(there):
  boundary, content = "frontier", b"x" * 200_000
  body = (
    (
      f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
    ).encode()
    + content
    + f"\r\n--{boundary}--\r\n".encode()
  )
  asked = urllib.request.Request(
    there.url + "gradio_api/upload",
    body,
    {"Content-Type": f"multipart/form-data; boundary={boundary}"},
  )
  with pytest.raises(urllib.error.HTTPError) as refused:
    urllib.request.urlopen(asked)
  assert refused.value.code == 413


@pytest.mark.parametrize(
  "headers, size, status",
  [
    ({}, 2, 422),  # not what the queue expects, but it is read
    ({"Host": "evil.example"}, 2, 403),
    ({"Origin": "https://evil.example"}, 2, 403),
    ({}, 3_000_000, 413),
    ({"Transfer-Encoding": "chunked"}, 3_000_000, 413),
  ],
)
def test_requests_of_other_sites_and_large_bodies_are_refused(there, headers, size, status):
  body = b'"' + b"x" * size + b'"'
  chunks = (body[i : i + 100_000] for i in range(0, len(body), 100_000))
  connection = http.client.HTTPConnection(urllib.parse.urlsplit(there.url).netloc, timeout=30)
  chunked = "Transfer-Encoding" in headers
  sent = {"Content-Type": "application/json"} | headers
  with contextlib.closing(connection):
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before its end
      connection.request(
        "POST", "/gradio_api/queue/join", chunks if chunked else body, sent, encode_chunked=chunked
      )
    assert connection.getresponse().status == status


def test_sound_of_nobody_is_not_found(there):
  for path in ("sound/live/unknown/0", "sound/made/unknown/sample_1.wav", "sound/made/..%2f/x"):
    with pytest.raises(urllib.error.HTTPError) as refused:
      urllib.request.urlopen(there.url + path)
    assert refused.value.code == 404


def test_the_text_box_is_shown_for_bundles_that_speak(demo_bundle, speaking_bundle, tmp_path):
  from audiolm_jax.demo import page
  from audiolm_jax.demo.jobs import Jobs
  from audiolm_jax.demo.requests import RequestLimits
  from audiolm_jax.demo.turns import Turns

  shown = []
  for bundle in (speaking_bundle, demo_bundle):
    limits = RequestLimits(max_characters=70)
    config = page.build({"one": bundle}, limits, Jobs(tmp_path), Turns(1, 1)).get_config_file()
    parts = {part["id"]: part["props"] for part in config["components"]}
    (text,) = (number for number, props in parts.items() if props.get("elem_id") == "text")
    assert parts[text]["max_length"] == 70
    above = [parts[part] for part in _path(config.get("layout"), text) if part in parts]
    is_visible = all(props.get("visible", True) for props in above)
    shown.append((is_visible, "of audio, or speaks a text" in str(parts)))
    assert "agreed to the imitation and to its words" in str(parts)
  assert shown == [(True, True), (False, False)]


def _path(layout, wanted):
  """The ids of a part of a page and of those that contain it; empty if it is elsewhere."""
  if layout["id"] == wanted:
    return [wanted]
  below = next(filter(None, (_path(c, wanted) for c in layout.get("children") or [])), [])
  return [*below, layout["id"]] if below else []


def test_a_text_is_spoken_by_the_page(there, prompt):
  client = pytest.importorskip("gradio_client")
  visitor = client.Client(there.url, verbose=False, analytics_enabled=False)
  voice = client.handle_file(str(prompt))
  asked = ["continuation", "speaking", voice, 1.0, 0.8, *[0.7] * 4, 3, 1]
  *_, last = visitor.submit(*asked, "It is five.", api_name="/speak")
  assert "Made 1 sample" in last[0], last[0]
  *_, last = visitor.submit(*asked, "a" * 101, api_name="/speak")
  assert "the text has 101 characters, and 100 are allowed" in last[0]
