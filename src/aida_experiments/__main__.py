"""The command's entry: says how to install what the library itself does not need."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from aida_experiments.cli import app

        app()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "aida", "aida_experiments"):
            raise
        extra = "monitor" if sys.argv[1:2] == ["stepsizes"] else "experiments"
        sys.exit(f'aida: the command needs {missing}: pip install "aida-optim[{extra}]"')


if __name__ == "__main__":
    main()
