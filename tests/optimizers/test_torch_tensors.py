"""Every kind of tensor torch.optim steps: complex, empty, strided, half precision, late, differentiable."""

import copy

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.nn import Parameter
from torch.profiler import ProfilerActivity, profile

import aida
from helpers.members import MEMBERS, assert_bitwise, assert_near, parameters, set_gradients, snapshot, train
from helpers.optimizer_infos import INPUTS

every_member = pytest.mark.parametrize("cls", MEMBERS)
every_input = pytest.mark.parametrize(("cls", "entry"), INPUTS, ids=[entry.desc for _, entry in INPUTS])
both_ways = pytest.mark.parametrize("foreach", [False, True], ids=["eager", "foreach"])


@every_input
@both_ways
def test_complex_is_the_view_as_real(cls, entry, foreach):
    z = [torch.view_as_complex(p.detach()) for p in parameters([(4, 3, 2), (2,)])]
    z = [Parameter(x.clone()) for x in z]
    x = [Parameter(torch.view_as_real(c.detach().clone())) for c in z]
    optimizers = [cls(ps, foreach=foreach, **entry.kwargs) for ps in (z, x)]
    for t in range(3):
        set_gradients(z, t)
        for c, r in zip(z, x, strict=True):
            r.grad = torch.view_as_real(c.grad.clone())
        for o in optimizers:
            o.step()
        if t == 1:  # loading may not change what a complex parameter's moments are
            optimizers[0].load_state_dict(optimizers[0].state_dict())
    real = [torch.view_as_real(s) if s.is_complex() else s for s in snapshot(optimizers[0])]
    assert_bitwise(real, snapshot(optimizers[1]))


@every_input
@both_ways
def test_empty_parameters_change_nothing(cls, entry, foreach):
    without, among = parameters([(4, 3), ()]), parameters([(4, 3), ()])
    flat = torch.empty_strided((0, 3), (0, 0))  # as NumPy makes it, with the strides of what overlaps itself
    empty = [*map(Parameter, (torch.empty(0), torch.empty(3, 0, 2), flat))]
    optimizers = [cls(ps, foreach=foreach, **entry.kwargs) for ps in (without, [*among, *empty])]
    for t in range(3):
        for o in optimizers:
            train(o, [t])
    assert_bitwise(snapshot(optimizers[1])[:8], snapshot(optimizers[0]))
    assert all(torch.isfinite(x).all() for x in snapshot(optimizers[1])[8:])


LAYOUTS = {
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 3).contiguous().transpose(0, 3),
    "with gaps": lambda x: torch.stack([x, x], dim=-1)[..., 0],
    "expanded view's copy": lambda x: x.flip(0).contiguous().flip(0),
}


@every_member
@both_ways
@pytest.mark.parametrize("of", ["parameter", "gradient", "both"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_do_not_matter(cls, foreach, of, layout):
    (plain,) = parameters([(4, 3, 3, 2)], dtype=torch.float64)
    lay = LAYOUTS[layout]
    strided = Parameter(plain.detach().clone() if of == "gradient" else lay(plain.detach()))
    optimizers = [cls([p], foreach=foreach, weight_decay=0.1) for p in (plain, strided)]
    for t in range(3):
        set_gradients([plain], t)
        strided.grad = plain.grad.clone() if of == "parameter" else lay(plain.grad)
        strides = strided.stride(), strided.grad.stride()
        for o in optimizers:
            o.step()
        assert (strided.stride(), strided.grad.stride()) == strides
    assert_near(snapshot(optimizers[1]), snapshot(optimizers[0]), 1e-14)


@every_member
@both_ways
def test_moments_have_the_memory_format_of_their_parameter(cls, foreach):
    p = Parameter(torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last))
    optimizer = cls([p], foreach=foreach)
    train(optimizer, range(2))
    optimizer.load_state_dict(optimizer.state_dict())
    train(optimizer, [2])
    for moment in (m for m in optimizer.state[p].values() if m.ndim):
        assert moment.stride() == p.stride()


@every_input
@both_ways
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_moments_of_half_precision_are_float32_and_stay_so(cls, entry, foreach, dtype):
    optimizer = cls(parameters(dtype=dtype), foreach=foreach, **entry.kwargs)
    train(optimizer, range(2))
    before = snapshot(optimizer)
    other = cls(parameters(dtype=dtype), foreach=foreach, **entry.kwargs)
    other.load_state_dict(optimizer.state_dict())
    for state in (s for o in (optimizer, other) for s in o.state.values()):
        assert {x.dtype for x in state.values()} == {torch.float32}
    v = optimizer.state[optimizer.param_groups[0]["params"][0]]["exp_avg_var"]
    assert not torch.equal(v, v.to(dtype).float())  # a moment cast and cast back would be seen
    assert_bitwise([x for p in other.state.values() for x in p.values()],
                   [x for p in optimizer.state.values() for x in p.values()])  # fmt: skip
    assert_bitwise(snapshot(optimizer), before)


@every_member
@both_ways
def test_each_parameter_has_its_own_step(cls, foreach):
    """A parameter that joins later steps as in an optimizer of its own; frozen and unused ones do not."""
    first, late, unused, frozen = parameters([(3,), (4,), (2,), (2,)])
    frozen.requires_grad_(False)
    rest = [unused.detach().clone(), frozen.detach().clone()]
    together, alone = cls([first, late, unused, frozen], foreach=foreach), parameters([(3,), (4,)])[1]
    apart = cls([alone], foreach=foreach)
    for t in range(6):
        set_gradients([first], t)
        if t >= 3:
            set_gradients([late], t)
            alone.grad = late.grad.clone()
            apart.step()
        together.step()
    assert set(together.state) == {first, late}
    assert (together.state[first]["step"], together.state[late]["step"]) == (6, 3)
    moments = [together.state[late][k] for k in ("exp_avg", "exp_avg_var", "step")]
    assert_bitwise([late.detach(), *moments], snapshot(apart))
    assert_bitwise([unused.detach(), frozen.detach()], rest)


@every_input
@both_ways
def test_gradients_are_left_alone(cls, entry, foreach):
    optimizer = cls(params := parameters(), foreach=foreach, **entry.kwargs)
    for t in range(2):
        set_gradients(params, t)
        grads = [p.grad for p in params]
        before = [g.clone() for g in grads]
        optimizer.step()
        assert all(p.grad is g for p, g in zip(params, grads, strict=True))
        assert_bitwise(grads, before)


@every_member
@both_ways
def test_capturable_gives_the_same_numbers(cls, foreach):
    params = [parameters(dtype=torch.float64) for _ in range(2)]
    plain, capturable = (
        cls(ps, capturable=c, foreach=foreach) for ps, c in zip(params, (False, True), strict=True)
    )
    for o in (plain, capturable):
        train(o, range(4))
    assert_near(snapshot(capturable), snapshot(plain), 1e-13)


@every_input
def test_two_steps_are_differentiable(cls, entry):
    """Derivatives by the parameter, both gradients and lr, against finite differences."""

    def two_steps(p, g1, g2, lr):
        q = p.clone()
        optimizer = cls([q], **{"eps": 1e-2, **entry.kwargs, "lr": lr, "differentiable": True})
        for g in (g1, g2):
            q.grad = g
            optimizer.step()
        return q, *(optimizer.state[q][k] for k in ("exp_avg", "exp_avg_var"))

    generator = torch.Generator().manual_seed(1)
    given = [torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    lr = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(two_steps, (*given, lr), fast_mode=True)


@every_input
@pytest.mark.parametrize("problem", ["parabola", "rosenbrock"])
def test_it_goes_down(cls, entry, problem):
    p = Parameter(torch.tensor([1.5, -1.0]))
    up = -1.0 if entry.kwargs.get("maximize") else 1.0
    optimizer = cls([p], **{**entry.kwargs, "lr": 0.05, "weight_decay": 0.0})

    def loss():
        x, y = p
        if problem == "parabola":
            return x**2 + 10 * y**2
        return 1e-3 * (1 - x) ** 2 + 0.1 * (y - x**2) ** 2  # rectified members start as plain momentum

    start = loss().item()
    for _ in range(60):
        optimizer.zero_grad()
        (up * loss()).backward()
        optimizer.step()
    assert loss().item() < 0.5 * start


def peak(optimizer):
    """The most bytes that a step holds beside what was there before it, and what it leaves behind."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        optimizer.step()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    level = torch.tensor([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]).cumsum(0)
    return level.max().item(), level[-1].item()


@pytest.mark.parametrize("cls", [aida.AdaBelief, aida.LAdam, aida.Aida])
@both_ways
def test_a_step_needs_little_memory(cls, foreach):
    """Eager: a few copies of one layer, however many there are. foreach: at most three of the model."""
    layer, least = 4 * 40_000, []
    for count in (4, 8):
        optimizer = cls(parameters([(40_000,)] * count), foreach=foreach)
        train(optimizer, range(2))
        most, left = peak(optimizer)
        assert left == 0
        assert most <= (3 * count * layer if foreach else 12 * layer)
        least.append(most)
    assert foreach or least[1] - least[0] < layer


class Scaled(torch.Tensor):
    """Whole numbers times a scale, as quantised weights are kept: no memory of its own, no lists of it."""

    @staticmethod
    def __new__(cls, numbers, scale):
        return torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=torch.float32)

    def __init__(self, numbers, scale):
        self.numbers, self.scale = numbers, scale

    def whole(self):
        return self.numbers.float() * self.scale

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ("detach", "alias"):
            return cls(args[0].numbers, args[0].scale)
        if name == "copy_" and isinstance(args[0], cls):
            args[0].numbers.copy_((args[1] / args[0].scale).round())
            return args[0]
        if name.startswith("_foreach"):
            raise NotImplementedError(name)
        args, kwargs = torch.utils._pytree.tree_map_only(cls, cls.whole, (args, kwargs or {}))
        return function(*args, **kwargs)


@every_member
@pytest.mark.parametrize("fused", [None, False])
def test_a_tensor_subclass_is_stepped_by_default(cls, fused):
    """As its plain twin is, to half a unit of its scale a step; foreach has no operations for it."""
    numbers = torch.arange(-6, 6, dtype=torch.int32).view(4, 3)
    p, q = torch.nn.Parameter(Scaled(numbers.clone(), 2**-6)), torch.nn.Parameter(numbers.float() * 2**-6)
    ours, plain = cls([p], lr=0.1, fused=fused), cls([q], lr=0.1, foreach=False)
    for _ in range(3):
        p.grad, q.grad = torch.ones(4, 3), torch.ones(4, 3)
        ours.step()
        plain.step()
    assert (p.detach().whole() - q.detach()).abs().max() <= 3 * 2**-7
    assert (q.detach() - numbers * 2**-6).abs().min() > 0.1  # six times the limit
    with pytest.raises(NotImplementedError, match="_foreach"):
        cls([p], foreach=True).step()


@pytest.mark.parametrize(
    ("cls", "own", "refused"),
    [
        (aida.AdaBelief, {}, False), (aida.LAdam, {}, True), (aida.LAdaBelief, dict(layerwise="post"), True),
        (aida.Aida, {}, True), (aida.Aida, dict(K=0), False), (aida.LAida, {}, True),
    ],
)  # fmt: skip
def test_a_piece_of_a_layer_is_refused_by_what_needs_whole_layers(cls, own, refused, monkeypatch):
    monkeypatch.setattr("aida.sharding.active", lambda: True)  # pieces are looked for among ranks alone
    (p,) = parameters([(5,)])
    p._fsdp_flattened = True  # as FullyShardedDataParallel marks the piece that a rank has
    before = p.detach().clone()
    optimizer = cls([p], **own)
    set_gradients([p], 0)
    if refused:
        with pytest.raises(RuntimeError, match="one rank's piece of a layer"):
            optimizer.step()
        assert torch.equal(p.detach(), before)
        assert not optimizer.state
    else:
        optimizer.step()
        assert not torch.equal(p.detach(), before)


class OfTwo:
    """What is asked of a process group where nothing is sent."""

    def size(self):
        return 2


def test_a_copy_whose_reduce_groups_knows_other_parameters_is_refused():
    """As aida.fsdp_groups does, which knows the parameters of one model."""
    (p,) = parameters([(4, 3)])
    groups = {p: [OfTwo()]}
    optimizer = aida.Aida([p], reduce_groups=lambda p: groups.get(p, ()))
    with pytest.raises(ValueError, match="a copy of this Aida has parameters of its own, of which"):
        copy.deepcopy(optimizer)
    optimizer = aida.Aida([p], reduce_groups=lambda p: [OfTwo()] if p.dim() else ())
    assert copy.deepcopy(optimizer).reduce_groups is optimizer.reduce_groups


@pytest.mark.parametrize("foreach", [False, True, None])
@pytest.mark.parametrize("what", ["parameter", "exp_avg", "exp_avg_var"])
def test_a_view_that_is_conjugated_when_it_is_read_is_refused(what, foreach):
    """It has no memory of its numbers, so that a step would write to a copy; a gradient may be one."""
    p = Parameter(torch.ones(3, dtype=torch.cfloat))
    optimizer = aida.Aida([p], lr=0.1, foreach=foreach)
    p.grad = torch.full_like(p, 1 + 2j).conj()
    optimizer.step()
    plain = Parameter(torch.ones(3, dtype=torch.cfloat))
    plain.grad = torch.full_like(plain, 1 - 2j)
    aida.Aida([plain], lr=0.1, foreach=foreach).step()
    assert torch.equal(p, plain)
    if what == "parameter":
        p.data = p.data.conj()
    else:
        optimizer.state[p][what] = optimizer.state[p][what].conj()
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match=r"conjugated view.*nothing was stepped; .*resolve_conj\(\)"):
        optimizer.step()
    assert_bitwise(snapshot(optimizer), before)


@pytest.mark.parametrize("own", [{}, {"state_dtype": "int8"}, {"capturable": True, "layers": "module"}])
@every_member
def test_checkpoint_tools_make_the_state_of_a_model_on_meta(cls, own):
    """In the form of the state of one that was trained, as with torch's Adam: a load is planned by it."""
    trained, model = (torch.nn.Linear(3, 2, device=device) for device in ("cpu", "meta"))
    source = cls(trained.named_parameters(), **own)
    train(source, range(2))
    optimizer = cls(model.named_parameters(), lr=0.5, **own)
    planned = get_optimizer_state_dict(model, optimizer)["state"]
    saved = get_optimizer_state_dict(trained, source)
    for name, of_p in saved["state"].items():
        assert {k: (x.shape, x.dtype) for k, x in of_p.items()} == {
            k: (x.shape, x.dtype) for k, x in planned[name].items()
        }
        assert planned[name]["exp_avg"].is_meta
    assert optimizer.param_groups[0]["lr"] == 0.5
