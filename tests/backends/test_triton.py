"""The Triton backend without a GPU: interpreted on the CPU, and compiled for GPUs that are not here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")
CASES = sorted(Path(__file__).parent.glob("triton_*cases.py"))


def run_cases(**environment):
    # A process of its own: triton reads TRITON_INTERPRET once, when it is imported.
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *map(str, CASES)]
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
NUMBERS = {**dict.fromkeys(("b1", "b2", "weight_decay", "sign", "alpha", "beta", "xi"), "fp64"), "K": "i32"}
CONSTANTS = {
    "P_TYPE": "bfloat16", "G_TYPE": "bfloat16", "M_TYPE": "bfloat16", "V_TYPE": "bfloat16",
    "FLOAT": "float32", "DECAY": True, "ROUND": True, "ROUND_P": True, "ALIGNED": True, "COLUMNS": 4,
    "PROJECTED": True, "REVERSED": False,
}  # fmt: skip


def compiled(kernel, target, options=None, **constants):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from aida.backends import triton as backend
    from aida.backends.triton import kernels as triton_kernels

    function = getattr(triton_kernels, kernel)
    fixed = {
        "CHUNK": backend.CHUNK,
        "ROWS": backend.ROWS,
        "LANES": backend.LANES,
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
            signature[name] = NUMBERS[name]
        else:
            signature[name] = "*fp64" if name in FLOAT64 else TABLES.get(name, "*i64")
    source = ASTSource(function, signature, values)
    options = {"num_warps": backend.WARPS, **(options or {})}
    return compile(source, target=GPUTarget(*target), options=options).asm


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def types(p, g, m, v):
    """What launch() gives a group of these types, without stochastic rounding, GradScaler and a rule."""
    double = "float64" in (p, g, m, v)
    given = dict(P_TYPE=p, G_TYPE=g, M_TYPE=m, V_TYPE=v, FLOAT="float64" if double else "float32")
    none = dict.fromkeys(("keys", "grad_scale", "found_inf"))
    return {**given, **none, "ROUND": False, "ROUND_P": False, "PROJECTED": False, "REVERSED": True}


VARIANTS = {
    "bfloat16 stochastically rounded, with GradScaler": {},
    "float32": types("float32", "float32", "float32", "float32"),
    "float64 with bfloat16 gradients and moments": types("float64", "bfloat16", "bfloat16", "bfloat16"),
    "float16 with float64 moments": types("float16", "float16", "float64", "float16"),
    "bfloat16 with float64 moments": types("bfloat16", "bfloat16", "float64", "float64"),
    "8 bits stochastically rounded": dict(
        P_TYPE="float32", G_TYPE="bfloat16", M_TYPE="int8", V_TYPE="uint8", ROUND_P=False
    ),
    "8 bits of float64 parameters": types("float64", "float64", "int8", "uint8"),
}


def entries():
    """Every kernel that is launched, apply for each place of the mean."""
    from aida.backends.triton import kernels as triton_kernels

    for name, x in vars(triton_kernels).items():
        own = isinstance(x, triton.JITFunction) and x.fn.__module__ == triton_kernels.__name__
        if own and not name.startswith("_"):
            for layerwise in (None, "pre", "post") if "LAYERWISE" in x.arg_names else (None,):
                yield name, layerwise


@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("kernel", "layerwise"), list(entries()))
def test_compiles_for_cuda_without_atomics(kernel, layerwise, capability, variant):
    """A conversion that a release of Triton lacks aborts the process here, not on a user's GPU."""
    code = compiled(kernel, ("cuda", capability, 32), LAYERWISE=layerwise, **VARIANTS[variant])["ptx"]
    assert f".target sm_{capability}" in code
    assert not re.search(r"\b(atom|red)\.", code.replace("shared.", ""))


def test_no_kernel_is_forgotten():
    assert {kernel for kernel, _ in entries()} >= {
        "gram", "stepsize", "total", "pool", "apply", "coefficients", "mean_stepsize",
    }  # fmt: skip


@pytest.mark.usefixtures("no_cache")
def test_a_rule_in_a_kernel_rounds_as_tensor_operations_do():
    """No product is added unrounded, as a compiler does that is told to (the negative control)."""
    from aida.backends.triton import AS_WRITTEN

    plain, told = (
        compiled("coefficients", ("cuda", 90, 32), options, LAYERWISE="pre")["ptx"]
        for options in ({"enable_fp_fusion": True}, AS_WRITTEN)
    )
    assert "fma.rn.f64" in plain
    assert "fma.rn.f64" not in told
    assert "mul.rn.f64" in told or "mul.f64" in told


@pytest.mark.usefixtures("no_cache")
def test_compiles_for_rocm():
    try:
        code = compiled("apply", ("hip", "gfx942", 64))
    except Exception as error:
        if "ld.lld not found" not in str(error):
            raise
        pytest.skip("this Triton has no linker of its own for ROCm")
    assert "amdgcn" in code


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
