"""What release_gradients leaves in p.grad for a gradient that it has stepped and freed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

GONE = (
    "this gradient is gone: release_gradients stepped its layer in backward and freed it. "
    "Call optimizer.zero_grad() before each backward, and before the model is moved or cast; clipping by the "
    "global norm, unscaling and accumulation need all gradients at once: remove() the handle and call "
    "optimizer.step()"
)


class FreedGradient(Tensor):
    """What stands in p.grad for a gradient that is gone: without memory, and every use of it raises.

    zero_grad() takes it away. So clipping, unscaling or accumulation after the step cannot go unseen.
    """

    @staticmethod
    def __new__(cls: type[FreedGradient], grad: Tensor) -> FreedGradient:
        """grad: the gradient that is freed, which may have another type than its parameter."""
        of_grad: Any = dict(strides=grad.stride(), dtype=grad.dtype, device=grad.device)
        return Tensor._make_wrapper_subclass(cls, grad.size(), **of_grad, requires_grad=False)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"FreedGradient(shape={tuple(self.shape)})"

    def __deepcopy__(self, memo: Any) -> FreedGradient:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError(GONE)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _DESCRIPTIONS:
            return super().__torch_function__(function, types, args, kwargs or {})
        raise RuntimeError(GONE)

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(GONE)


def take_away(params: Iterable[Tensor]) -> None:
    """Leave no freed gradient in these parameters."""
    for p in params:
        if isinstance(p.grad, FreedGradient):
            p.grad = None


# What may be asked of a freed gradient: nothing that needs its memory. Not every torch has all of them.
_PROPERTIES = [
    "shape", "dtype", "device", "layout", "grad_fn", "requires_grad", "is_leaf", "is_sparse", "ndim",
    "grad", "is_cuda", "is_cpu", "is_meta", "is_xpu", "is_mps", "is_quantized", "is_nested",
    "is_sparse_csr", "is_mkldnn", "retains_grad", "output_nr", "itemsize", "nbytes",
]  # fmt: skip
_METHODS = [
    "size", "stride", "numel", "nelement", "dim", "ndimension", "storage_offset", "is_floating_point",
    "is_complex", "is_contiguous", "element_size", "is_neg", "is_conj", "is_inference", "get_device",
    "__hash__", "__len__",
]  # fmt: skip
_DESCRIPTIONS = {
    *(getattr(Tensor, name).__get__ for name in _PROPERTIES if hasattr(Tensor, name)),
    *(getattr(Tensor, name) for name in _METHODS if hasattr(Tensor, name)),
}
