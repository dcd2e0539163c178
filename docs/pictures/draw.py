"""Draws the pictures of the pages on how it works: `python docs/pictures/draw.py`.

Each picture brings its own ground, light or dark as the reader's machine is set, so that it reads
well on any page.
"""

from pathlib import Path

STYLE = """
  .ground{fill:#f6f8f9} .line{stroke:#6b7a85;stroke-width:2;fill:none} .head{fill:#6b7a85}
  text{font-family:system-ui,sans-serif;font-size:15px;fill:#1d2830;text-anchor:middle}
  .small{font-size:13px;fill:#55646f} .inside{font-size:13px} .left{text-anchor:start}
  .wave{fill:#d7dee3} .semantic{fill:#f3c98b} .coarse{fill:#8fd0c4} .fine{fill:#b9b4e8}
  @media(prefers-color-scheme:dark){
    .ground{fill:#1c242a} .line{stroke:#94a4af} .head{fill:#94a4af} text{fill:#e8eef1}
    .small{fill:#aab8c1} .wave{fill:#3a4750} .semantic{fill:#8a5f1d} .coarse{fill:#1f6b60}
    .fine{fill:#514aa0}
  }
"""

# Seconds at which each window of the picture starts, ends what is given, and ends.
WINDOWS = ((0, 3, 10), (7, 10, 17), (10, 17, 20))


# Known levels of each frame of the picture, after three passes of level 1 and one of each other.
PASSES = (
  ("before", (4, 4, 4, 0, 0, 0, 0, 0, 0, 0)),
  ("level 1, pass 1 of 3", (4, 4, 4, 1, 0, 0, 0, 0, 0, 0)),
  ("level 1, pass 2 of 3", (4, 4, 4, 1, 1, 0, 0, 1, 0, 1)),
  ("level 1, pass 3 of 3", (4, 4, 4, 1, 1, 1, 1, 1, 1, 1)),
  ("level 2, 1 pass", (4, 4, 4, 2, 2, 2, 2, 2, 2, 2)),
  ("level 3, 1 pass", (4, 4, 4, 3, 3, 3, 3, 3, 3, 3)),
)


def box(x: float, y: float, width: float, height: float, kind: str, *lines: str) -> str:
  """A rectangle with lines of text in its middle, the second and later ones small."""
  first = y + height / 2 + 5 - 9 * (len(lines) - 1)
  parts = [f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="4"/>']
  for number, line in enumerate(lines):
    look = ' class="inside"' if number else ""
    parts.append(f'<text{look} x="{x + width / 2}" y="{first + 18 * number}">{line}</text>')
  return "".join(parts)


def words(x: float, y: float, line: str, look: str = "small left") -> str:
  """One line of text that begins at a point."""
  return f'<text class="{look}" x="{x}" y="{y}">{line}</text>'


def arrow(*points: tuple[float, float]) -> str:
  """A line through points with a head at the last one."""
  path = "M" + " L".join(f"{x},{y}" for x, y in points)
  return f'<path class="line" d="{path}" marker-end="url(#head)"/>'


def picture(title: str, width: int, height: int, parts: list[str]) -> str:
  """The whole file; `title` is its text for screen readers."""
  head = (
    '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto-start-reverse"><path class="head" d="M0,0 L8,4 L0,8 z"/></marker>'
  )
  return "\n".join(
    [
      f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
      f"<title>{title}</title><style>{STYLE}</style><defs>{head}</defs>",
      f'<rect class="ground" width="{width}" height="{height}" rx="8"/>',
      *parts,
      "</svg>\n",
    ]
  )


def tokens() -> str:
  """160 ms of sound: four semantic tokens above eight frames of codes."""
  parts = [box(150, 24, 640, 40, "wave", "160 ms of sound, 2560 samples at 16 kHz")]
  parts.append(words(16, 50, "waveform"))
  parts.append(words(16, 104, "semantic tokens"))
  parts.append(words(16, 121, "25 per second"))
  parts += [
    box(152 + 160 * step, 86, 156, 36, "semantic", value)
    for step, value in enumerate(("17", "17", "903", "41"))
  ]
  parts.append(words(16, 166, "coarse codes"))
  parts.append(words(16, 183, "levels 1 to 4"))
  parts.append(words(16, 256, "fine codes"))
  parts.append(words(16, 273, "levels 5 to 12"))
  for frame in range(8):
    for level in range(12):
      kind, gap = ("coarse", 0) if level < 4 else ("fine", 6)
      x, y = 152 + 80 * frame, 144 + 14 * level + gap
      parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="76" height="12" rx="2"/>')
  parts.append(
    words(150, 342, "one column is a frame of 20 ms: 50 per second, each code 0 to 1023")
  )
  return picture("A waveform, its semantic tokens and its acoustic codes", 810, 360, parts)


def stages() -> str:
  """The three stages, one below the other, and what goes from one to the next."""
  parts = [
    box(20, 20, 150, 50, "wave", "prompt", "3 s"),
    arrow((170, 45), (216, 45)),
    box(220, 20, 250, 50, "semantic", "semantic stage", "crops of 30 s"),
    arrow((470, 45), (516, 45)),
    box(520, 20, 270, 50, "semantic", "semantic tokens", "words, melody"),
    arrow((655, 70), (655, 100), (345, 100), (345, 126)),
    box(220, 130, 250, 50, "coarse", "coarse stage", "crops of 10 s"),
    arrow((95, 70), (95, 155), (216, 155)),
    words(104, 122, "its tokens"),
    arrow((470, 155), (516, 155)),
    box(520, 130, 270, 50, "coarse", "levels 1 to 4", "voice, room, instrument"),
    arrow((655, 180), (655, 210), (345, 210), (345, 236)),
    box(220, 240, 250, 50, "fine", "fine stage", "chunks of 3 s, side by side"),
    arrow((470, 265), (516, 265)),
    box(520, 240, 270, 50, "fine", "levels 5 to 12", "detail"),
    arrow((655, 290), (655, 346)),
    box(520, 350, 270, 50, "wave", "codec decoder", "all 12 levels"),
    arrow((520, 375), (174, 375)),
    box(20, 350, 150, 50, "wave", "sound", "prompt + 7 s"),
  ]
  return picture("Three stages from a prompt to sound", 810, 420, parts)


def windows() -> str:
  """A clip of 20 s from a prompt of 3 s: what each window is given and makes."""
  scale = 33.0

  def x(second: float) -> float:
    return 120 + scale * second

  parts = [words(16, 38, "clip")]
  parts.append(box(x(0), 18, 3 * scale - 2, 32, "wave", "prompt"))
  parts.append(box(x(3), 18, 17 * scale, 32, "coarse", "made"))
  for number, (start, known, end) in enumerate(WINDOWS):
    y = 70 + 46 * number
    parts.append(words(16, y + 21, f"window {number + 1}"))
    parts.append(box(x(start), y, scale * (known - start) - 2, 32, "wave", "given"))
    parts.append(box(x(known), y, scale * (end - known), 32, "coarse", "new"))
  parts.append(words(16, 234, "fine chunks"))
  for chunk in range(1, 7):
    end = min(20, 3 * chunk + 3)
    parts.append(box(x(3 * chunk), 212, scale * (end - 3 * chunk) - 2, 32, "fine"))
  for second in range(0, 21, 5):
    parts.append(words(x(second), 270, f"{second} s", "small"))
  return picture("A clip of 20 seconds in three windows of 10 seconds", 810, 286, parts)


def bundle() -> str:
  """The files of a folder and what each is for."""
  rows = (
    ("wave", "bundle.json", "configurations, rates, token hash, training data, licence"),
    ("wave", "codec.safetensors", "waveform to codes and back"),
    ("semantic", "semantic.safetensors", "waveform to semantic tokens"),
    (
      "semantic",
      "semantic_stage.safetensors",
      "what comes next; of one token hash only",
    ),
    ("coarse", "coarse_stage.safetensors", "levels 1 to 4; likewise"),
    ("fine", "fine_stage.safetensors", "levels 5 to 12; likewise; there may be none"),
    ("wave", "detector.safetensors", "detects samples of the bundle; optional"),
    ("coarse", "watermark.safetensors", "communities of codes to mark; there may be none"),
    ("wave", "MODEL_CARD.md", "what it is for, what was measured, where it fails"),
  )
  parts = []
  for number, (kind, name, what) in enumerate(rows):
    y = 20 + 44 * number
    parts.append(box(20, y, 270, 36, kind, name))
    parts.append(words(306, y + 23, what))
  return picture("The files of a bundle", 810, 428, parts)


def entry(x: float, y: float, kind: str) -> str:
  """A code of one frame and level; "none" is an outline."""
  look = 'fill="none" stroke="#94a4af"' if kind == "none" else f'class="{kind}"'
  return f'<rect {look} x="{x}" y="{y}" width="21" height="17" rx="2"/>'


def passes() -> str:
  """Ten frames of four levels before and after each pass: what is known, drawn and masked."""
  parts = []
  for number, (title, depths) in enumerate(PASSES):
    left, top = 16 + 264 * (number % 3), 20 + 136 * (number // 3)
    parts.append(words(left, top + 12, title))
    before = PASSES[number - 1][1] if number else depths
    for frame, depth in enumerate(depths):
      for level in range(4):
        kind = "wave" if frame < 3 else "none"
        if frame >= 3 and level < depth:
          kind = "fine" if level < before[frame] else "coarse"
        x, y = left + 24 * frame, top + 24 + 20 * level
        parts.append(entry(x, y, kind))
  legend = (("wave", "prompt"), ("coarse", "drawn in this pass"), ("fine", "known"))
  for number, (kind, text) in enumerate((*legend, ("none", "masked"))):
    x = 16 + 190 * number
    parts.append(entry(x, 296, kind))
    parts.append(words(x + 30, 309, text))
  return picture("The masks before and after each pass of a parallel stage", 810, 328, parts)


# The level-1 communities of the picture's frames, and whether each of eight is green after each.
COMMUNITIES = (3, 6, 1, 4, 2)
GREEN = ("ABBABAAB", "BABBAABA", "AABABBBA", "BBAAABAB", "ABABBABA")


def watermark() -> str:
  """Frames of codes; after each community, another half of the communities is green."""
  parts = [words(16, 44, "community of"), words(16, 61, "the frame before")]
  for number, community in enumerate(COMMUNITIES):
    x = 160 + 130 * number
    parts.append(box(x, 28, 96, 36, "wave", str(community)))
    parts.append(arrow((x + 48, 64), (x + 48, 96)))
    green = {i for i, letter in enumerate(GREEN[number]) if letter == "A"}
    for index in range(8):
      kind = "coarse" if index in green else "semantic"
      left, top = x + 48 * (index % 2), 100 + 26 * (index // 2)
      parts.append(box(left, top, 46, 22, kind, str(index)))
    if number:
      parts.append(arrow((x - 78 + 44, 46), (x - 4, 46)))
  parts += [words(16, 126, "communities of"), words(16, 143, "the next code")]
  parts.append(box(160, 222, 46, 22, "coarse", ""))
  parts.append(words(214, 238, "green: its codes are sampled more often"))
  parts.append(box(500, 222, 46, 22, "semantic", ""))
  parts.append(words(554, 238, "the others"))
  return picture("Another half of the communities is green after each community", 810, 262, parts)


PICTURES = {
  "watermark": watermark,
  "passes": passes,
  "tokens": tokens,
  "stages": stages,
  "windows": windows,
  "bundle": bundle,
}


def main() -> None:
  """Writes the files beside this one."""
  for name, draw in PICTURES.items():
    path = Path(__file__).with_name(f"{name}.svg")
    path.write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
  main()
