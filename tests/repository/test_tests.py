"""How the tests are kept: what they share is in tests/helpers, and a file stays short enough to read."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
FILES = sorted(TESTS.rglob("*.py"))
IMPORT = re.compile(
    r"^\s*(?:from ([\w.]+) )?import ([\w., ]+)", re.MULTILINE
)  # in scripts within strings too


def imported_tests(text: str) -> list[str]:
    """Files of tests, but for the helpers and the table of combinations, that the text imports."""
    found = []
    for package, names in IMPORT.findall(text):
        modules = [*([package] if package else []), *(f"{package}.{n.split()[0]}" if package else n.split()[0]
                   for n in names.split(",") if n.strip())]  # fmt: skip
        found += [module for module in modules if (TESTS / f"{module.replace('.', '/')}.py").is_file()]
    return [module for module in found if not module.startswith("helpers.") and module != "combinations"]


def test_no_test_imports_a_test():
    assert {path: found for path in FILES if (found := imported_tests(path.read_text()))} == {}


def test_an_imported_test_is_seen():
    """A negative control, with each form of an import."""
    for line in (
        "from sharding.test_failures import losses",
        "from sharding import test_failures, cases_atomic as c",
        "import family.test_rules",
        'SCRIPT = """\n  from family import test_rules\n"""',
    ):
        assert imported_tests(line), line


def test_files_are_short():
    assert [path for path in FILES if len(path.read_text().splitlines()) > 400] == []
