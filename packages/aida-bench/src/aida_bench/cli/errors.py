"""How a command ends that did not go well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from aida_bench.errors import UserError, say


@contextmanager
def one_line_errors(resume_hint: str) -> Iterator[None]:
    """What a person can put right ends in one line on stderr and exit code 2; an interruption in code 130."""
    stderr = Console(stderr=True)
    try:
        yield
    except UserError as error:
        message, code = f"error: {error}", 2
    except BrokenPipeError:
        raise  # a reader that has enough, such as head: typer ends without a word
    except OSError as error:
        message, code = f"error: {error.filename or 'input or output'}: {error.strerror or error}.", 2
    except KeyboardInterrupt:
        message, code = f"interrupted; {resume_hint}", 130
    else:
        return
    say(stderr, message, style="red")
    raise typer.Exit(code)
