"""One network on several ranks: what the banks of the ranks must have in common is made so, in one place.

Each rank sees its own part of every batch, so what a seed shows there (a fault, the scale of its branch, what it learns
in isolation, whether its kernel could be loaded) differs from rank to rank until it is brought together here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from esper.errors import ArtifactError
from esper.kasmina import stepping
from esper.kasmina.guard import KernelFault
from esper.kasmina.isolation import IsolatedLearner, Lesson
from esper.kasmina.loading import Loaded
from esper.kasmina.records import number
from esper.kasmina.seed import Scale, Seed
from esper.kasmina.transitions import write_row
from leyline.lifecycle import Stage

if TYPE_CHECKING:
    from esper.kasmina.bank import SeedBank
    from esper.kasmina.statistics import Accumulator


def agree_on_faults(bank: SeedBank) -> None:
    """Let a seed that failed on one rank have failed on all, as often and for the same reason."""
    mine, bank.faulted = bank.faulted, []
    own = Counter(fault.seed for fault in mine)
    everyone = bank.peers.gather([[fault.seed, fault.reason, fault.blame_kernel] for fault in mine])
    most: dict[str, list[tuple[str, bool]]] = {}
    for rank, faults in enumerate(everyone):
        for name in {seed for seed, _, _ in faults}:
            found = [(f"on rank {rank}: {reason}", blame) for seed, reason, blame in faults if seed == name]
            if len(found) > len(most.get(name, [])):
                most[name] = found
    for name in sorted(most):
        seed = bank.seeds[name]
        for reason, blame in most[name][own[name] :]:
            stepping.fault(bank, seed, KernelFault(reason), blame_kernel=blame)
    bank.faulted = []
    unite_scales(bank, [bank.seeds[name] for name in sorted(most)])


def unite_scales(bank: SeedBank, seeds: Iterable[Seed]) -> None:
    """Make the scale of seeds' branches the mean of what the ranks measured."""
    seeds = list(seeds)
    if not seeds:
        return
    mine = {seed.id: [seed.scale.measured, number(seed.scale.branch), number(seed.scale.host)] for seed in seeds}
    everyone = bank.peers.gather(mine)
    for seed in seeds:
        found = [each[seed.id] for each in everyone]
        seed.scale = Scale(
            max(measured for measured, _, _ in found),
            sum(float(branch) for _, branch, _ in found) / len(found),
            sum(float(host) for _, _, host in found) / len(found),
        )
        write_row(bank, seed)


def learn(bank: SeedBank, seeds: Iterable[Seed], forward_loss: Callable[[], Tensor]) -> int:
    """Let the seeds in isolation take a step on the mean of all ranks' gradients, in one collective; returns how many
    did. A seed that fails on one rank takes no step on any.
    """
    learning: list[tuple[Seed, IsolatedLearner, Lesson | None]] = []
    for seed in seeds:
        if seed.learner is not None and seed.stage is Stage.TRAINING:
            learner = seed.learner
            learning.append((seed, learner, stepping.lesson_of(bank, seed, forward_loss)))
    if not learning:
        return 0
    values: list[Tensor | None] = []
    like: list[Tensor] = []
    note = [float(len(bank.faulted))]
    for _, learner, lesson in learning:
        given = lesson.gradients if lesson is not None and lesson.gradients else (None,) * len(learner.parameters)
        values += given
        like += learner.parameters
        note += [float(lesson is not None), lesson.loss if lesson is not None else 0.0, learner.trace.scale]
    means, notes = bank.peers.reduce(values, like, note)
    if any(faults for faults, *_ in notes):
        agree_on_faults(bank)
    learned = 0
    for place, (seed, learner, _) in enumerate(learning):
        mine = means[: len(learner.parameters)]
        means = means[len(learner.parameters) :]
        told = [each[1 + 3 * place : 4 + 3 * place] for each in notes]
        if seed.learner is not learner or not all(had for had, _, _ in told):
            continue
        learner.trace.scale = sum(scale for _, _, scale in told) / len(told)
        learner.take(Lesson(sum(loss for _, loss, _ in told) / len(told), tuple(mine)))
        learned += 1
    return learned


def agree_on_loads(bank: SeedBank, found: Mapping[str, Loaded | None]) -> dict[str, Loaded | None]:
    """What became of the kernels being loaded, the same on every rank.

    A kernel that could not be loaded on one rank was loaded on none; one that is still on its way to a rank is on its
    way to all. What its warm-up measured is the first rank's.
    """
    everyone = bank.peers.gather({name: _outcome(loaded) for name, loaded in found.items()})
    agreed: dict[str, Loaded | None] = {}
    for name, loaded in found.items():
        answers = [each[name] for each in everyone]
        failed = [(rank, answer) for rank, answer in enumerate(answers) if answer["failed"] is not None]
        if failed:
            own = loaded.error if loaded is not None else None
            agreed[name] = Loaded(None, own or _failure(*failed[0]))
        elif loaded is None or loaded.entry is None or not all(answer["there"] for answer in answers):
            agreed[name] = None
        else:
            norm, latency = float(answers[0]["norm"]), float(answers[0]["latency"])
            agreed[name] = Loaded(replace(loaded.entry, gradient_norm=norm, latency_us=latency))
    return agreed


def _outcome(loaded: Loaded | None) -> dict[str, Any]:
    error = loaded.error if loaded is not None else None
    entry = loaded.entry if loaded is not None else None
    kind = "artifact" if isinstance(error, ArtifactError) else "kernel" if isinstance(error, KernelFault) else "other"
    return {
        "there": entry is not None,
        "failed": None if error is None else [kind, f"{type(error).__name__}: {error}"],
        "norm": number(entry.gradient_norm) if entry is not None else 0.0,
        "latency": number(entry.latency_us) if entry is not None else 0.0,
    }


def _failure(rank: int, answer: Mapping[str, Any]) -> Exception:
    kind, text = answer["failed"]
    words = f"on rank {rank}: {text}"
    return ArtifactError(words) if kind == "artifact" else KernelFault(words) if kind == "kernel" else OSError(words)


def unite_sums(bank: SeedBank, accumulators: Iterable[Accumulator]) -> None:
    """Give every rank the sums over the activations that all ranks have seen, added in the order of ranks."""
    for accumulator in accumulators:
        parts = bank.peers.gather_tensor(accumulator.to_tensor())
        accumulator.take(torch.stack(parts))
