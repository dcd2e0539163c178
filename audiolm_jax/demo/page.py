"""The web page of the demo, made with Gradio."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from audiolm_jax.bundles import Bundle, speaking
from audiolm_jax.bundles.settings import LEAST_PROMPT_SECONDS, Mode, temperatures_of
from audiolm_jax.demo import cards, library
from audiolm_jax.demo.jobs import Jobs
from audiolm_jax.demo.requests import HOTTEST, TEMPERATURE, RequestLimits
from audiolm_jax.demo.serving import Shown, serve
from audiolm_jax.demo.turns import Turns

if TYPE_CHECKING:  # an optional package
  import gradio

_HERE = Path(__file__).parent
_REPOSITORY = _HERE.parents[1]
_STOP_SECONDS = 5.0
CSS = (_HERE / "page.css").read_text(encoding="utf-8")
HEAD = f"<script>{(_HERE / 'player.js').read_text(encoding='utf-8')}</script>"
_INTRODUCTION = """# audiolm_jax

Continues a few seconds of audio. The models learned from audio alone, with no text and no score."""
_SPEAKING_INTRODUCTION = """# audiolm_jax

Continues a few seconds of audio, or speaks a text in the voice of a recording."""
_NOTICE = """**The audio that this page creates is synthetic, and imitates the voice of the \
prompt.** Every file states in its metadata that it is synthetic. Use only voices of people who \
agreed to the imitation and to its words, and inform every listener that it is synthetic."""
_RULES = """Ask the speaker for permission; inform listeners that the audio is synthetic; keep \
the metadata in the file; deceive nobody. `docs/responsible-use.md` in the project's repository \
has the full text."""


def examples() -> list[str]:
  """Returns the paths of the example prompts; an empty list outside of a repository checkout."""
  return [str(path) for path in sorted(_REPOSITORY.glob("examples/*.flac"))]


def build(
  bundles: Mapping[str, Bundle], limits: RequestLimits, jobs: Jobs, turns: Turns
) -> "gradio.Blocks":
  """Returns the page as Gradio's `Blocks`.

  Args:
    bundles: bundles by the names that the page shows.
    limits: limits of one request.
    jobs: jobs of the server, which store the results.
    turns: the queue of all requests.

  Raises:
    UserError: Gradio is not installed.
  """
  gr = library.load("gradio")
  first = next(iter(bundles))
  stages = list(dict.fromkeys(name for bundle in bundles.values() for name in bundle.stages))
  names = ["mode", "bundle", "prompt", "duration", "prompt_seconds"]
  names += [*(f"{TEMPERATURE}{name}" for name in stages), "seed", "num_samples"]
  with gr.Blocks(title="audiolm_jax", analytics_enabled=False) as blocks:
    speaks = any(map(speaking.can_speak, bundles.values()))
    gr.Markdown(_SPEAKING_INTRODUCTION if speaks else _INTRODUCTION)
    gr.Markdown(_NOTICE, elem_id="notice")
    with gr.Row():
      with gr.Column(scale=2, min_width=320):
        mode = gr.Radio(list(Mode), value=Mode.CONTINUATION, label="Mode", elem_id="mode")
        with gr.Column() as prompt_group:
          prompt = gr.Audio(
            sources=["upload", "microphone"], type="filepath", label="Prompt", elem_id="prompt"
          )
        with gr.Column(visible=speaking.can_speak(bundles[first])) as speech_group:
          text = gr.Textbox(
            label="Speak a text in this voice",
            info="Without a prompt, the model draws a voice.",
            lines=3,
            max_length=limits.max_characters,
            elem_id="text",
          )
          speak_button = gr.Button("Speak", variant="primary", elem_id="speak")
        bundle = gr.Dropdown(list(bundles), value=first, label="Bundle", elem_id="bundle")
        if examples():
          gr.Examples(
            [[path, _bundle_for(path, bundles)] for path in examples()],
            [prompt, bundle],
            example_labels=[Path(path).stem.replace("_", " ") for path in examples()],
            label="Examples",
            elem_id="examples",
            api_visibility="private",
          )
        duration = gr.Slider(
          1.0, limits.max_duration, min(7.0, limits.max_duration), step=0.5, label="New seconds"
        )
        prompt_seconds = gr.Slider(
          LEAST_PROMPT_SECONDS, limits.max_prompt_seconds, 3.0, step=0.1, label="Prompt seconds"
        )
        num_samples = gr.Slider(1, limits.max_samples, 1, step=1, label="Samples")
        with gr.Accordion("Temperatures and seed", open=False):
          temperatures = [
            gr.Slider(0.0, HOTTEST, step=0.05, label=f"{name.capitalize()} temperature", **changes)
            for name, changes in zip(stages, _temperatures(bundles[first], stages), strict=True)
          ]
          seed = gr.Number(0, precision=0, minimum=0, label="Seed")
      with gr.Column(scale=3, min_width=320):
        with gr.Row():
          make_button = gr.Button("Make", variant="primary", min_width=120, elem_id="make")
          stop_button = gr.Button("Stop", variant="stop", min_width=120, elem_id="stop")
        status = gr.HTML(cards.message("Pick a prompt and press Make."), elem_id="status")
        columns, players, details = [], [], []
        with gr.Row():
          for number in range(limits.max_samples):
            with gr.Column(min_width=280, visible=number == 0) as column:
              players.append(gr.HTML(elem_id=f"player_{number + 1}"))
              details.append(gr.HTML(elem_id=f"details_{number + 1}"))
            columns.append(column)
    with gr.Accordion("Responsible use", open=False):
      gr.Markdown(_responsible_use())

    def make(request: "gradio.Request", *given: object) -> Iterator[list[object]]:
      asked = dict(zip(names, given, strict=True))
      for shown in serve(asked, str(request.session_hash), bundles, limits, jobs, turns):
        yield _updates(gr, shown, limits.max_samples)

    def speak(request: "gradio.Request", *given: object) -> Iterator[list[object]]:
      asked = dict(zip([*names, "text"], given, strict=True))
      for shown in serve(asked, str(request.session_hash), bundles, limits, jobs, turns):
        yield _updates(gr, shown, limits.max_samples)

    def stop(request: "gradio.Request") -> None:
      jobs.stop(str(request.session_hash))
      jobs.wait(str(request.session_hash), _STOP_SECONDS)

    for function in (make, speak, stop):
      function.__annotations__["request"] = gr.Request  # makes Gradio pass the request
    settings = [mode, bundle, prompt, duration, prompt_seconds, *temperatures, seed, num_samples]
    shown = {
      "outputs": [status, *columns, *players, *details],
      "concurrency_limit": None,  # requests wait in `turns`
      "show_progress": "minimal",
      "show_progress_on": status,
    }
    making = make_button.click(make, settings, api_name="make", **shown)
    spoken = speak_button.click(speak, [*settings, text], api_name="speak", **shown)
    quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    # A second step, because the message must follow the last status of the stopped request.
    stop_button.click(stop, None, None, cancels=[making, spoken], **quick).then(
      lambda: cards.message("Stopped."), None, status, **quick
    )
    mode.change(
      lambda mode, name: [
        gr.update(visible=mode != Mode.UNCONDITIONAL),
        gr.update(visible=_takes_seconds(mode, bundles[name])),
        gr.update(label="Seconds of the prompt" if mode == Mode.RESYNTHESIS else "New seconds"),
      ],
      [mode, bundle],
      [prompt_group, prompt_seconds, duration],
      **quick,
    )
    bundle.change(
      lambda mode, name: [
        gr.update(visible=speaking.can_speak(bundles[name])),
        gr.update(visible=_takes_seconds(mode, bundles[name])),
        *(gr.update(**changes) for changes in _temperatures(bundles[name], stages)),
      ],
      [mode, bundle],
      [speech_group, prompt_seconds, *temperatures],
      **quick,
    )
  return blocks


def _takes_seconds(mode: str, bundle: Bundle) -> bool:
  """Returns whether the page shows the slider for the prompt length."""
  is_voice = mode == Mode.RESYNTHESIS and speaking.can_speak(bundle)
  return mode == Mode.CONTINUATION or is_voice


def _bundle_for(example: str, bundles: Mapping[str, Bundle]) -> str:
  """Returns the first bundle name that starts with the first word of the example's name.

  If there is no such name, returns the name of the first bundle.
  """
  kind = Path(example).stem.partition("_")[0]
  return next((name for name in bundles if name.startswith(kind)), next(iter(bundles)))


def _updates(gr: ModuleType, shown: Shown, count: int) -> list[object]:
  """Returns the values of the page's outputs, in their order."""
  numbers = range(count)
  columns = [
    gr.skip() if shown.visible is None else gr.update(visible=number < max(1, shown.visible))
    for number in numbers
  ]
  players = [shown.players.get(number, gr.skip()) for number in numbers]
  details = [shown.details.get(number, gr.skip()) for number in numbers]
  return [shown.status, *columns, *players, *details]


def _temperatures(bundle: Bundle, stages: Sequence[str]) -> list[dict[str, object]]:
  """Returns, for each stage, the value and the visibility of its temperature slider."""
  values = temperatures_of(bundle)
  return [{"value": values.get(name, 1.0), "visible": name in values} for name in stages]


def _responsible_use() -> str:
  """Returns the document about responsible use, without links.

  Returns a summary if the package is not in a checkout of the repository.
  """
  path = _REPOSITORY / "docs" / "responsible-use.md"
  if not path.is_file():
    return _RULES
  return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", path.read_text(encoding="utf-8"))
