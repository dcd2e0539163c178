import os
import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOOK = runpy.run_path(str(ROOT / "docs/site/repository_pages.py"))
with_site_links = HOOK["with_site_links"]


def test_a_link_from_a_page_to_a_file_of_the_repository_leads_to_its_page():
  text = "[card](../../audiolm_jax/bundles/speech/MODEL_CARD.md#limits)"
  found = with_site_links(text, "how-to/detect.md", "docs/how-to/detect.md")
  assert found == "[card](../repository/speech.md#limits)"


def test_a_link_between_files_of_the_repository_leads_from_page_to_page():
  found = with_site_links(
    "[cost](../launch/cost.md)", "repository/benchmarks.md", "benchmarks/README.md"
  )
  assert found == "[cost](cost.md)"
  found = with_site_links(
    "[m](docs/pretrained.md)", "repository/contributing.md", "CONTRIBUTING.md"
  )
  assert found == "[m](../pretrained.md)"


def test_links_within_the_site_and_to_the_web_stay():
  text = "[a](tokens.md) [b](https://arxiv.org/abs/2209.03143) [c](#here)"
  assert with_site_links(text, "concepts/stages.md", "docs/concepts/stages.md") == text


def test_every_file_that_is_shown_exists():
  assert all((ROOT / source).is_file() for source in HOOK["PAGES"].values())


def test_every_link_to_a_file_leads_to_a_page_of_the_site():
  pages = HOOK["PAGES"]
  sources = {page: source for page, source in pages.items() if source.endswith(".md")}
  for path in (ROOT / "docs").rglob("*.md"):
    page = path.relative_to(ROOT / "docs").as_posix()
    sources[page] = f"docs/{page}"
  assert len(sources) > 40
  lost = []
  for page, source in sources.items():
    text = with_site_links((ROOT / source).read_text(encoding="utf-8"), page, source)
    for match in HOOK["_LINK"].finditer(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
      target = os.path.normpath(Path(page).parent / match[2])
      if target not in pages and not (ROOT / "docs" / target).exists():
        lost.append(f"{source}: {match[2]}")
  assert not lost
