"""Write the table of what a step costs, in docs/design/performance.md, from a result of `aida bench step`.

    python tools/performance_table.py [docs/results/step/step.json] [docs/design/performance.md]

The table stands between the lines <!-- performance --> and <!-- /performance -->.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from aida_bench.bench.report import markdown
from aida_bench.storage.files import write_text

RESULT, PAGE = "docs/results/step/step.json", "docs/design/performance.md"
BEGIN, END = "<!-- performance -->", "<!-- /performance -->"
OURS = ("Aida", "AdaBelief", "AdamPlus", "LAdam", "LAdaBelief", "LAida")
SHOWN = [
    *(f"{name}, fused" for name in OURS),
    "Aida, fused, bfloat16 moments",
    "torch AdamW, foreach",
    "torch SGD, fused",
    "pytorch_optimizer Aida, loop",
    "pytorch_optimizer AdaBelief, loop",
    "adabelief-pytorch, loop",
]


def replaced(text: str, table: str) -> str:
    """The text with the table between its markers. Raises ValueError where they are missing."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the lines {BEGIN} and {END} are missing: put them where the table belongs")
    return f"{head}{BEGIN}\n{table}\n{END}{tail}"


def main(result: str = RESULT, page: str = PAGE) -> None:
    try:
        table = markdown(json.loads(Path(result).read_text(encoding="utf-8")), SHOWN)
        write_text(Path(page), replaced(Path(page).read_text(encoding="utf-8"), table))
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}; `aida bench step` writes the result")
    except ValueError as error:
        sys.exit(f"{page}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
