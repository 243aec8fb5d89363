"""What is written twice says the same."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_pre_commit_has_the_ruff_of_the_requirements():
    pinned = re.search(r"^ruff==\S+", (ROOT / "requirements/dev.txt").read_text(), re.MULTILINE)
    hooks = re.findall(r'"(ruff==[^"]+)"', (ROOT / ".pre-commit-config.yaml").read_text())
    assert {*hooks} == {pinned[0]}


def test_the_workflow_calls_targets_that_make_has():
    makefile = (ROOT / "Makefile").read_text()
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    matrix = re.findall(r"target: ([\w-]+)", workflow)
    called = {*re.findall(r"make ([\w-]+)", workflow), *matrix}
    assert called
    assert [target for target in called if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []
    assert "bash .ci/run" in workflow


def test_make_help_names_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = (
        re.search(r"^\.PHONY: (.*?)(?<!\\)\n", makefile, re.MULTILINE | re.DOTALL)[1]
        .replace("\\\n", " ")
        .split()
    )
    assert [t for t in targets if not re.search(rf"^{t}:.*## \S", makefile, re.MULTILINE)] == []
