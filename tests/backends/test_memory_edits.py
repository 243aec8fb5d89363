"""Memory changed by hand between two steps: the next step is exact, or refused in one sentence and not begun.

AIDA_FUZZ_REPEATS: how often each kind of edit is tried on each tensor of each member (`make fuzz`: 20); else
each is tried on a third of them.
"""

import os
import random
import subprocess
import sys
from contextlib import suppress
from itertools import combinations, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import aida
from aida.backends import cpu, tensors
from helpers.backends import every_backend
from helpers.edits import EDITS, PLACES, edit, everything, readable, step_alike
from helpers.members import MEMBERS, OWN, parameters, set_gradients

REPEATS = int(os.environ.get("AIDA_FUZZ_REPEATS", "0"))
SHAPES = [(4, 6), (2, 3, 2, 2), (9,), ()]
OPTIONS = [{}, {"weight_decay": 0.1}, {"state_dtype": torch.bfloat16}, {"state_dtype": "int8"}]
OPTIONS += [{"maximize": True}, {"rectify": True}]
WHERE = [*(what[0] for what in PLACES), "pgmv", "pmv", "mv"]  # letters of PLACES
EPS = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def made(cls, arguments, options, shapes, dtype):
    params = parameters(shapes, dtype)
    return cls([{"params": params[:2]}, {"params": params[2:], "lr": 2e-3}], **arguments, **options)


def params_of(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def give_gradients(optimizer, t):
    for p in params_of(optimizer):
        with suppress(RuntimeError):  # the parameter's place keeps its own where torch refuses one for it
            set_gradients([p], t)


def exact(optimizer):
    """The same optimizer in eager float64, with tensors of its own; None where some have no real numbers."""
    params = params_of(optimizer)
    given = [x for p in params for x in (p, p.grad, *optimizer.state[p].values())]
    real = (
        x.layout is torch.strided and x.is_floating_point() and readable(x) for x in given if x is not None
    )
    if not all(real) or any(x is None for x in given):
        return None
    if any((p.grad.shape, p.grad.device) != (p.shape, p.device) for p in params):
        return None
    params = []
    for group in optimizer.param_groups:
        kept = {k: v for k, v in group.items() if k != "params"}
        wide = [torch.nn.Parameter(p.detach().resolve_neg().double().clone()) for p in group["params"]]
        params.append({**kept, "params": wide, "foreach": False, "fused": None, "state_dtype": None})
        for w, p in zip(wide, group["params"], strict=True):
            w.grad = p.grad.detach().resolve_neg().double()
    oracle = type(optimizer)(params)
    for w, p in zip(params_of(oracle), params_of(optimizer), strict=True):
        copies = {k: x.detach().resolve_neg().double().clone() for k, x in optimizer.state[p].items()}
        oracle.state[w] = copies
    return oracle


def assert_exact(optimizer, oracle):
    for p, w in zip(params_of(optimizer), params_of(oracle), strict=True):
        of_p, of_w = optimizer.state[p], oracle.state[w]
        worst = max(EPS.get(x.dtype, 0.0) for x in (p, p.grad, *of_p.values()))
        for ours, theirs in ((p, w), *((of_p[k], of_w[k]) for k in of_p)):
            if theirs.numel():
                apart = (ours.detach().resolve_neg().double() - theirs).abs().max().item()
                assert apart <= (1e-5 + 3 * worst) * theirs.abs().max().item() + 1e-12


def tried(cls, arguments, name, where, chance):
    """Edit and step an optimizer and its twin without a cache; whether torch let all be edited."""
    own = chance.choice(OWN[cls])
    options = {**own, **chance.choice(OPTIONS)}
    shapes = chance.sample(SHAPES, 3)
    dtype = chance.choice([torch.float32, torch.float32, torch.bfloat16, torch.float64])
    which, anew, later = chance.randrange(3), chance.random() < 0.4, chance.random() < 0.5
    twins = [made(cls, arguments, options, shapes, dtype) for _ in range(2)]
    for optimizer in twins:
        for t in range(2):
            give_gradients(optimizer, t)
            optimizer.step()
        if not later:
            give_gradients(optimizer, 2)
        done = edit(optimizer, params_of(optimizer)[which], name, where, anew)
        if later:
            give_gradients(optimizer, 2)
    oracle = exact(twins[0]) if options.get("state_dtype") is None else None
    if step_alike(*twins):
        return done
    if oracle is not None:
        oracle.step()
        assert_exact(twins[0], oracle)
    for optimizer in twins:
        give_gradients(optimizer, 3)
    step_alike(*twins)
    return done


@every_backend
@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_exact_or_refused(backend, name):
    backend.load()
    cases = list(product(MEMBERS, WHERE, range(REPEATS))) or list(product(MEMBERS, WHERE, [0]))[::3]
    done = 0
    for cls, where, repeat in cases:
        chance = random.Random(f"{cls.__name__} {name} {where} {repeat}")
        done += tried(cls, backend.arguments, name, where, chance)
    assert done >= len(cases) / 6  # torch itself refuses p.data and p.grad of some kinds


OLD_VALIDITY = """
import sys
import pytest
from aida.backends import tensors
def same_addresses(self, other):
    "But of gradients, the second fifth."
    n = len(self.addresses) // 5
    now, before = ([*x.addresses[:n], *x.addresses[2 * n:]] for x in (self, other))
    return now == before
tensors.Described.same = same_addresses
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-k", "address and cpu", sys.argv[1]]))
"""


@pytest.mark.skipif(cpu.unsupported_reason(torch.float32) is not None, reason="no CPU kernel is built")
def test_a_cache_that_compares_addresses_alone_fails_within_a_minute():
    """It may crash, and so is tried in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", OLD_VALIDITY, __file__], timeout=110, capture_output=True, text=True
    )
    assert run.returncode == 1 or run.returncode < 0 or "Sanitizer" in run.stderr, run.stdout + run.stderr


def one_by_one(tensors_, dicts, keys, moving):
    """tensors.describe() without a library."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "tensor_api", lambda: None)
        return tensors.describe(tensors_, dicts, keys, moving)


@given(st.lists(st.tuples(st.sampled_from(sorted(EDITS)), st.sampled_from(SHAPES)), min_size=3, max_size=5))
def test_both_descriptions_differ_where_one_does(edits):
    """In one call into C++, or one by one: what each says of tensors before and after edits."""
    if (api := tensors.tensor_api()) is None:
        assert sys.platform != "linux" or cpu.unsupported_reason(torch.float32) is not None
        pytest.skip("tensors are described one by one here")
    xs = [torch.randn(shape) for _, shape in edits]
    given_ = xs[:1], [{"a": x} for x in xs[1:]], ["a"], slice(1, 2)
    seen = []
    for x, (name, _) in zip([None, *xs], [("", ()), *edits], strict=True):
        if x is not None:
            with suppress(RuntimeError, TypeError):
                x.data = EDITS[name](x.data)
        descriptions = api.describe(*given_), one_by_one(*given_)
        assert descriptions[0].addresses.tolist() == descriptions[1].addresses.tolist()
        seen.append(descriptions)
    for (a, a1), (b, b1) in combinations(seen, 2):
        assert a.same(b) == a1.same(b1)


@pytest.mark.parametrize("describe", [tensors.describe, one_by_one])
def test_a_description_tells_tensors_apart(describe):
    """Another tensor with the same memory, one that may move, and what is no plain tensor."""
    x, y = torch.ones(2, 1, 1, 1, 1, 1, 1, 1), torch.ones(3)
    before = describe([x, y], [{"a": y}], ["a"], slice(1, 2))
    assert describe([x, y], [{"a": y}], ["a"], slice(1, 2)).same(before)
    assert describe([x, y.clone()], [{"a": y}], ["a"], slice(1, 2)).same(before)
    assert not describe([x, torch.ones(2)], [{"a": y}], ["a"], slice(1, 2)).same(before)
    assert not describe([x.detach(), y], [{"a": y}], ["a"], slice(1, 2)).same(before)
    assert not describe([x, y], [{"a": y.detach()}], ["a"], slice(1, 2)).same(before)
    assert not describe([x], [{"a": y}], ["a"], slice(0, 0)).same(before)
    for lost in (None, 1.0, y.as_subclass(type("Other", (torch.Tensor,), {}))):
        assert describe([x, lost], [], [], slice(0, 0)) is None
        assert describe([x], [{"a": lost}], ["a"], slice(0, 0)) is None
    assert describe([x], [{}], ["a"], slice(0, 0)) is None


@every_backend
def test_a_step_is_the_same_without_the_library(backend, monkeypatch):
    """And says of all that it writes that it was written to."""
    backend.load()
    seen = []
    for api in (tensors.tensor_api(), None):
        monkeypatch.setattr(tensors, "tensor_api", lambda api=api: api)
        optimizer = made(aida.Aida, backend.arguments, {}, SHAPES[:3], torch.float32)
        for t in range(4):
            give_gradients(optimizer, t)
            written = [x for p in params_of(optimizer) for x in (p, *optimizer.state[p].values())]
            versions = [x._version for x in written]
            optimizer.step()
            assert all(x._version > before for x, before in zip(written, versions, strict=True))
        seen.append(everything(optimizer))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("arguments", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_a_gradient_without_memory_is_refused(arguments):
    """torch's own zeros have no memory, and a storage that says otherwise; before or after a step."""
    if not hasattr(torch, "_efficientzerotensor"):
        pytest.skip("this torch has no such tensors")
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = aida.Aida([p], **arguments)
    for steps in (0, 1):
        p.grad = torch._efficientzerotensor((3,))
        with pytest.raises(RuntimeError, match="nothing was stepped"):
            optimizer.step()
        p.grad = torch.ones(3)
        optimizer.step()
        assert float(optimizer.state[p]["step"]) == steps + 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_the_library_serves_whatever_torch_s_default_type_is(dtype):
    """It is asked for once a process, at the first step."""
    has_it = tensors.tensor_api() is not None
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        assert (tensors.tensor_api.__wrapped__() is not None) == has_it
    finally:
        torch.set_default_dtype(before)
