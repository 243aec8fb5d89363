"""Every Python block of README.md and docs/ runs, from an empty folder.

A block finds a model, an optimizer of it and what a training loop needs, as a reader has them; `...` stands
for a few steps. Each block starts anew, but in a page that says `<!-- blocks continue each other -->`.
`<!-- not run: why -->` before a block, which is for fragments alone, leaves it out. In a list it is indented.
"""

import re
import sys
import types
from pathlib import Path
from textwrap import dedent

import pytest
import torch

import aida

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"^(?P<mark><!-- not run: .+ -->\n+)?(?P<indent> *)```python\n(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
CONTINUED = "<!-- blocks continue each other -->"
LEFT_OUT = 2  # at most


def pages():
    return [
        page
        for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))
        if BLOCK.search(page.read_text())
    ]


def blocks(text):
    """(line, code) of each block to run; in one piece where they continue each other."""
    found = [
        (text[: b.start("code")].count("\n") + 1, dedent(b["code"]))
        for b in BLOCK.finditer(text)
        if not b["mark"]
    ]
    if CONTINUED in text and found:
        lines = [""] * (found[-1][0] - 1 + found[-1][1].count("\n") + 1)
        for line, code in found:
            lines[line - 1 : line - 1 + code.count("\n")] = code.splitlines()
        return [(1, "\n".join(lines))]
    return found


def as_a_reader_has_it():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 2))
    optimizer = aida.Aida(model.parameters())
    batches = [(torch.randn(16, 4), torch.randint(2, (16,))) for _ in range(3)]
    return {
        "model": model,
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3),
        "batches": batches,
        "loss": torch.nn.functional.cross_entropy,
        "inputs": batches[0][0],
        "targets": batches[0][1],
    }


def train(known):
    for inputs, targets in known["batches"]:
        known["optimizer"].zero_grad()
        known["loss"](known["model"](inputs), targets).backward()
        known["optimizer"].step()


CASES = [(page, line, code) for page in pages() for line, code in blocks(page.read_text())]


@pytest.mark.parametrize(
    ("page", "line", "code"), CASES, ids=[f"{p.relative_to(ROOT)}:{n}" for p, n, _ in CASES]
)
@pytest.mark.filterwarnings("error")
def test_a_block_runs(page, line, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page")  # where pickle finds its classes
    known = module.__dict__
    known.update(as_a_reader_has_it(), train=lambda: train(known))
    code = re.sub(r"^( *)\.\.\.", r"\1train()", code, flags=re.MULTILINE)
    monkeypatch.setitem(sys.modules, "page", module)
    exec(compile("\n" * (line - 1) + code, str(page), "exec"), known)


def test_few_blocks_are_left_out():
    marks = [b["mark"] for page in pages() for b in BLOCK.finditer(page.read_text()) if b["mark"]]
    assert len(marks) <= LEFT_OUT, marks


def test_blocks_are_found_with_their_lines():
    text = (
        "a\n```python\nx = 1\n```\n<!-- not run: a sketch -->\n```python\ny\n```\n\n```python\nz = x\n```\n"
    )
    assert blocks(text) == [(3, "x = 1\n"), (11, "z = x\n")]
    assert blocks("- a\n\n  ```python\n  if x:\n      y()\n  ```\n") == [(4, "if x:\n    y()\n")]
    assert blocks(f"{text}{CONTINUED}\n") == [(1, "\n\nx = 1\n\n\n\n\n\n\n\nz = x\n")]
