"""What the shell completes after `aida`."""

import os
import subprocess
import sys

import pytest


@pytest.mark.processes
@pytest.mark.parametrize(("typed", "wanted"), [("aida co", {"compare"}), ("aida bench s", {"step"})])
def test_bash_completes_commands(typed, wanted):
    environment = {**os.environ, "_AIDA_COMPLETE": "complete_bash", "COMP_WORDS": typed}
    environment["COMP_CWORD"] = str(len(typed.split()) - 1)
    command = [
        sys.executable,
        "-c",
        "import sys; sys.argv[0] = 'aida'; import aida_bench.__main__ as m; m.main()",
    ]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert {*run.stdout.split()} == wanted, run.stdout + run.stderr
