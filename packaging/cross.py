"""Are these libraries of the systems that their names tell, and do they export what ctypes calls?

Run by `make cross`, on machines that cannot load them.
"""

import ast
import re
import sys
from pathlib import Path

LOADER = Path(__file__).parents[1] / "src/aida/backends/cpu.py"
FORMS = {  # by system: where its files tell it, and what
    "windows": (0, b"MZ"),
    "macos": (0, b"\xcf\xfa\xed\xfe\x0c\x00\x00\x01"),  # 64 bits, arm64
    "linux": (18, b"\xb7\x00"),  # ELF's e_machine, arm64
}


def called() -> set[str]:
    """The names that the loader asks for."""
    strings = {
        node.value
        for node in ast.walk(ast.parse(LOADER.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {name for name in strings if re.fullmatch("aida_[a-z_]+", name)}


def check(path: Path) -> None:
    """Raise AssertionError where it is not so."""
    data = path.read_bytes()
    at, sign = next(form for system, form in FORMS.items() if system in path.name)
    assert data[at : at + len(sign)] == sign, f"{path}: of another system"
    missing = sorted(name for name in called() if name.encode() + b"\0" not in data)
    assert not missing, f"{path}: it lacks {', '.join(missing)}"
    print(f"{path}: {len(data)} bytes, {len(called())} functions")


if __name__ == "__main__":
    assert len(called()) >= 8
    for argument in sys.argv[1:]:
        check(Path(argument))
