"""The command's entry."""

from __future__ import annotations

import codecs
import io
import sys

PLAIN = {
    "★": "*",
    "±": "+-",
    "–": "-",
    "…": "...",
    "·": "-",
    "→": "->",
    "é": "e",
    "×": "x",
    "µ": "u",
    "−": "-",
}


def speak_plainly() -> None:
    """What an encoding lacks is said in ASCII: no sign may end a command after hours of training."""
    codecs.register_error("aida.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="aida.plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


def main() -> None:
    speak_plainly()
    try:
        from aida_bench.cli.app import app

        app()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "aida", "aida_bench"):
            raise
        sys.exit(f"aida: the command needs {missing}: pip install --upgrade aida-bench")


if __name__ == "__main__":
    main()
