"""`python -m aida`, and the library that the CPU kernel is without OpenMP."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import aida
from aida import __main__ as report
from aida.backends import cpu

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which(os.environ.get("CXX") or "c++")


def test_it_tells_versions_and_backends(capsys):
    assert report.main([]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"aida {aida.__version__}, {Path(aida.__file__)}\ntorch ")
    kernel = cpu.library()
    for line in (
        r"^cpu +eager +agrees with eager in float64$",
        r"^cpu +foreach +agrees",
        r"^cpu +fused \(C\+\+\) +unavailable: " if isinstance(kernel, str) else r"^cpu +fused .* agrees",
        r"^all is well$",
    ):
        assert re.search(line, text, re.MULTILINE), text


def test_the_version_alone(capsys):
    with pytest.raises(SystemExit, match="0"):
        report.main(["--version"])
    assert capsys.readouterr().out == f"aida {aida.__version__}\n"


def test_a_missing_backend_is_told_with_its_reason_and_is_no_failure(capsys, monkeypatch):
    monkeypatch.setattr(cpu, "library", lambda: "it was left out")
    assert report.main([]) == 0
    assert re.search(r"fused \(C\+\+\) +unavailable: it was left out$", capsys.readouterr().out, re.MULTILINE)


def test_a_backend_that_differs_ends_with_1(capsys, monkeypatch):
    right = report._stepped
    wrong = lambda member, dtype, device, given: [  # noqa: E731
        x + 1e-4 * bool(given.get("foreach")) for x in right(member, dtype, device, given)
    ]
    monkeypatch.setattr(report, "_stepped", wrong)
    assert report.main([]) == 1
    text = capsys.readouterr().out
    assert re.search(
        r"^cpu +foreach +DIFFERS from eager, .* times what rounding explains$", text, re.MULTILINE
    )
    assert len(re.findall("DIFFERS", text)) == 1
    assert "please report" in text


@pytest.mark.packaging
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_threads_without_openmp_step_as_exactly(tmp_path):
    """As on macOS and Windows: the kernel's own tests of threads and chunks, on a library without OpenMP."""
    library = tmp_path / "_step_cpu.so"
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-pthread", "-fopenmp-simd"]
    subprocess.run([COMPILER, *flags, ROOT / "csrc/step_cpu.cpp", "-o", library], check=True)
    assert b"GOMP_parallel" not in library.read_bytes()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/backends/test_cpu.py"]
    environment = {**os.environ, "AIDA_CPU_LIBRARY": str(library)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"^\d+ passed", done.stdout, re.MULTILINE), done.stdout[-500:]
