"""Write the tables of what steps and iterations cost, from results of `aida bench step` and `train`.

    python tools/performance_table.py [PAGE ...]    by default all pages that have some

A table stands between the lines <!-- table RESULT.json --> and <!-- /table -->, in which RESULT is the file's
path from the repository's root: one for each machine. A precision after it leaves the others out, as in
<!-- table RESULT.json float32 -->.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from aida_bench.bench import report, train_report
from aida_bench.storage.files import write_text

ROOT = Path(__file__).parents[1]
PAGES = ("docs/design/performance.md", "docs/results/train/README.md", "README.md")
TABLE = re.compile(r"(<!-- table (\S+\.json)(?: (\w+))? -->\n).*?(<!-- /table -->)", re.DOTALL)
OURS = ("Aida", "AdaBelief", "AdamPlus", "LAdam", "LAdaBelief", "LAida")
SHOWN = [
    *(f"{name}, fused" for name in OURS),
    "Aida, fused, bfloat16 moments",
    "Aida, fused, int8 moments",
    "torch AdamW, foreach",
    "torch SGD, fused",
    "pytorch_optimizer Aida, loop",
    "pytorch_optimizer AdaBelief, loop",
    "adabelief-pytorch, loop",
]


def table(name: str, precision: str | None = None) -> str:
    """The Markdown of a result, or of its rows of one precision. Raises ValueError where there are none."""
    try:
        result = json.loads((ROOT / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{name}: {error.strerror}; `aida bench` writes it with --out") from error
    of_training = all("precision" in row for row in result["results"])
    if precision:
        result["results"] = [row for row in result["results"] if row.get("precision") == precision]
        if not result["results"]:
            raise ValueError(f"{name}: no row of precision {precision!r}; leave the precision out")
    return train_report.markdown(result) if of_training else report.markdown(result, SHOWN)


def filled(page: str) -> str:
    """The page with its tables anew. Raises ValueError where it has no place for one."""
    text, count = TABLE.subn(lambda found: f"{found[1]}{table(found[2], found[3])}\n{found[4]}", page)
    if not count:
        raise ValueError("no line <!-- table RESULT.json --> with <!-- /table --> after it: put them in")
    return text


def main(*pages: str) -> None:
    for page in pages or [page for page in PAGES if TABLE.search((ROOT / page).read_text(encoding="utf-8"))]:
        try:
            path = ROOT / page
            write_text(path, filled(path.read_text(encoding="utf-8")))
        except OSError as error:
            sys.exit(f"{error.filename}: {error.strerror}")
        except ValueError as error:
            sys.exit(f"{page}: {error}")
        print(page)


if __name__ == "__main__":
    main(*sys.argv[1:])
