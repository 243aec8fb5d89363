"""The Triton backend without a GPU: interpreted on the CPU, and compiled for GPUs that are not here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
CASES = Path(__file__).with_name("triton_cases.py")


def run_cases(**environment):
    # A process of its own: triton reads TRITON_INTERPRET once, when it is imported.
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(CASES)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.processes
def test_interpreted():
    run_cases(TRITON_INTERPRET="1", AIDA_TEST_DEVICE="cpu")


# What launch() would give the kernels, by their arguments' names.
TABLES = {"grad_scale": "*fp32", "found_inf": "*fp32", "keys": "*i64"}
FLOAT64 = ("partial", "numbers", "out")
NUMBERS = ("b1", "b2", "weight_decay", "sign")
CONSTANTS = {
    "P_TYPE": "bfloat16", "G_TYPE": "bfloat16", "M_TYPE": "bfloat16", "V_TYPE": "bfloat16",
    "FLOAT": "float32", "DECAY": True, "ROUND": True, "ROUND_P": True, "ALIGNED": True, "COLUMNS": 4,
}  # fmt: skip


def compiled(kernel, target, **constants):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from aida.backends import triton, triton_kernels

    function = getattr(triton_kernels, kernel)
    fixed = {
        "CHUNK": triton.CHUNK,
        "ROWS": triton.ROWS,
        "LANES": triton.LANES,
        "LAYERWISE": None,
        **CONSTANTS,
    }
    fixed.update(constants)
    signature, values = {}, {}
    for name in function.arg_names:
        if name in fixed:
            signature[name] = "constexpr"
            is_type = name.endswith("_TYPE") or name == "FLOAT"
            values[name] = getattr(triton_kernels.tl, fixed[name]) if is_type else fixed[name]
        elif name in NUMBERS:
            signature[name] = "fp64"
        else:
            signature[name] = "*fp64" if name in FLOAT64 else TABLES.get(name, "*i64")
    source = ASTSource(function, signature, values)
    return compile(source, target=GPUTarget(*target), options={"num_warps": triton.WARPS}).asm


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize("kernel", ["gram", "stepsize", "total", "pool", "apply"])
def test_compiles_for_cuda_without_atomics(kernel):
    code = compiled(kernel, ("cuda", 80, 32))["ptx"]
    assert not re.search(r"\b(atom|red)\.", code.replace("shared.", ""))


@pytest.mark.usefixtures("no_cache")
def test_compiles_for_rocm():
    assert "amdgcn" in compiled("apply", ("hip", "gfx942", 64))


@pytest.mark.usefixtures("no_cache")
def test_aligned_float32_moves_16_bytes_at_once():
    """And only where all is aligned: an unaligned wide access faults on a GPU."""
    types = dict.fromkeys(("P_TYPE", "G_TYPE", "M_TYPE", "V_TYPE"), "float32")
    plain = {**types, "ROUND": False, "ROUND_P": False}
    wide, narrow = (compiled("apply", ("cuda", 80, 32), **plain, ALIGNED=a)["ptx"] for a in (True, False))
    assert "ld.global.v4.b32" in wide
    assert "st.global.v4.b32" in wide
    assert ".v4" not in narrow
    assert ".v2" not in narrow


@pytest.mark.gpu
def test_on_a_gpu():
    run_cases(TRITON_INTERPRET="0", AIDA_TEST_DEVICE=torch.accelerator.current_accelerator().type)


@pytest.mark.processes
def test_the_benchmark_starts():
    script = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
    done = subprocess.run([sys.executable, script, "--dry"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| Aida |" in done.stdout
