"""Kill -9 at a chosen moment of a run, whatever the machine's speed."""

from __future__ import annotations

import json
import os
from pathlib import Path


def killed(marks: Path, name: str = "checkpoint.pt", *, nth: int = 1, calls: int = 0, group: bool = False):
    """Environment variables in which a process dies as it has written a run's `name` for the nth time.

    Once a run: `marks` then has a file for it. With `calls`, it dies so many calls and returns of functions
    later, anywhere; with `group`, its whole process group dies.
    """
    marks.mkdir(parents=True)
    path = [str(Path(__file__).with_name("killing")), *filter(None, [os.environ.get("PYTHONPATH")])]
    how = {"marks": str(marks), "name": name, "nth": nth, "calls": calls, "group": group}
    return {"PYTHONPATH": os.pathsep.join(path), "AIDA_TEST_KILL": json.dumps(how)}
