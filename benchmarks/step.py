"""How close is a pre-training step to the time of its dense products, and where does the rest of the time go?

    python -m benchmarks.step --threads 1 --clock cpu

The floor is the time of the dense matrix products of the step alone, with their sizes in the step, one after the other on
existing operands, with the same threads and in the same round. The method requires all of these products: those of the
decoder (its output layer, and the gradients of its weights and its input, for both views), of the gene and cell layers, of
the projection head, and of all pairs of rows in the instance loss. Products of the sparse graph are not included. The table
gives the median over rounds, each of which runs every mini-batch of an epoch, and the ratio with its range over the rounds.

Parts are those of ``PretrainPlan.training_step``, timed by wrapping the functions that it calls: ``batch`` selects and
transposes rows, which training does in a separate thread; ``encoder`` includes the features; ``likelihood`` is the decoder, the
loss and, because the loss computes them with its value, the gradients of the decoder's output layer; ``contrast`` is the
projection head with both contrastive losses; ``backward`` is all other gradients; ``optimiser`` is AdamW; ``rest`` is drawing
views and adding up losses. Lightning's loop is left out.
"""

import argparse
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import anndata as ad
import torch
from benchmarks._products import ProductTimer, products_of
from benchmarks._runs import CLOCKS, CONFIGURATIONS, Data, PackageRun, measure_features, simulate
from threadpoolctl import threadpool_limits

from scgpcl.benchmark._tables import markdown
from scgpcl.train import _plans

PARTS = ("batch", "encoder", "likelihood", "contrast", "backward", "optimiser", "rest")


class StepRun:
    """Steps of pre-training on all mini-batches of an epoch, timed by part."""

    def __init__(self, data: Data, configuration: str, clock: Callable[[], float] = time.process_time) -> None:
        self.clock = clock
        run = PackageRun(data, configuration, clock)
        run.pretrain()  # sets the prototypes, and is the warm-up
        self.plan, _, self.optimizer = run._pretrain
        loader = run.splitter.train_dataloader()
        self.blocks, self.index = loader.dataset, list(loader.sampler)
        self.batches = [self.blocks[index] for index in self.index]
        self.floor = ProductTimer(products_of(lambda: self._step(self.batches[0])))
        self.flops = sum(p.flops for p in products_of(lambda: self._step(self.batches[0])))

    def _step(self, batch: Any) -> None:
        self.optimizer.zero_grad()
        self.plan.training_step(batch, 0).backward()
        self.optimizer.step()

    def measure(self) -> tuple[dict[str, float], float]:
        """Seconds of each part and of the floor, each per step, of one round."""
        spent: dict[str, float] = defaultdict(float)
        module = self.plan.module
        floor = 0.0
        with (
            mock.patch.object(module, "inference", self._timed("encoder", module.inference, spent)),
            mock.patch.object(
                module, "reconstruction_loss", self._timed("likelihood", module.reconstruction_loss, spent)
            ),
            mock.patch.object(module.projection, "forward", self._timed("contrast", module.projection.forward, spent)),
            mock.patch.object(_plans, "instance_loss", self._timed("contrast", _plans.instance_loss, spent)),
            mock.patch.object(_plans, "prototype_loss", self._timed("contrast", _plans.prototype_loss, spent)),
        ):
            for index, batch in zip(self.index, self.batches, strict=True):
                with self._part("batch", spent):
                    self.blocks[index]
                self.optimizer.zero_grad()
                inside = sum(spent[part] for part in ("encoder", "likelihood", "contrast"))
                with self._part("rest", spent):
                    loss = self.plan.training_step(batch, 0)
                spent["rest"] -= sum(spent[part] for part in ("encoder", "likelihood", "contrast")) - inside
                with self._part("backward", spent):
                    loss.backward()
                with self._part("optimiser", spent):
                    self.optimizer.step()
                floor += self.floor.seconds(self.clock)
        return {part: spent[part] / len(self.batches) for part in PARTS}, floor / len(self.batches)

    @contextmanager
    def _part(self, name: str, spent: dict[str, float]) -> Iterator[None]:
        start = self.clock()
        yield
        spent[name] += self.clock() - start

    def _timed(self, name: str, function: Callable[..., Any], spent: dict[str, float]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._part(name, spent):
                return function(*args, **kwargs)

        return call


def row_of(name: str, configuration: str, run: StepRun, rounds: int) -> list[str]:
    """Row of the table for one data set and configuration."""
    found = [run.measure() for _ in range(rounds)]
    steps = [sum(parts.values()) for parts, _ in found]
    ratios = [step / floor for step, (_, floor) in zip(steps, found, strict=True)]
    floor = statistics.median(floor for _, floor in found)
    cells = [
        name,
        configuration,
        f"{1e3 * statistics.median(steps):.1f}",
        f"{1e3 * floor:.1f}",
        f"{run.flops / 1e9 / floor:.0f}",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
    ]
    for part in PARTS:
        cells.append(f"{statistics.median(p[part] / step for (p, _), step in zip(found, steps, strict=True)):.0%}")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="h5ad files with counts in X")
    parser.add_argument("--cells", type=int, default=2048, help="simulated cells; 0 leaves them out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=list(CLOCKS), default="cpu", help="cpu: CPU time of all threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sources = {f"simulated {args.cells}": lambda: simulate(args.cells)} if args.cells else {}
    sources |= {path.stem: lambda path=path: ad.read_h5ad(path).X for path in args.data}
    head = ["data", "configuration", "step ms", "floor ms", "GFLOP/s of the floor", "ratio (range)", *PARTS]
    rows = []
    with threadpool_limits(args.threads):
        for name, read in sources.items():
            data = measure_features(read())
            for configuration in CONFIGURATIONS:
                rows.append(row_of(name, configuration, StepRun(data, configuration, CLOCKS[args.clock]), args.rounds))
    print("\n".join(markdown(head, rows)))


if __name__ == "__main__":
    main()
