# type: ignore
"""How elements lie in memory and what stands for them, for device code: rounding.py and blockwise.py."""

import triton
import triton.language as tl

LIMIT = tl.constexpr(3.4028234663852886e38)  # float32's, as in optimizers/rule.py
TINY = tl.constexpr(1.1754943508222875e-38)  # float32's smallest normal number; both as in blockwise.py
LARGEST = tl.constexpr(3e38)


@triton.jit
def load(X, at, n, FLOAT: tl.constexpr, MASKED: tl.constexpr):
    # A mask by an n that is not known when compiling keeps loads from being wide: whole blocks have none.
    x = tl.load(X + at, mask=at < n, other=0) if MASKED else tl.load(X + at)
    return x.to(FLOAT)


@triton.jit
def store(X, at, n, x, bits, ROUND: tl.constexpr, MASKED: tl.constexpr):
    if ROUND and X.dtype.element_ty == tl.bfloat16:
        x = x.to(tl.float32)
        rounded = (x.to(tl.uint32, bitcast=True) + bits) >> 16
        x = tl.where(x == x, rounded, 0x7FC0).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        x = narrowed(x, X)
    if MASKED:
        tl.store(X + at, x, mask=at < n)
    else:
        tl.store(X + at, x)


@triton.jit
def narrowed(x, X):
    # By way of float32, as torch does: Triton 3.2 aborts the process on float64 to bfloat16.
    if X.dtype.element_ty == tl.bfloat16:
        x = x.to(tl.float32)
    return x.to(X.dtype.element_ty)


@triton.jit
def mix(x):
    x = (x ^ (x >> 16)) * 0x21F0AAAD
    x = (x ^ (x >> 15)) * 0xD35A2D97
    return x ^ (x >> 15)


@triton.jit
def moment(X, S, at, n, FLOAT: tl.constexpr, MASKED: tl.constexpr):
    """m or v as it is stored, or what its codes and scales S stand for."""
    x = load(X, at, n, FLOAT, MASKED)
    if X.dtype.element_ty == tl.int8:
        x = x * (load(S, at // 256, tl.cdiv(n, 256), FLOAT, MASKED) / 127.0)
    if X.dtype.element_ty == tl.uint8:
        x = x * x * (load(S, at // 256, tl.cdiv(n, 256), FLOAT, MASKED) / 65025.0)
    return x


@triton.jit
def store_moment(
    X, S, at, n, x, bits, ROUND: tl.constexpr, MASKED: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr
):  # fmt: skip
    if X.dtype.element_ty == tl.int8 or X.dtype.element_ty == tl.uint8:
        BLOCKS: tl.constexpr = ROWS * LANES // 256
        x = tl.reshape(x.to(tl.float32), [BLOCKS, 256])
        magnitude = tl.abs(x)
        scale = tl.minimum(tl.max(tl.where(magnitude == magnitude, magnitude, 0.0), axis=1), LARGEST)
        at = tl.reshape(at, [BLOCKS, 256])
        first = tl.min(at, axis=1)
        tl.store(S + first // 256, scale, mask=first < n)
        z = x * (1.0 / tl.maximum(scale, TINY))[:, None]
        z = tl.where(z > 1.0, 1.0, tl.where(z < -1.0, -1.0, z))
        z = tl.where(z == z, z, 0.0)
        if ROUND:
            share = tl.reshape(bits, [BLOCKS, 256]).to(tl.float32) * 1.52587890625e-05
        else:
            share = tl.full([BLOCKS, 256], 0.5, tl.float32)
        if X.dtype.element_ty == tl.int8:
            y = 127.0 * z
            low = tl.floor(y)
            code = low + (share < y - low).to(tl.float32)
        else:
            y = 65025.0 * z
            low = tl.floor(tl.sqrt(y))
            code = low + (share * (2.0 * low + 1.0) < y - low * low).to(tl.float32)
            code = tl.where((code == 0.0) & (x > 0.0), 1.0, code)
        code = code.to(tl.int32).to(X.dtype.element_ty)  # by way of a type that every target converts to
        if MASKED:
            tl.store(X + at, code, mask=at < n)
        else:
            tl.store(X + at, code)
    else:
        store(X, at, n, x, bits, ROUND, MASKED)
