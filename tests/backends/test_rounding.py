"""Random rounding to bfloat16: the bits are those specified, random enough, and rounding is without bias."""

import pytest
import torch

from aida.backends import rounding
from aida.backends.contract import Layers, Scalars

# (seed, layer, t): the key, then w_i and the bits for p of the first four elements.
VECTORS = {
    (0, 0, 1): (
        0x06D3FA73,
        [0x9E19A430, 0x295FFCF2, 0x32A5F229, 0x0C3E2D5F],
        [0x0BDC, 0xAA28, 0xF8DD, 0x670C],
    ),
    (0, 0, 2): (
        0x0DA7F4E7,
        [0x6AB988EB, 0x8146CACD, 0x23C038DD, 0x00606373],
        [0x641F, 0xF579, 0x0512, 0xE9C3],
    ),
    (0, 1, 1): (
        0xC80AF510,
        [0xE152E31F, 0x72611D12, 0x1E6ECD55, 0xA828C5E2],
        [0xDFB6, 0x97B8, 0xAC55, 0x3249],
    ),
    (2**32 - 1, 199, 100_000): (
        0xE949A261,
        [0x478F4CC7, 0x2BC1790D, 0x6F3AD671, 0xF56DCF6B],
        [0x68FB, 0x16F7, 0x7A20, 0x2DD9],
    ),
}
N = 1 << 18
LAGS = [1, 2, 3, 4, 7, 8, 16, 32, 55, 64, 89, 128, 256, 4096, 17711, 46368]
LIMIT = 5.0  # standard deviations; some hundreds of fixed draws are compared


def key(seed: int, layer: int, t: int) -> int:
    return rounding.step_key(rounding.layer_key(seed, layer) + t)


def halves(words: torch.Tensor) -> dict[str, torch.Tensor]:
    """The bits that round m, v and p."""
    return {"m": words & 0xFFFF, "v": words >> 16, "p": (words * rounding.M2 & rounding.MASK) >> 16}


def excess(a: torch.Tensor, b: torch.Tensor) -> float:
    """Standard deviations that (a, b) are from independent and uniform: correlation or 32 x 32 cells."""
    size = 1 << 16
    x, y = (a - (size - 1) / 2) / size, (b - (size - 1) / 2) / size
    correlation = (x * y).mean().item() * 12 * len(x) ** 0.5
    counts = torch.bincount((a >> 11) * 32 + (b >> 11), minlength=1024).double()
    chi_square = ((counts - len(a) / 1024) ** 2).sum().item() / (len(a) / 1024)
    return max(abs(correlation), (chi_square - 1023) / (2 * 1023) ** 0.5)


def worst_pair(words: torch.Tensor) -> float:
    """Over elements and their neighbours at many distances."""
    return max(excess(h[:-lag], h[lag:]) for h in halves(words).values() for lag in LAGS)


@pytest.mark.parametrize("where", VECTORS)
def test_vectors(where):
    expected, words, p_bits = VECTORS[where]
    assert key(*where) == expected
    drawn = rounding.words(torch.zeros(4), expected)
    assert drawn.tolist() == words
    assert halves(drawn)["p"].tolist() == p_bits


def test_a_key_is_the_same_from_a_tensor():
    layer = rounding.layer_key(3, 5)
    t = torch.tensor([1, 2, 1000, 2**31])
    assert rounding.step_key(layer + t).tolist() == [rounding.step_key(layer + int(i)) for i in t]
    m = torch.zeros(100)
    assert torch.equal(rounding.words(m, torch.tensor(key(3, 5, 7))), rounding.words(m, key(3, 5, 7)))


def test_the_place_of_an_element_is_that_in_memory():
    m = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    words = rounding.words(m, 1)
    assert words.permute(0, 2, 3, 1).flatten().tolist() == rounding.words(torch.zeros(120), 1).tolist()
    assert rounding.words(torch.zeros(()), 1).shape == ()
    assert rounding.words(torch.zeros(0, 3), 1).shape == (0, 3)


@pytest.mark.parametrize("where", [(0, 0, 1), (7, 12, 900)])
def test_bits_are_uniform(where):
    words = rounding.words(torch.empty(N), key(*where))
    for half in halves(words).values():
        for byte in (half >> 8, half & 0xFF):
            counts = torch.bincount(byte, minlength=256).double()
            chi_square = ((counts - N / 256) ** 2).sum().item() / (N / 256)
            assert abs(chi_square - 255) / 510**0.5 < LIMIT
        block_means = (half.double() / 65536).view(-1, 256).mean(1)
        spread = block_means.var().item() * 12 * 256
        assert abs(spread - 1) / (2 / len(block_means)) ** 0.5 < LIMIT


@pytest.mark.parametrize("where", [(0, 0, 1), (7, 12, 900)])
def test_neighbours_are_independent(where):
    assert worst_pair(rounding.words(torch.empty(N), key(*where))) < LIMIT


@pytest.mark.parametrize("weaker", ["one multiplication", "low bits"])
def test_weaker_generators_are_caught(monkeypatch, weaker):
    """Negative control: the statistics are sharp enough to tell."""
    if weaker == "one multiplication":
        monkeypatch.setattr(
            rounding, "mix", lambda x: (y := (x ^ x >> 16) * rounding.M1 & rounding.MASK) ^ y >> 15
        )
        words = rounding.words(torch.empty(N), 0x06D3FA73)
    else:
        words = rounding.words(torch.empty(N), 0x06D3FA73) & 0xFFFFFFF
    assert worst_pair(words) > 20


def test_what_m_v_and_p_get_is_independent_and_so_are_steps_layers_and_seeds():
    m = torch.empty(N)
    base = halves(rounding.words(m, key(0, 0, 1)))
    assert max(excess(base[a], base[b]) for a, b in ("mv", "mp", "vp")) < LIMIT
    for other in [(0, 0, 2), (0, 0, 3), (0, 1, 1), (0, 2, 1), (1, 0, 1), (1, 1, 1), (0, 1, 2)]:
        drawn = halves(rounding.words(m, key(*other)))
        assert max(excess(base[a], drawn[b]) for a in "mvp" for b in "mvp") < LIMIT, other
    assert excess(base["m"], base["m"]) > 100


def test_keys_do_not_repeat():
    keys = {key(seed, layer, t) for seed in range(4) for layer in range(20) for t in range(1, 101)}
    assert len(keys) == 8000


def test_rounding_has_no_bias():
    """The mean of many roundings is x within its standard error, and both neighbours of x occur."""
    x = torch.tensor([1.0 + 2**-9, -3.1415927, 1e-12, 1.1754944e-38, -2.3e-41, 6.0e37, 0.3])
    below = (x.view(torch.int32) & -0x10000).view(torch.float32)
    gap = ((x.view(torch.int32) & -0x10000) + 0x10000).view(torch.float32) - below
    up = ((x.double() - below.double()) / gap.double()).clamp(1e-9)
    words = rounding.words(torch.empty(N), key(5, 0, 1))
    for bits in halves(words).values():
        rounded = rounding.round_bfloat16(x.expand(N, -1), bits[:, None]).double()
        share = ((rounded - below.double()) / gap.double()).mean(0)
        assert ((share - up).abs() < 4 * (up * (1 - up) / N) ** 0.5 + 1e-6).all()
    to_nearest = ((x.bfloat16().double() - below.double()) / gap.double() - up).abs()
    assert (to_nearest[:3] > 0.01).all()  # negative control: rounding to nearest is off


def test_special_values():
    largest, inf, nan = torch.finfo(torch.bfloat16).max, float("inf"), float("nan")
    held = torch.tensor([0.0, -0.0, 1.0, -1.5, largest, -largest, inf, -inf, 9.2e-41])
    held[-1] = held[-1].bfloat16().float()
    for bits in (0, 1, 0x7FFF, 0xFFFF):
        rounded = rounding.round_bfloat16(held, torch.full((len(held),), bits))
        assert torch.equal(rounded.float().view(torch.int32), held.view(torch.int32))
        payloads = torch.tensor([0x7F800001, 0x7FFFFFFF, 0x7FC00000, -1], dtype=torch.int32).view(
            torch.float32
        )
        assert rounding.round_bfloat16(payloads, torch.full((4,), bits)).isnan().all()
    odd = torch.tensor([nan, 1.0 + 2**-8])
    assert rounding.round_bfloat16(odd, torch.tensor([0xFFFF, 0x8000])).tolist()[1] == 1.0078125
    assert rounding.round_bfloat16(odd, torch.tensor([0, 0x7FFF])).tolist()[1] == 1.0
    beyond = torch.tensor([3.4e38])
    assert rounding.round_bfloat16(beyond, torch.tensor([0])).item() == largest
    assert rounding.round_bfloat16(beyond, torch.tensor([0xFFFF])).item() == inf


def at_the_threshold(bits: list[int]) -> torch.Tensor:
    """Numbers from 1 to 1 + 2^-7, bfloat16's next: these bits just round them up, and less by 1 down."""
    return torch.tensor([0x3F800000 + 0x10000 - b for b in bits], dtype=torch.int32).view(torch.float32)


def just_below(x: torch.Tensor) -> torch.Tensor:
    return (x.view(torch.int32) - 1).view(torch.float32)


def zeros(dtype: torch.dtype, size: int = 4) -> Layers:
    p, m, v = (torch.zeros(size, dtype=dtype) for _ in range(3))
    return Layers([p], [torch.zeros(size)], [m], [v], [size])


def scalars(key: int | None, round_p: bool) -> Scalars:
    column = [0.0]
    keys = None if key is None else [key]
    return Scalars(0.9, 0.999, 0.0, 1.0, 1.0, None, column, column, column, column, keys, round_p)


@pytest.mark.parametrize("round_p", [False, True])
def test_each_tensor_gets_its_own_bits(round_p):
    """write() gives m the low half, v the high half, p the remixed half, and p only when asked."""
    key, words, p_bits = VECTORS[0, 0, 1]
    p, m, v = map(at_the_threshold, (p_bits, [w & 0xFFFF for w in words], [w >> 16 for w in words]))
    layers, s = zeros(torch.bfloat16), scalars(key, round_p)
    rounding.write(layers, 0, p, m, v, s)
    assert [x[0].tolist() for x in (layers.m, layers.v)] == [[1 + 2**-7] * 4] * 2
    assert layers.p[0].tolist() == ([1 + 2**-7] * 4 if round_p else p.bfloat16().tolist())
    rounding.write(layers, 0, *map(just_below, (p, m, v)), s)
    assert [x[0].tolist() for x in (layers.m, layers.v)] == [[1.0] * 4] * 2
    assert layers.p[0].tolist() == ([1.0] * 4 if round_p else just_below(p).bfloat16().tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_keys_everything_is_stored_and_rounded_to_the_nearest(dtype):
    layers = zeros(dtype)
    stored = [torch.tensor([1.001, -2.7, 3e-5, 7.0]) * factor for factor in (1.0, 1.1, 1.2)]
    rounding.write(layers, 0, *stored, scalars(None, True))
    for found, x in zip((layers.p, layers.m, layers.v), stored, strict=True):
        assert torch.equal(found[0], x.to(dtype))


@pytest.mark.parametrize("shape", [(2,), (3,), (2, 3), (5, 4)])
def test_where_memory_has_gaps_places_are_those_of_a_contiguous_moment(shape):
    gaps = torch.zeros(*shape[:-1], 2 * shape[-1] - 1)[..., ::2]
    assert gaps.shape == shape
    assert not gaps.is_contiguous()
    assert torch.equal(rounding.words(gaps, 7), rounding.words(torch.zeros(shape), 7))
