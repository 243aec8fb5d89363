"""A step in a forked child, in several threads at once, and after 2^24 steps."""

import io
import subprocess
import sys
import threading

import pytest
import torch
from torch.nn import Parameter

import aida
from helpers.backends import BACKENDS, every_backend
from helpers.members import MEMBERS, assert_bitwise, parameters, set_gradients, snapshot

HANGS = 100  # seconds, after which a process is taken to wait for ever

BEGIN = """
import multiprocessing, os, threading, torch, aida
torch.set_num_threads(2)
arguments = {arguments}
p = torch.nn.Parameter(torch.ones(500, 400))
optimizer = aida.{cls}([p], **arguments)
g = torch.ones(500, 400)
def step():
    p.grad = g
    optimizer.step()
    assert p[0, 0].isfinite()  # torch's larger operations would wait for its threads in a child
def child():
    if "fused" not in arguments:
        torch.set_num_threads(1)
    for _ in range(3):
        step()
step()
"""
FORKS = {
    "os.fork": """
pid = os.fork()
if not pid:
    child()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
step()
""",
    "multiprocessing": """
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join()
assert process.exitcode == 0
step()
""",
    "while another thread steps": """
ended = threading.Event()
def go_on():
    while not ended.is_set():
        step()
thread = threading.Thread(target=go_on)
thread.start()
codes = []
for _ in range(8):
    pid = os.fork()
    if not pid:
        child()
        os._exit(0)
    codes.append(os.waitpid(pid, 0)[1])
ended.set()
thread.join()
assert codes == [0] * 8, codes
step()
""",
}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.parametrize(("cls", "backend"), [("Aida", "cpu"), ("LAdam", "cpu"), ("Aida", "foreach")])
def test_a_forked_child_steps_and_ends(cls, backend):
    """For foreach not while another thread steps: torch's own operations may hold locks then."""
    BACKENDS[backend].load()
    ways = [program for how, program in FORKS.items() if backend == "cpu" or "thread" not in how]
    begin = BEGIN.format(arguments=BACKENDS[backend].arguments, cls=cls)
    program = begin + "".join(ways) + "print('went on')"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANGS)
    assert (run.returncode, run.stdout) == (0, "went on\n"), run.stderr


LOCKED_IN_CHILD = """
import os, threading, time
from aida.optimizers.process_lock import ProcessLock
lock, held, ended = ProcessLock(), threading.Event(), threading.Event()
def hold():
    with lock:
        held.set()
        ended.wait()
holder = threading.Thread(target=hold)
holder.start()
held.wait()
if not (pid := os.fork()):
    make = threading.RLock
    def slowly():
        time.sleep(0.3)
        return make()
    threading.RLock = slowly
    inside, most = [], []
    start = threading.Barrier(4)
    def enter():
        start.wait()
        with lock:
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.05)
            inside.pop()
    threads = [threading.Thread(target=enter, daemon=True) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join(30)
    os._exit(0 if most == [1] * 4 else 1)
ended.set()
assert os.waitpid(pid, 0)[1] == 0
with lock: pass
print("went on")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_threads_of_a_forked_child_share_one_new_lock():
    """Whoever makes it: a lock that is made when it is first asked for is made by several threads at once."""
    run = subprocess.run(
        [sys.executable, "-c", LOCKED_IN_CHILD], capture_output=True, text=True, timeout=HANGS
    )
    assert (run.returncode, run.stdout) == (0, "went on\n"), run.stderr


@every_backend
@pytest.mark.parametrize("cls", MEMBERS)
def test_two_threads_step_one_after_the_other(cls, backend):
    """Equal gradients at every step: so any serial order gives the same numbers."""
    backend.load()
    together, alone = parameters([(40, 30), (7,)]), parameters([(40, 30), (7,)])
    shared, single = cls(together, **backend.arguments), cls(alone, **backend.arguments)
    set_gradients(together, 0)
    set_gradients(alone, 0)
    start, errors = threading.Barrier(2), []

    def work():
        try:
            start.wait()
            for _ in range(20):
                shared.step()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for _ in range(40):
        single.step()
    assert_bitwise(snapshot(shared), snapshot(single))


def long_run(backend, step, options, steps=64, saved_at=32):
    """The moments of a bfloat16 state from this count on, with m between two of bfloat16's numbers."""
    value = 1 + 2.0**-9  # a quarter between 1 and the next number
    p = Parameter(torch.zeros(4096))
    made = dict(lr=0.0, betas=(0.0, 0.0), state_dtype="bfloat16", **backend.arguments, **options)
    optimizer = aida.AdamPlus([p], **made)
    p.grad = torch.full((4096,), value)
    optimizer.step()
    optimizer.state[p]["step"].fill_(step)
    seen = []
    for i in range(steps):
        if i == saved_at:
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            optimizer = aida.AdamPlus([p], **made)
            optimizer.load_state_dict(torch.load(file))
        optimizer.step()
        seen.append(optimizer.state[p]["exp_avg"].float())
    return torch.stack(seen), value, optimizer.state[p]


@every_backend
@pytest.mark.parametrize("options", [{}, {"capturable": True}])
def test_rounding_goes_on_past_the_last_whole_count_of_float32(backend, options):
    backend.load()
    seen, value, _ = long_run(backend, 2.0**24 - 10, options)
    assert len({row.numpy().tobytes() for row in seen}) == len(seen)
    spread = 2.0**-7 * (0.25 * 0.75 / seen.numel()) ** 0.5
    assert abs(seen.double().mean().item() - value) < 5 * spread
    of_each = seen.double().mean(0)  # an element that always rounds alike drifts
    assert of_each.min() < value < of_each.max()
    assert (of_each > 1).all()


def test_a_counter_has_torchs_type():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        torch.set_default_dtype(dtype)
        theirs, ours = parameters([(3,)]), parameters([(3,)])
        for params, cls in ((theirs, torch.optim.Adam), (ours, aida.Aida)):
            optimizer = cls(params)
            set_gradients(params, 0)
            optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())
            set_gradients(params, 1)
            optimizer.step()
            params.append(optimizer.state[params[0]]["step"])
        assert theirs[1].dtype == ours[1].dtype
        assert theirs[1] == ours[1] == 2
