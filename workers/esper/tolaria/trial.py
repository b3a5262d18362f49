"""One seed on trial: from the moment it first touches the host until the judge has spoken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from esper.tolaria.judge import Verdict, compare, cool_down
from esper.tolaria.line import Line
from esper.tolaria.twin import LocalTwin, ProcessTwin, Twin

if TYPE_CHECKING:
    from esper.kasmina import KernelSource
    from leyline.resources import TrainingRun

TwinState = tuple[dict[str, Tensor], dict[str, Any]]


@dataclass
class Trial:
    """The seed on trial, its twin, and the verdicts so far (at most two)."""

    seed: str
    twin: Twin
    looks: int = 0


class TrialBench:
    """Starts, judges and ends trials; a run has one at a time.

    Args:
        line: the run's own line.
        run: the manifest; ``spec.judge`` says where the twin lives and how it is compared.
        source: where a twin in another process finds the kernels; None when the run has no task reference, in
            which case the twin lives in this process.
    """

    def __init__(self, line: Line, run: TrainingRun, source: KernelSource, in_process: bool) -> None:
        self.line, self.run, self.source = line, run, source
        self.in_process = in_process or run.spec.judge.twin == "InProcess"
        self.current: Trial | None = None

    def begin(self, seed: str) -> None:
        """Fork the twin of a seed that is about to touch the host."""
        if self.current is not None:
            raise RuntimeError(f"seed {seed} can't be tried while {self.current.seed} is on trial")
        fork = self.line.fork(without=seed)
        if self.in_process:
            self.current = Trial(seed, LocalTwin(seed, fork))
        else:
            self.current = Trial(seed, self._process(seed, fork.export_state()))

    def restore(self, seed: str, looks: int, state: tuple[Mapping[str, Tensor], Mapping[str, Any]]) -> None:
        """Bring a trial back from a checkpoint."""
        self.end()
        tensors, meta = state
        if self.in_process:
            fork = self.line.fork(without=seed)
            fork.import_state(tensors, meta, self.source)
            self.current = Trial(seed, LocalTwin(seed, fork), looks)
        else:
            self.current = Trial(seed, self._process(seed, (dict(tensors), meta)), looks)

    def _process(self, seed: str, state: tuple[dict[str, Tensor], Mapping[str, Any]]) -> ProcessTwin:
        place = self.line.ranks.invite("twin")
        return ProcessTwin(seed, self.run, state, self.source, self._artifacts(), place)

    def judge(self, epoch: int, steps: int) -> Verdict:
        """Cool both lines down on the side for ``steps`` steps, as often as the manifest says; compare them once."""
        assert self.current is not None
        judge = self.run.spec.judge
        host, twin = [], []
        for replicate in range(judge.replicates):
            host.append(cool_down(self.line, epoch, replicate, steps))
            twin.append(self.current.twin.cool_down(epoch, replicate, steps))
        self.current.looks += 1
        return compare(host, twin, p_value=judge.p_value, clip=judge.clip, minimum_effect=judge.minimum_effect)

    def take_twin_state(self) -> TwinState:
        """The twin's state, to be adopted because its seed was dropped; ends the trial."""
        assert self.current is not None
        state = self.current.twin.export_state()
        self.end()
        return state

    def end(self) -> None:
        """Drop the twin."""
        if self.current is not None:
            self.current.twin.close()
            self.current = None

    def _artifacts(self) -> dict[str, Path]:
        ids = {seed.artifact_id for seed in self.line.bank.seeds.values() if seed.artifact_id}
        return {artifact: self.source.path(artifact) for artifact in sorted(ids)}
