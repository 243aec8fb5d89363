"""The pages of the repository: every file that they point to is there, and the first page stays short."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("tests/**/*.md"),
        *ROOT.glob("packages/*/*.md"),
    ]
)
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
TARGET = re.compile(r"\]\(\s*<?([^)\s>]+)|(?:src|href)=[\"']([^\"']+)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
# What a page names in its code: `tests/optimizers/test_atomic.py`, `python tools/x.py`, docs/results/x.md.
NAMED = re.compile(
    r"(?<![\w./~-])(?:src|csrc|tests|docs|tools|reproduce|benchmarks|examples|packages)/[\w./-]*\w"
)
WRITTEN = {"benchmarks/step.json"}  # by `aida bench step`


def headings(text: str) -> set[str]:
    """Anchors, as code hosts make them of headings."""
    found = re.findall(
        r"^#+ (.*)$", CODE.sub(lambda m: m[0].strip("`") if "\n" not in m[0] else "", text), re.M
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def missing(page: Path, text: str) -> list[str]:
    """Relative targets of links and images, and anchors, that are not there."""
    found = []
    for match in TARGET.findall(CODE.sub("", text)):
        target = next(filter(None, match))
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (
            anchor and file.suffix == ".md" and anchor not in headings(file.read_text() if path else text)
        ):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_links_to_is_there(page):
    assert missing(page, page.read_text()) == []


def test_a_missing_target_is_seen():
    """A negative control, with each form of a link."""
    page = ROOT / "docs" / "guide" / "eps.md"
    for text in (
        "[a](nowhere.md)", "![a figure](figures/nowhere.png)", '<img src="nowhere.png">', "[a]: nowhere.md",
        "[of another folder](README.md)", "[no heading](../../README.md#nowhere)", "# Here\n[a](#there)",
    ):  # fmt: skip
        assert missing(page, text), text
    good = (
        "# What it costs, here\n[a](../../README.md) [b](#what-it-costs-here) [c](https://x.y/z) `[d](code)`"
    )
    assert missing(page, good) == []


def test_files_that_pages_name_in_code_are_there():
    """Commands and paths go stale where a file moves, and no reader's click finds it."""
    stale = {}
    for page in PAGES:
        named = set(NAMED.findall(page.read_text())) - WRITTEN
        if lost := sorted(name for name in named if not (ROOT / name).exists()):
            stale[page.relative_to(ROOT).as_posix()] = lost
    assert stale == {}


def test_every_page_of_the_docs_is_reached_from_the_readme():
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        for match in TARGET.findall(CODE.sub("", page.read_text())):
            file = (page.parent / next(filter(None, match)).partition("#")[0]).resolve()
            if file.suffix == ".md" and file.exists() and file not in seen:
                waiting.append(file)
    assert [page for page in ROOT.glob("docs/**/*.md") if page not in seen] == []


def test_the_readme_is_a_screen_and_a_half():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 90
