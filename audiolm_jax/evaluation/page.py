"""Writes the results as one HTML page that contains all tables, pictures and sounds."""

import base64
import html
import mimetypes
import os
from collections.abc import Sequence
from pathlib import Path

from audiolm_jax.core.configs import Json
from audiolm_jax.evaluation.report import Report, Row, interval, number
from audiolm_jax.io.files import atomic_write

_BAR, _HEIGHT = 160, 12  # pixels
_VERDICTS = {"aim": "reaches the aim", "floor": "reaches the floor", "short": "falls short"}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff; }
table { border-collapse: collapse; width: 100%; margin: 0.5rem 0 2rem; }
th, td { text-align: left; padding: 0.25rem 0.75rem; border-bottom: 1px solid #ddd; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.short { color: #a40000; } .aim { color: #006b1c; }
figure { margin: 1rem 0; } img { max-width: 100%; } audio { width: 100%; }
small { color: #555; }
@media (prefers-color-scheme: dark) {
  body { color: #e8e8e8; background: #161616; } th, td { border-color: #444; }
  small { color: #aaa; } .short { color: #ff8a80; } .aim { color: #7fdc93; }
}
"""


def write_page(path: str | os.PathLike[str], report: Report) -> None:
  """Atomically writes the page with all tables, pictures and sounds.

  Args:
    path: path of the page; the pictures and sounds of the report are read from the same folder.
    report: the results.
  """
  title = html.escape(f"{report.bundle}: evaluation")
  folder = Path(path).parent
  parts = [
    "<!doctype html>",
    '<html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    f"<title>{title}</title><style>{_STYLE}</style></head><body>",
    f"<h1>{title}</h1>",
    "<p>Each figure has its number of independent observations and a 95 % bootstrap interval over "
    "these.</p>",
  ]
  for suite, rows in report.rows.items():
    parts += [f"<h2>{html.escape(suite)}</h2>", _table(rows)]
  results = report.results.values()
  for caption, name in (file for result in results for file in result.pictures.items()):
    picture = f'<img src="{_embedded(folder / name)}" alt="{html.escape(caption)}">'
    parts.append(_figure(picture, caption))
  for caption, name in (file for result in results for file in result.sounds.items()):
    sound = f'<audio controls preload="none" src="{_embedded(folder / name)}"></audio>'
    parts.append(_figure(sound, caption))
  facts = {"token hash": report.token_hash, **report.versions, **report.flags}
  parts += ["<h2>How this was made</h2>", _facts(facts), "</body></html>"]
  with atomic_write(path) as file:
    file.write("\n".join(parts).encode())


def _figure(content: str, caption: str) -> str:
  return f"<figure><figcaption>{html.escape(caption)}</figcaption>{content}</figure>"


def _table(rows: Sequence[Row]) -> str:
  lines = [
    "<table><thead><tr><th>figure</th><th>value</th><th>95 % interval</th><th></th><th>n</th>"
    "<th>marks</th></tr></thead><tbody>"
  ]
  for row in rows:
    e = row.estimate
    note = f"<br><small>{html.escape(row.note)}</small>" if row.note else ""
    lines.append(
      f"<tr><td>{html.escape(row.figure)}{note}</td>"
      f'<td class="number">{number(e.value)}</td><td class="number">{interval(e)}</td>'
      f'<td>{_bar(row)}</td><td class="number">{e.n}</td>'
      f'<td class="{row.verdict}">{html.escape(_marks(row))}</td></tr>'
    )
  return "\n".join([*lines, "</tbody></table>"])


def _bar(row: Row) -> str:
  """Returns an SVG drawing of the row's interval; an empty string unless it is within 0 to 1."""
  e = row.estimate
  if not 0 <= e.low < e.high <= 1:
    return ""
  left, right, middle = (round(_BAR * x, 1) for x in (e.low, e.high, e.value))
  return (
    f'<svg width="{_BAR}" height="{_HEIGHT}" role="img" aria-label="interval from 0 to 1">'
    f'<line x1="0" x2="{_BAR}" y1="6" y2="6" stroke="#999"/>'
    f'<line x1="{left}" x2="{right}" y1="6" y2="6" stroke="#3465a4" stroke-width="6"/>'
    f'<circle cx="{middle}" cy="6" r="4" fill="#3465a4"/></svg>'
  )


def _marks(row: Row) -> str:
  marks = (("floor", row.floor), ("aim", row.aim))
  given = [f"{name} {number(mark)}" for name, mark in marks if mark is not None]
  return ", ".join([*given, *([_VERDICTS[row.verdict]] if row.verdict else [])])


def _facts(facts: Json) -> str:
  lines = [
    f"<tr><td>{html.escape(str(name))}</td><td>{html.escape(str(value))}</td></tr>"
    for name, value in facts.items()
    if value not in (None, "", [])
  ]
  return "\n".join(["<table><tbody>", *lines, "</tbody></table>"])


def _embedded(path: Path) -> str:
  kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
  return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
