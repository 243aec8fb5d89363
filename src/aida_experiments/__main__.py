"""The command's entry: says how to install what the library itself does not need."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from aida_experiments.cli import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("aida", "aida_experiments"):
            raise
        sys.exit(f'aida: the command needs {error.name}: pip install "aida-optim[experiments]"')
    app()


if __name__ == "__main__":
    main()
