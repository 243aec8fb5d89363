"""`aida stepsizes` asks for the extra that is enough for it."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("command", "extra"), [(["stepsizes", "rows.jsonl"], "monitor"), (["compare"], "experiments")]
)
def test_what_is_missing_is_asked_for_by_its_extra(command, extra):
    code = f"import sys; sys.modules['typer'] = None; sys.argv[1:] = {command}; "
    code += "from aida_experiments.__main__ import main; main()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stderr.strip() == f'aida: the command needs typer: pip install "aida-optim[{extra}]"'
