"""What a step dispatches to the device: counts by kind, and calls for which the host would wait."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

COPIES = ("_to_copy", "copy_", "clone", "_foreach_copy_")
PRODUCTS = ("mm", "addmm", "bmm")
VIEWS = ("view", "_unsafe_view", "t", "detach", "expand", "as_strided", "alias", "transpose", "permute", "select")
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim")
"""Operators whose result the host needs, or whose output's shape depends on values."""


class Kinds(TorchDispatchMode):
    """Counts copies, matrix products and other kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in COPIES:
            self.counts["copies"] += 1
        elif name in PRODUCTS:
            self.counts["products"] += 1
        elif name not in VIEWS and not name.startswith(("empty", "new_empty")):
            self.counts["others"] += 1
        return func(*args, **(kwargs or {}))


class NoSync(TorchDispatchMode):
    """Raises where an accelerator's queue would be waited for. `allowed` exempts what reads metrics."""

    def __init__(self) -> None:
        super().__init__()
        self.is_allowed = False
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        name = func.overloadpacket.__name__
        if not self.is_allowed and (name in WAITS or _has_mask_index(name, args)):
            raise AssertionError(f"{func} makes the host wait for the device")
        if name == "_to_copy" and _is_blocking(args[0], kwargs or {}):
            raise AssertionError("a copy to the device without non_blocking makes the host wait for its queue")
        return func(*args, **(kwargs or {}))

    @contextmanager
    def allowed(self) -> Iterator[None]:
        before, self.is_allowed = self.is_allowed, True
        try:
            yield
        finally:
            self.is_allowed = before

    def exempt(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, allowed to wait."""

        def exempted(*args: Any, **kwargs: Any) -> Any:
            with self.allowed():
                return function(*args, **kwargs)

        return exempted


def _has_mask_index(name: str, args: Any) -> bool:
    """Indexing with booleans looks for the true ones first."""
    if name not in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return False
    return any(index is not None and index.dtype == torch.bool for index in args[1])


def _is_blocking(source: torch.Tensor, options: dict[str, Any]) -> bool:
    """Whether a copy from the CPU to another device waits; `meta` stands for an accelerator."""
    target = torch.device(options.get("device") or source.device)
    return source.device.type == "cpu" and target.type != "cpu" and not options.get("non_blocking")
