"""What an accelerator alone can show: graphs, mixed precision, that nothing waits, what memory is freed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import aida
from aida.monitor import StepsizeMonitor, layer_stepsizes
from gpu.device import Device, parameters
from gpu.parts import Cases, LeftOut
from gpu.results import Call

HALF = torch.bfloat16
MEMBERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "Aida": (aida.Aida, dict(weight_decay=0.1)),
    "Aida, bfloat16 moments": (aida.Aida, dict(state_dtype=HALF)),
    "AdaBelief": (aida.AdaBelief, {}),
    "LAdam, pre": (aida.LAdam, {}),
    "LAida, post": (aida.LAida, dict(layerwise="post")),
}
STEPS = 4


def cases(device: Device, call: Call) -> Cases:
    found: Cases = {}
    for name, (member, options) in MEMBERS.items():
        if call.dry and name not in ("Aida", "LAdam, pre"):
            continue
        found[f"graph: {name}"] = partial(graph_steps_as_eager, member, options, device)
        for capturable in (False, True):
            way = "capturable" if capturable else "plain"
            found[f"no sync: {name}, {way}"] = partial(
                never_waits, partial(member, capturable=capturable, **options), device
            )
    return {
        "no sync: a wait is seen": partial(a_wait_is_seen, device),
        **found,
        "GradScaler": partial(grad_scaler, device),
        "the monitor's copy": partial(monitor, device),
        "gradient release: peak memory": partial(release, device, call),
    }


def shapes(device: Device) -> list[tuple[int, ...]]:
    return [(9, 5), (3,), ()] if device.dry else [(513, 257), (64, 64, 3, 3), (1000,), (1,), ()]


def draw(params: list[Tensor], t: int) -> None:
    """The gradients of step t, in the memory of those before: what a graph reads."""
    generator = torch.Generator().manual_seed(t)
    for p in params:
        new = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        assert p.grad is not None
        p.grad.copy_(new)


def begun(device: Device, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    params = [p.detach().to(dtype).requires_grad_() for p in parameters(shapes(device), device)]
    for p in params:
        p.grad = torch.zeros_like(p)
    return params


def graph_steps_as_eager(member: Any, options: dict[str, Any], device: Device) -> dict[str, Any]:
    """Replays, with other gradients and another lr, are the steps without a graph, bit for bit.

    And they are those of the eager backend in float64.
    """
    lr = torch.tensor(1e-2, device=device.type)
    plain, graphed, oracle = begun(device), begun(device), begun(device, torch.float64)
    by_step = member(plain, lr=lr.clone(), fused=True, capturable=True, **options)
    in_graph = member(graphed, lr=lr.clone(), fused=True, capturable=True, **options)
    exact = member(oracle, lr=1e-2, foreach=False, **{**options, "state_dtype": None})
    draw(graphed, 0)
    replay = device.graphed(in_graph)  # three steps of one gradient
    for t in (0, 0, 0, *range(1, STEPS)):
        draw(plain, t)
        draw(oracle, t)
        by_step.step()
        exact.step()
        if t:
            draw(graphed, t)
            replay()
        if t == 1:
            for optimizer in (by_step, in_graph):
                optimizer.param_groups[0]["lr"].mul_(0.5)
            exact.param_groups[0]["lr"] *= 0.5
    device.synchronize()
    for a, b in zip(plain, graphed, strict=True):
        assert torch.equal(a, b), "a replay is not the step"
    assert {int(state["step"]) for state in in_graph.state.values()} == {3 + STEPS - 1}
    furthest = max(
        ((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(graphed, oracle, strict=True)
    )
    limit = 1e-1 if "state_dtype" in options else 1e-4
    assert furthest <= limit, f"{furthest} from the float64 steps"
    return {"furthest_from_float64": furthest}


def never_waits(make: Callable[..., Any], device: Device) -> dict[str, Any]:
    """Neither the first step, which makes states, nor later ones, nor one whose gradients have moved."""
    make(begun(device), fused=True).step()  # compiles and loads the kernels, for which the driver may wait
    optimizer = make(begun(device), fused=True)
    params = optimizer.param_groups[0]["params"]
    moved = [torch.randn_like(p) for p in params]
    with device.kept_busy(), device.no_sync():
        optimizer.step()
        optimizer.step()
        for p, g in zip(params, moved, strict=True):
            p.grad = g
        optimizer.step()
    return {"steps": 3}


def a_wait_is_seen(device: Device) -> dict[str, Any]:
    """Negative control: reading a number from the device raises, by either way of looking."""
    if device.type != "cuda":
        raise LeftOut("only CUDA tells of waiting")
    x = torch.ones(3, device=device.type)
    for guard in (device.no_sync, device.kept_busy):
        try:
            with guard():
                x.sum().item()
        except (RuntimeError, AssertionError):
            continue
        raise AssertionError(f"{guard.__name__} has not seen that the host waited")
    return {}


def network(device: Device, layers: int, width: int) -> nn.Module:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(width, width), nn.Tanh()]
    return nn.Sequential(*parts).to(device.type)


def grad_scaler(device: Device) -> dict[str, Any]:
    """Autocast in half precision: an overflow halves the scale and steps nothing; nothing waits."""
    width = 8 if device.dry else 256
    model = network(device, 2, width)
    optimizer = aida.Aida(model.parameters(), fused=True)
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10, growth_interval=100)
    inputs = torch.randn(4, width, device=device.type)
    narrow = torch.bfloat16 if device.type == "cpu" else torch.float16
    before: list[Tensor] = []

    def iterate(factor: float) -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=narrow):
            loss = model(inputs).float().square().mean()
        scaler.scale(loss * factor).backward()
        scaler.step(optimizer)
        scaler.update()

    iterate(1.0)
    overflow = torch.tensor(torch.inf, device=device.type)
    with device.no_sync():
        before = [p.detach().clone() for p in model.parameters()]
        iterate(overflow)  # type: ignore[arg-type]
    assert scaler.get_scale() == 2.0**9
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    iterate(1.0)
    assert {int(state["step"]) for state in optimizer.state.values()} == {2}
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    return {}


def monitor(device: Device) -> dict[str, Any]:
    """A record at every step waits for nothing, and is what a measurement that does wait finds."""
    model = network(device, 2, 8 if device.dry else 512)
    optimizer = aida.Aida(model.parameters(), fused=True)

    def step(t: int) -> None:
        for p in model.parameters():
            p.grad = torch.full_like(p, 1e-3 * (t + 1)) * p.detach()
        optimizer.step()

    step(0)  # compiles
    with StepsizeMonitor(optimizer, model, every=1) as watching:
        step(1)
        with device.kept_busy(), device.no_sync():
            for t in range(2, 2 + STEPS):
                step(t)
        expected = layer_stepsizes(optimizer, model)
    rows = [row for row in watching.rows if row["kind"] == "stepsize"]
    last = [row for row in rows if row["step"] == rows[-1]["step"]]
    assert len(rows) == (1 + STEPS) * len(last), f"{len(rows)} rows"
    for found, wanted in zip(last, expected, strict=True):
        for key, value in wanted.items():
            if isinstance(value, float):
                assert abs(found[key] - value) <= 1e-6 * abs(value), (key, found[key], value)
    return {"rows": len(rows)}


def release(device: Device, call: Call) -> dict[str, Any]:
    """An iteration's peak falls by the gradients, but for those of a layer or two and what waits (1 MiB)."""
    layers, width = (6, 512) if call.dry else (24, 4096)
    peaks = {}
    for released in (False, True):
        model = network(device, layers, width)
        # The interpreter would take minutes for so many elements; what is freed does not depend on it.
        optimizer = aida.Aida(model.parameters(), **(dict(foreach=True) if call.dry else dict(fused=True)))
        inputs = torch.randn(2, width, device=device.type)
        handle = aida.release_gradients(optimizer, model) if released else None

        def iterate(
            model: Any = model,
            optimizer: Any = optimizer,
            inputs: Tensor = inputs,
            plain: bool = not released,
        ) -> None:
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            if plain:
                optimizer.step()

        iterate()
        optimizer.zero_grad()
        peaks[released] = device.peak_extra_bytes(iterate)
        if handle:
            handle.remove()
        del model, optimizer, iterate
    gradients = 4 * layers * (width * width + width)
    saved = peaks[False] - peaks[True]
    assert saved >= gradients - 3 * (gradients / layers + 2**20), f"{saved} of {gradients} bytes were saved"
    return {"gradient_bytes": gradients, "plain_peak_bytes": peaks[False], "released_peak_bytes": peaks[True]}
