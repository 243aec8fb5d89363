"""The command `aida`, called in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from aida_bench.cli.app import app


def invoke(*arguments: object):
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, [str(argument) for argument in arguments])


def refused(result, *parts: str) -> None:
    """Exit code 2, and one line on stderr with all the parts; no traceback, nothing on stdout."""
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    for part in parts:
        assert part in result.stderr
