"""What stands in p.grad for a gradient that was stepped in backward: descriptions work, every use raises."""

import subprocess
import sys


def test_every_operation_on_a_freed_gradient_works_or_raises():
    """In a process of its own, which must not end by a signal."""
    done = subprocess.run([sys.executable, "-c", WALK], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[-1]) == (0, "survived"), done.stderr[-500:]


WALK = """
import sys, torch, aida
net = torch.nn.Linear(3, 3)
optimizer = aida.Aida(net.parameters())
aida.release_gradients(optimizer, net)
net(torch.ones(2, 3)).sum().backward()
grad = net.weight.grad
for name in sorted(dir(torch.Tensor)):
    try:
        of_grad = getattr(grad, name)
    except Exception:
        continue
    if not callable(of_grad) or name == "__class__":
        continue
    for arguments in ((), (1,), (grad,), (torch.ones(3, 3),)):
        try:
            of_grad(*arguments)
        except Exception:
            pass
net.weight.grad = grad
def detached_inside_of_torch():
    with torch._C.DisableTorchFunctionSubclass():
        grad.detach()
for act in (net.share_memory, lambda: torch.save(grad, "/dev/null"), lambda: grad + 1, lambda: grad.tolist(),
            lambda: torch.nn.Parameter(grad, requires_grad=False), detached_inside_of_torch):
    try:
        act()
    except RuntimeError as error:
        assert "this gradient is gone" in str(error), error
    else:
        raise SystemExit("did not raise")
print("survived")
"""
