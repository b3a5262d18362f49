"""What seeds cost in memory: dormant ones, and one that is active in a Transformer.

Dormant: the bytes of the state arrays, and the growth of the resident set when a model gets ten thousand seeds, over
their number. Active: peak resident memory of a child process that trains a host with one seed being grafted, less that
of a child that trains the host alone, in per cent of what the host alone needs; beside it the same share as it follows
from the shapes (parameters, gradients and AdamW's two moments, without activations).
"""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tests.bench import common  # noqa: F401  (finds tests/support)
from tests.bench.analysis import Estimate, median
from tests.bench.report import BELOW, Report, Row, bounded
from torch import nn

from shelves import Shelf  # isort: skip

from esper.kasmina import Command, SeedSettings, SlotSpec, bank_of, wrap
from esper.tasks.transformer import Transformer
from leyline.lifecycle import Stage

GOAL = 5.0
"""Per cent of the host's memory for each seed."""
MANY = 10_000
WIDTH, DEPTH, CONTEXT, SYMBOLS, BATCH = 256, 8, 64, 64, 8
BLUEPRINTS = ("low_rank", "bottleneck", "mlp")
COPIES = 4
"""Values AdamW keeps for each parameter: itself, its gradient and two moments."""


def resident() -> int:
    """Bytes of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def dormant(_: str) -> dict[str, Any]:
    """Give a model ten thousand seeds and see what it takes."""
    model = nn.Sequential(*[nn.Identity() for _ in range(MANY // 10)])
    sample = torch.randn(2, 10)
    wrap(nn.Sequential(nn.Identity()), [SlotSpec("*", 10)], sample)  # what only the first time costs
    before = resident()
    wrap(model, [SlotSpec("*", 10)], sample)
    after = resident()
    state = bank_of(model).state
    return {
        "rows": state.rows,
        "state_bytes": sum(array.numel() * array.element_size() for array in state.arrays.values()),
        "resident_bytes": after - before,
    }


def host() -> Transformer:
    """The host of the active seeds."""
    torch.manual_seed(0)
    return Transformer(SYMBOLS, WIDTH, DEPTH, 8, 4, CONTEXT)


def grafted(model: nn.Module, slot: str, sample: torch.Tensor, blueprint: str) -> list[nn.Parameter]:
    """Give a model's slot a seed and bring it to GRAFTING; returns the seed's parameters. No blueprint, no seed."""
    bank = wrap(model, [slot], sample, settings=SeedSettings(steps_per_epoch=4))
    if not blueprint:
        return []
    shelf = Shelf({name: found.interface for name, found in bank.slots.items()}, [blueprint])
    bank.configure(source=shelf)
    (artifact,) = shelf.catalogue
    bank.order(Command.germinate(slot, artifact, blueprint=blueprint))
    (seed,) = bank.seeds.values()
    for epoch in range(1, 5):
        if seed.stage is not Stage.GRAFTING:
            bank.boundary(epoch)
            bank.order(Command.advance(seed.id))
    if seed.stage is not Stage.GRAFTING:
        raise RuntimeError(f"the seed is in {seed.stage.name}: {seed.reason}")
    return [p for named in bank.grafted_parameters().values() for _, p in named]


def active(blueprint: str) -> dict[str, Any]:
    """Train the host, with a seed being grafted unless ``blueprint`` is empty, and see how much memory it took."""
    torch.set_num_threads(1)
    tiny = nn.Sequential(nn.Linear(8, 8))
    grafted(tiny, "0", torch.randn(2, 8), BLUEPRINTS[0])  # what only the first seed of a process costs: code
    tiny(torch.randn(2, 8)).sum().backward()
    before = resident()
    tokens = torch.randint(SYMBOLS, (BATCH, CONTEXT))
    model = host()
    added = grafted(model, "blocks.0", tokens[:2], blueprint)
    bank = bank_of(model)
    optimizer = torch.optim.AdamW([*model.parameters(), *added], lr=1e-3)
    model.train()
    for step in range(4):
        bank.begin_step(step)
        optimizer.zero_grad(set_to_none=True)
        logits = model(tokens)
        nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "bytes": peak - before,
        "host_parameters": sum(p.numel() for p in model.parameters()),
        "seed_parameters": sum(p.numel() for p in added),
    }


def in_children(work: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """One child process for each name, one after the other: memory of one does not stay for the next."""
    context = multiprocessing.get_context("spawn")
    found = []
    for name in names:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            found.append(pool.submit(globals()[work], name).result())
    return found


def run(quick: bool = False) -> Report:
    """Measure."""
    rounds = 2 if quick else 5
    many = in_children("dormant", [""] * rounds)
    alone = in_children("active", [""] * rounds)
    whole = median([entry["bytes"] for entry in alone])
    parameters = alone[0]["host_parameters"]
    per_seed = median([entry["resident_bytes"] / entry["rows"] for entry in many])
    share = Estimate(*(100.0 * b / whole.value for b in (per_seed.value, per_seed.low, per_seed.high)), per_seed.n)
    size = f"Transformer with {parameters:,} parameters that trains in {whole.value / 1e6:.3g} MB"
    state = many[0]["state_bytes"] / many[0]["rows"]
    report = Report(
        [
            bounded(
                "memory of a dormant seed, of what training its host takes", f"<= {GOAL:g} %", share, "%", BELOW, GOAL,
                f"{size}; resident memory, {MANY:,} seeds at once",
            ),
            Row("state of a seed, whatever its stage", "", state, "bytes", many[0]["rows"], note="from the arrays"),
            Row(
                "resident memory of a dormant seed", "", per_seed.value, "bytes", per_seed.n, per_seed.low,
                per_seed.high, note="slot, interface and bookkeeping; no parameters",
            ),
        ],
        {"dormant": many, "alone": alone},
    )  # fmt: skip
    for blueprint in BLUEPRINTS:
        found = in_children("active", [blueprint] * rounds)
        extra = median([100.0 * (entry["bytes"] - whole.value) / whole.value for entry in found])
        shapes = 4 * COPIES * found[0]["seed_parameters"]
        report.rows.append(
            bounded(
                f"memory of an active seed ({blueprint}), of what training its host takes", f"<= {GOAL:g} %", extra,
                "%", BELOW, GOAL,
                f"{found[0]['seed_parameters']:,} parameters, {shapes / 1e6:.3g} MB with gradients and AdamW's moments "
                f"({100 * shapes / whole.value:.2g} %), the rest activations and copies; the twin is not counted: it "
                "takes the host's memory once more while the seed is on trial",
            )
        )  # fmt: skip
        report.details[blueprint] = found
        print(f"{blueprint}: done", flush=True)
    return report
