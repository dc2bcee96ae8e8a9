"""Dense matrix products of a call, and how long they take alone."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Product(NamedTuple):
    """Sizes of one product, (rows, inner) times (inner, columns), and its scalar type."""

    rows: int
    inner: int
    columns: int
    dtype: torch.dtype

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inner * self.columns


class ProductRecorder(TorchDispatchMode):
    """Record the dense products inside a block, and the largest tensor that any operation creates."""

    OPERANDS = {
        torch.ops.aten.mm.default: 0,
        torch.ops.aten.mm.out: 0,
        torch.ops.aten.addmm.default: 1,
        torch.ops.aten.addmm.out: 1,
        torch.ops.aten.addmm_.default: 1,
    }

    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []
        self.largest = 0
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in self.OPERANDS:
            a, b = args[self.OPERANDS[func] :][:2]
            if a.layout == b.layout == torch.strided:
                self.products.append(Product(a.shape[0], a.shape[1], b.shape[1], a.dtype))
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else (result,):
            if isinstance(made, Tensor) and made.layout == torch.strided:
                self.largest = max(self.largest, made.numel())
                self.shapes.add(tuple(made.shape))
        return result


def products_of(call: Callable[[], Any]) -> list[Product]:
    """Dense products of a call, in order."""
    with ProductRecorder() as recorder:
        call()
    return recorder.products


class ProductTimer:
    """Repeats the given products on random numbers, and nothing else."""

    def __init__(self, products: list[Product]) -> None:
        self.work = [
            (
                torch.randn(p.rows, p.inner, dtype=p.dtype),
                torch.randn(p.inner, p.columns, dtype=p.dtype),
                torch.empty(p.rows, p.columns, dtype=p.dtype),
            )
            for p in products
        ]

    def seconds(self, clock: Callable[[], float] = time.perf_counter) -> float:
        start = clock()
        for a, b, out in self.work:
            torch.mm(a, b, out=out)
        return clock() - start
