"""The README as a package index shows it: nothing there can follow an address within this repository."""

import re
from pathlib import Path


def dynamic_metadata(settings, project):
    """A provider for scikit-build-core: figures of the repository go, of a link to a file its text stays."""
    text = Path("README.md").read_text(encoding="utf-8")
    text = re.sub(r"^!\[[^\]]*\]\((?!https:)[^)]*\)\n+", "", text, flags=re.MULTILINE)
    text = re.sub(r"(?<!!)\[([^\]]*)\]\((?!https:)[^)]*\)", r"\1", text)
    return {"readme": {"content-type": "text/markdown", "text": text}}
