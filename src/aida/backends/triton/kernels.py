# type: ignore
"""Device code of the fused step: the contract's six lines, once, over chunks of many layers.

pointers [L, 6]: addresses of p, g, m, v, and of m's and v's scales where these are codes of 8 bits.
chunks [C, 2]: layer, and place of the chunk in it.  numels [L].
numbers [L, 8]: inv_bias2, eps_in_root, eps_out, step_size, decay_factor, alpha, beta, mean; float64, as all
sums are.  mean: of r^2 for "pre", until pool puts u in its place; of u for "post".
ranges [L, 2]: from which row of partial to which a layer's are.  layers: places of those that are launched.
One program takes one chunk in blocks of ROWS x LANES elements. A sum is taken over LANES in FLOAT, then in
float64 over rows, blocks and (total) chunks, always in one order: no atomics. A chunk whose FLOAT sums
overflow is summed again, with every term in float64.
Random bits are those of rounding.py, codes those of blockwise.py.
"""

import triton
import triton.language as tl

from ... import family
from .elements import LIMIT, load, mix, moment, narrowed, store, store_moment


def _on_device(function):
    """A function of family.py for kernels; the interpreter refuses one that does not see triton.language."""
    compiled = triton.jit(function)
    return compiled if isinstance(compiled, triton.JITFunction) else function


_project, _residual_factors = map(_on_device, (family.project, family.residual_factors))


@triton.jit
def gram(
    pointers, chunks, numels, partial, grad_scale, b1: tl.float64, weight_decay: tl.float64, sign: tl.float64,
    P_TYPE: tl.constexpr, G_TYPE: tl.constexpr, M_TYPE: tl.constexpr, FLOAT: tl.constexpr,
    DECAY: tl.constexpr, ALIGNED: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """partial [C, 4]: gg, gm, mm, dd of each chunk."""
    i = _place(False)
    layer, start, n = _chunk(chunks, numels, i, CHUNK)
    P = _pointer(pointers, layer, 0, start, P_TYPE, ALIGNED)
    G = _pointer(pointers, layer, 1, start, G_TYPE, ALIGNED)
    M = _pointer(pointers, layer, 2, start, M_TYPE, ALIGNED)
    MS = _scales(pointers, layer, 4, start)
    scale = _scale(sign, grad_scale)
    gg, gm, mm, dd = _gram(P, G, M, MS, n, scale, b1, weight_decay, FLOAT, DECAY, ROWS, LANES, FLOAT)
    finite = gg + tl.abs(gm) + mm + dd < float("inf")
    if not finite:
        gg, gm, mm, dd = _gram(P, G, M, MS, n, scale, b1, weight_decay, FLOAT, DECAY, ROWS, LANES, tl.float64)
    out = partial + i * 4
    tl.store(out, gg)
    tl.store(out + 1, gm)
    tl.store(out + 2, mm)
    tl.store(out + 3, dd)


@triton.jit
def stepsize(
    pointers, chunks, numels, partial, numbers, grad_scale,
    b1: tl.float64, b2: tl.float64, weight_decay: tl.float64, sign: tl.float64,
    P_TYPE: tl.constexpr, G_TYPE: tl.constexpr, M_TYPE: tl.constexpr, V_TYPE: tl.constexpr,
    FLOAT: tl.constexpr, DECAY: tl.constexpr, ALIGNED: tl.constexpr,
    REVERSED: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """partial [C, 2]: sum of u over each chunk's elements with v != 0, and their number."""
    i = _place(REVERSED)
    layer, start, n = _chunk(chunks, numels, i, CHUNK)
    P = _pointer(pointers, layer, 0, start, P_TYPE, ALIGNED)
    G = _pointer(pointers, layer, 1, start, G_TYPE, ALIGNED)
    M = _pointer(pointers, layer, 2, start, M_TYPE, ALIGNED)
    MS = _scales(pointers, layer, 4, start)
    V = _pointer(pointers, layer, 3, start, V_TYPE, ALIGNED)
    VS = _scales(pointers, layer, 5, start)
    row = numbers + layer * 8
    scale = _scale(sign, grad_scale)
    total = tl.zeros([ROWS], tl.float64)
    count = tl.zeros([ROWS], tl.float64)
    at = _block(ROWS, LANES)
    for _ in range(n // (ROWS * LANES)):
        a, b = _stepsizes(P, G, M, V, MS, VS, row, at, n, scale, b1, b2, weight_decay, FLOAT, DECAY, False)
        total += a
        count += b
        at += ROWS * LANES
    if n % (ROWS * LANES) != 0:
        a, b = _stepsizes(P, G, M, V, MS, VS, row, at, n, scale, b1, b2, weight_decay, FLOAT, DECAY, True)
        total += a
        count += b
    tl.store(partial + i * 2, tl.sum(total, axis=0))
    tl.store(partial + i * 2 + 1, tl.sum(count, axis=0))


@triton.jit
def total(partial, ranges, out, COLUMNS: tl.constexpr, ROWS: tl.constexpr):
    """out [L, COLUMNS]: the sum of each layer's rows of partial."""
    layer = tl.program_id(0)
    for column in tl.static_range(COLUMNS):
        tl.store(out + layer * COLUMNS + column, _total(partial, ranges, layer, column, COLUMNS, ROWS))


@triton.jit
def coefficients(
    partial, ranges, layers, wholes, numbers, alpha: tl.float64, beta: tl.float64, K, xi: tl.float64,
    PROJECTED: tl.constexpr, LAYERWISE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """From gram's partial [C, 4]: alpha and beta after K projections, and for "pre" the mean of r^2.

    Operation for operation what optimizers/rule.py and step.py do with tensors; to be compiled without
    contraction to fused multiply-adds.
    """
    layer = tl.load(layers + tl.program_id(0))
    row = numbers + layer * 8
    gg = _total(partial, ranges, layer, 0, 4, ROWS)
    gm = _total(partial, ranges, layer, 1, 4, ROWS)
    dd = _total(partial, ranges, layer, 3, 4, ROWS)
    if PROJECTED:
        mm = _total(partial, ranges, layer, 2, 4, ROWS)
        for _ in range(K):
            alpha, beta = _project(alpha, beta, gg, gm, mm, xi)
        alpha = _usable(alpha)
        beta = _usable(beta)
        tl.store(row + 5, alpha)
        tl.store(row + 6, beta)
    if LAYERWISE == "pre":
        of_dd, of_difference, of_gg = _residual_factors(alpha, beta)
        if PROJECTED:
            square = of_dd * dd + of_difference * (gm - gg) + of_gg * gg
        else:  # a factor of 0 leaves its sum out, which may be infinite
            square = tl.where(of_dd == 0, 0.0, of_dd * dd)
            square += tl.where(of_difference == 0, 0.0, of_difference * (gm - gg))
            square += tl.where(of_gg == 0, 0.0, of_gg * gg)
        square = (square + tl.abs(square)) / 2
        if PROJECTED:
            square = tl.where(tl.abs(square) < float("inf"), square, dd)
        tl.store(row + 7, square / tl.load(wholes + layer).to(tl.float64))


@triton.jit
def mean_stepsize(partial, ranges, layers, numbers, ROWS: tl.constexpr):
    """The mean of u over the elements that stepsize counts; where there are none, it stays what it is."""
    layer = tl.load(layers + tl.program_id(0))
    count = _total(partial, ranges, layer, 1, 2, ROWS)
    if count > 0:
        tl.store(numbers + layer * 8 + 7, _total(partial, ranges, layer, 0, 2, ROWS) / count)


@triton.jit
def pool(pointers, layers, numbers, found_inf, b2: tl.float64, V_TYPE: tl.constexpr):
    """The one number v of a layer, and its u: in apply each chunk would race to write it."""
    if _skipped(found_inf):
        return
    layer = tl.load(layers + tl.program_id(0))
    V = tl.load(pointers + layer * 6 + 3).to(tl.pointer_type(V_TYPE))
    row = numbers + layer * 8
    v = b2 * tl.load(V).to(tl.float64) + (1 - b2) * tl.load(row + 7)
    tl.store(V, narrowed(v, V))
    tl.store(row + 7, _stepsize(v, row, tl.float64))


@triton.jit
def apply(
    pointers, chunks, numels, numbers, keys, grad_scale, found_inf,
    b1: tl.float64, b2: tl.float64, weight_decay: tl.float64, sign: tl.float64,
    P_TYPE: tl.constexpr, G_TYPE: tl.constexpr, M_TYPE: tl.constexpr, V_TYPE: tl.constexpr,
    FLOAT: tl.constexpr, LAYERWISE: tl.constexpr, ROUND: tl.constexpr, ROUND_P: tl.constexpr,
    DECAY: tl.constexpr, ALIGNED: tl.constexpr,
    REVERSED: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Write p, m and, unless it is pooled, v."""
    if _skipped(found_inf):
        return
    layer, start, n = _chunk(chunks, numels, _place(REVERSED), CHUNK)
    P = _pointer(pointers, layer, 0, start, P_TYPE, ALIGNED)
    G = _pointer(pointers, layer, 1, start, G_TYPE, ALIGNED)
    M = _pointer(pointers, layer, 2, start, M_TYPE, ALIGNED)
    MS = _scales(pointers, layer, 4, start)
    V = _pointer(pointers, layer, 3, start, V_TYPE, ALIGNED)  # of no use where it is pooled
    VS = _scales(pointers, layer, 5, start)
    row = numbers + layer * 8
    key = tl.load(keys + layer).to(tl.uint32) if ROUND else 0
    key = start.to(tl.uint32) * 0x9E3779B9 + key if ROUND else 0
    scale = _scale(sign, grad_scale)
    at = _block(ROWS, LANES)
    for _ in range(n // (ROWS * LANES)):
        _update(
            P, G, M, V, MS, VS, row, key, at, n, scale, b1, b2, weight_decay,
            FLOAT, LAYERWISE, ROUND, ROUND_P, DECAY, False, ROWS, LANES,
        )  # fmt: skip
        at += ROWS * LANES
    if n % (ROWS * LANES) != 0:
        _update(
            P, G, M, V, MS, VS, row, key, at, n, scale, b1, b2, weight_decay,
            FLOAT, LAYERWISE, ROUND, ROUND_P, DECAY, True, ROWS, LANES,
        )  # fmt: skip


@triton.jit
def _total(
    partial, ranges, layer, column: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    first = tl.load(ranges + layer * 2)
    last = tl.load(ranges + layer * 2 + 1)
    sums = tl.zeros([ROWS], tl.float64)
    for i in range(tl.cdiv(last - first, ROWS)):
        at = first + i * ROWS + tl.arange(0, ROWS)
        sums += tl.load(partial + at * COLUMNS + column, mask=at < last, other=0)
    return tl.sum(sums, axis=0)


@triton.jit
def _usable(c):
    held = tl.where(c > LIMIT, LIMIT, tl.where(c < -LIMIT, -LIMIT, c))
    return tl.where(tl.abs(c) < float("inf"), held, 1.0)


@triton.jit
def _gram(
    P, G, M, MS, n, scale, b1, weight_decay,
    FLOAT: tl.constexpr, DECAY: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """gg, gm, mm, dd of a chunk, over LANES in SUM."""
    gg = tl.zeros([ROWS], tl.float64)
    gm = tl.zeros([ROWS], tl.float64)
    mm = tl.zeros([ROWS], tl.float64)
    dd = tl.zeros([ROWS], tl.float64)
    at = _block(ROWS, LANES)
    for _ in range(n // (ROWS * LANES)):
        a, b, c, d = _products(P, G, M, MS, at, n, scale, b1, weight_decay, FLOAT, DECAY, False, SUM)
        gg += a
        gm += b
        mm += c
        dd += d
        at += ROWS * LANES
    if n % (ROWS * LANES) != 0:
        a, b, c, d = _products(P, G, M, MS, at, n, scale, b1, weight_decay, FLOAT, DECAY, True, SUM)
        gg += a
        gm += b
        mm += c
        dd += d
    return tl.sum(gg, axis=0), tl.sum(gm, axis=0), tl.sum(mm, axis=0), tl.sum(dd, axis=0)


@triton.jit
def _products(
    P, G, M, MS, at, n, scale, b1, weight_decay,
    FLOAT: tl.constexpr, DECAY: tl.constexpr, MASKED: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    p = load(P, at, n, FLOAT, MASKED) if DECAY else 0.0
    g, m = _gradient_and_momentum(p, G, M, MS, at, n, scale, b1, weight_decay, FLOAT, DECAY, MASKED)
    g = g.to(SUM)
    m = m.to(SUM)
    d = m - g
    return _row_sums(g * g), _row_sums(g * m), _row_sums(m * m), _row_sums(d * d)


@triton.jit
def _stepsizes(
    P, G, M, V, MS, VS, row, at, n, scale, b1, b2, weight_decay,
    FLOAT: tl.constexpr, DECAY: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    p = load(P, at, n, FLOAT, MASKED) if DECAY else 0.0
    g, m = _gradient_and_momentum(p, G, M, MS, at, n, scale, b1, weight_decay, FLOAT, DECAY, MASKED)
    v = _variance(g, m, V, VS, row, at, n, b2, FLOAT, MASKED)
    counted = (at < n) & (v != 0)
    return _row_sums(tl.where(counted, _stepsize(v, row, FLOAT), 0.0)), _row_sums(counted.to(FLOAT))


@triton.jit
def _update(
    P, G, M, V, MS, VS, row, key, at, n, scale, b1, b2, weight_decay,
    FLOAT: tl.constexpr, LAYERWISE: tl.constexpr, ROUND: tl.constexpr, ROUND_P: tl.constexpr,
    DECAY: tl.constexpr, MASKED: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    p = load(P, at, n, FLOAT, MASKED)
    g, m = _gradient_and_momentum(p, G, M, MS, at, n, scale, b1, weight_decay, FLOAT, DECAY, MASKED)
    word = mix(at.to(tl.uint32) * 0x9E3779B9 + key) if ROUND else at.to(tl.uint32)
    if LAYERWISE != "pre":
        v = _variance(g, m, V, VS, row, at, n, b2, FLOAT, MASKED)
        store_moment(V, VS, at, n, v, word >> 16, ROUND, MASKED, ROWS, LANES)
    u = _stepsize(v, row, FLOAT) if LAYERWISE is None else tl.load(row + 7).to(FLOAT)
    decay_factor = tl.load(row + 4).to(FLOAT)
    step_size = tl.load(row + 3).to(FLOAT)
    store_moment(M, MS, at, n, m, word & 0xFFFF, ROUND, MASKED, ROWS, LANES)
    store(P, at, n, decay_factor * p - step_size * u * m, (word * 0xD35A2D97) >> 16, ROUND_P, MASKED)


@triton.jit
def _gradient_and_momentum(
    p, G, M, MS, at, n, scale, b1, weight_decay,
    FLOAT: tl.constexpr, DECAY: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    g = scale.to(FLOAT) * load(G, at, n, FLOAT, MASKED)
    if DECAY:
        g += tl.full([], weight_decay, FLOAT) * p
    m = moment(M, MS, at, n, FLOAT, MASKED)
    return g, tl.full([], b1, FLOAT) * m + tl.full([], 1 - b1, FLOAT) * g


@triton.jit
def _variance(g, m, V, VS, row, at, n, b2, FLOAT: tl.constexpr, MASKED: tl.constexpr):
    alpha = tl.load(row + 5).to(FLOAT)
    beta = tl.load(row + 6).to(FLOAT)
    r = beta * m - alpha * g
    v = moment(V, VS, at, n, FLOAT, MASKED)
    return tl.full([], b2, FLOAT) * v + tl.full([], 1 - b2, FLOAT) * (r * r)


@triton.jit
def _stepsize(v, row, FLOAT: tl.constexpr):
    inv_bias2 = tl.load(row).to(FLOAT)
    eps_in_root = tl.load(row + 1).to(FLOAT)
    eps_out = tl.load(row + 2).to(FLOAT)
    of_infinite = tl.where(inv_bias2 == 0, 0.0, float("inf")).to(FLOAT)
    v = tl.where(v == float("inf"), of_infinite, v * inv_bias2)
    return 1 / (tl.sqrt(v + eps_in_root) + eps_out)


@triton.jit
def _place(REVERSED: tl.constexpr):
    """Of this program's chunk; backwards, what was read last, and is likeliest in the cache, comes first."""
    i = tl.program_id(0)
    if REVERSED:
        i = tl.num_programs(0) - 1 - i
    return i.to(tl.int64)


@triton.jit
def _chunk(chunks, numels, i, CHUNK: tl.constexpr):
    """(layer, first element, number of elements) of chunk i."""
    layer = tl.load(chunks + i * 2)
    start = tl.load(chunks + i * 2 + 1) * CHUNK
    return layer, start, tl.minimum(tl.load(numels + layer) - start, CHUNK).to(tl.int32)


@triton.jit
def _pointer(pointers, layer, which, start, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    X = tl.load(pointers + layer * 6 + which).to(tl.pointer_type(TYPE)) + start
    if ALIGNED:  # else no load is of 16 bytes
        X = tl.multiple_of(X, 16)
    return X


@triton.jit
def _scales(pointers, layer, which, start):
    """Of m (4) or v (5) from the chunk's first block on; of no use where that is not codes."""
    return tl.load(pointers + layer * 6 + which).to(tl.pointer_type(tl.float32)) + start // 256


@triton.jit
def _block(ROWS: tl.constexpr, LANES: tl.constexpr):
    return tl.arange(0, ROWS)[:, None] * LANES + tl.arange(0, LANES)[None, :]


@triton.jit
def _row_sums(x):
    return tl.sum(x, axis=1).to(tl.float64)


@triton.jit
def _scale(sign, grad_scale):
    return sign if grad_scale is None else sign / tl.load(grad_scale).to(tl.float64)


@triton.jit
def _skipped(found_inf):
    return False if found_inf is None else tl.load(found_inf) > 0
