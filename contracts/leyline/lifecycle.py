"""The seed lifecycle as one table: stages, transitions, who may order each, and the gates asked on the way.

Kasmina executes it, Tamiyo orders from it, `docs/lifecycle.md` is generated from it and the tests walk it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from types import MappingProxyType

from leyline.errors import LifecycleError


class Stage(IntEnum):
    """Where a seed is in its life. The numbers are stored and sent: they never change."""

    UNSPECIFIED = 0
    DORMANT = 1
    GERMINATED = 2
    LOADING = 3
    TRAINING = 4
    GRAFTING = 5
    STABILIZATION = 6
    EVALUATING = 7
    FINE_TUNING = 8
    FOSSILIZED = 9
    CULLED = 10
    CANCELLED = 11
    ERROR_RECOVERY = 12
    ROLLED_BACK = 13


class Actor(StrEnum):
    """Who can order a transition."""

    TAMIYO = "tamiyo"
    """The controller, by a signed command."""
    KASMINA = "kasmina"
    """The seed executor itself: promotions, failed gates and loads, resets."""
    TOLARIA = "tolaria"
    """The trainer's governor: rollbacks."""
    PERSON = "person"
    """Somebody who looks after the run, by a signed command: may give a seed up, never move one ahead."""


class Gate(StrEnum):
    """A check that must pass before the transitions that ask it."""

    G0 = "G0"
    G1 = "G1"
    G2 = "G2"
    G3 = "G3"
    G4 = "G4"
    G5 = "G5"

    @property
    def checks(self) -> str:
        """What the gate looks at."""
        return _CHECKS[self]


_CHECKS: Mapping[Gate, str] = MappingProxyType(
    {
        Gate.G0: "sanity: signatures, interface, budget, risk",
        Gate.G1: "gradient health",
        Gate.G2: "isolated learning: stable, and better than at its start",
        Gate.G3: "interface: shape, dtype, output scale while blending",
        Gate.G4: "system impact: the comparison with the twin",
        Gate.G5: "reset: the host is bit-identical to one that never had the seed",
    }
)


@dataclass(frozen=True)
class StageInfo:
    """What a stage means.

    `affects_host`: the seed changes what the host computes. `trains_seed`: the seed's parameters are updated.
    `terminal`: nothing follows.
    """

    enters_when: str
    summary: str
    affects_host: bool = False
    trains_seed: bool = False
    terminal: bool = False


@dataclass(frozen=True)
class Transition:
    """One permitted move.

    `ordered_by`: who may order it. `gates`: asked in this order before it; all must pass. `only_trainable` and
    `only_fixed_function` restrict it to kernels with, or without, parameters. `at_boundary`: happens between two
    epochs; otherwise at once, within the step.
    """

    source: Stage
    target: Stage
    ordered_by: frozenset[Actor]
    gates: tuple[Gate, ...] = ()
    only_trainable: bool = False
    only_fixed_function: bool = False
    at_boundary: bool = True

    @property
    def gate(self) -> Gate | None:
        """The last and deciding gate, or None when the move asks none."""
        return self.gates[-1] if self.gates else None

    def fits(self, trainable: bool) -> bool:
        """Whether a kernel that is (not) trainable may make this move."""
        return not (self.only_fixed_function if trainable else self.only_trainable)


STAGES: Mapping[Stage, StageInfo] = MappingProxyType(
    {
        Stage.DORMANT: StageInfo("at the start, or after a reset", "identity; cheap activation statistics only"),
        Stage.GERMINATED: StageInfo("Tamiyo asks, naming an artifact", "waits for its turn to load"),
        Stage.LOADING: StageInfo(
            "its turn has come", "fetches and verifies in the background; opened and warmed up at the next boundary"
        ),
        Stage.TRAINING: StageInfo(
            "a trainable kernel has loaded",
            "learns in isolation; the host's values and gradients are bit-identical to a run without it",
            trains_seed=True,
        ),
        Stage.GRAFTING: StageInfo(
            "isolation is over, or a fixed-function kernel has loaded",
            "alpha rises from 0 to 1 and blends the seed in; the twin starts here",
            affects_host=True,
            trains_seed=True,
        ),
        Stage.STABILIZATION: StageInfo(
            "alpha has reached 1", "the seed is frozen while the host settles around it", affects_host=True
        ),
        Stage.EVALUATING: StageInfo(
            "the host has settled", "one pre-set comparison with the twin, on controller data", affects_host=True
        ),
        Stage.FINE_TUNING: StageInfo(
            "the twin was beaten", "trains on the task loss with the host", affects_host=True, trains_seed=True
        ),
        Stage.FOSSILIZED: StageInfo(
            "the final verdict is in",
            "part of the host for good; trains with it until both are frozen",
            affects_host=True,
            trains_seed=True,
            terminal=True,
        ),
        Stage.CULLED: StageInfo(
            "a gate or the load failed, or Tamiyo gives it up",
            "deactivated; parameters and optimizer state are gone; the slot is embargoed for a while",
        ),
        Stage.CANCELLED: StageInfo(
            "Tamiyo withdraws it before it had any effect", "deactivated as when culled, without an embargo"
        ),
        Stage.ERROR_RECOVERY: StageInfo(
            "its kernel raised while running", "identity at once; the kernel is evicted for good and reported"
        ),
        Stage.ROLLED_BACK: StageInfo(
            "the governor or Tamiyo demands a rollback",
            "everything returns to the last good checkpoint; this seed is locked dormant",
            terminal=True,
        ),
    }
)

_TAMIYO = frozenset({Actor.TAMIYO})
_KASMINA = frozenset({Actor.KASMINA})
_CANCELS = frozenset({Actor.TAMIYO, Actor.PERSON})
_CULLS = frozenset({Actor.TAMIYO, Actor.KASMINA, Actor.PERSON})
_ROLLS_BACK = frozenset({Actor.TAMIYO, Actor.TOLARIA})

_RUNS_KERNEL = (Stage.TRAINING, Stage.GRAFTING, Stage.STABILIZATION, Stage.EVALUATING, Stage.FINE_TUNING)

TRANSITIONS: tuple[Transition, ...] = (
    Transition(Stage.DORMANT, Stage.GERMINATED, _TAMIYO, (Gate.G0,)),
    Transition(Stage.GERMINATED, Stage.LOADING, _KASMINA),
    Transition(Stage.LOADING, Stage.TRAINING, _KASMINA, (Gate.G0, Gate.G3), only_trainable=True),
    Transition(Stage.LOADING, Stage.GRAFTING, _KASMINA, (Gate.G0, Gate.G3), only_fixed_function=True),
    Transition(Stage.TRAINING, Stage.GRAFTING, _TAMIYO, (Gate.G1, Gate.G2), only_trainable=True),
    Transition(Stage.GRAFTING, Stage.STABILIZATION, _TAMIYO, (Gate.G3,)),
    Transition(Stage.STABILIZATION, Stage.EVALUATING, _TAMIYO),
    Transition(Stage.EVALUATING, Stage.FINE_TUNING, _TAMIYO, (Gate.G4,), only_trainable=True),
    Transition(Stage.EVALUATING, Stage.FOSSILIZED, _TAMIYO, (Gate.G4,), only_fixed_function=True),
    Transition(Stage.FINE_TUNING, Stage.FOSSILIZED, _TAMIYO, (Gate.G4,), only_trainable=True),
    *(Transition(stage, Stage.CANCELLED, _CANCELS) for stage in (Stage.GERMINATED, Stage.TRAINING)),
    *(Transition(stage, Stage.CULLED, _CULLS) for stage in (Stage.LOADING, *_RUNS_KERNEL)),
    *(Transition(stage, Stage.ERROR_RECOVERY, _KASMINA, at_boundary=False) for stage in _RUNS_KERNEL),
    Transition(Stage.ERROR_RECOVERY, Stage.CULLED, _KASMINA),
    *(
        Transition(stage, Stage.ROLLED_BACK, _ROLLS_BACK, at_boundary=False)
        for stage in (Stage.GERMINATED, Stage.LOADING, *_RUNS_KERNEL, Stage.ERROR_RECOVERY)
    ),
    *(Transition(stage, Stage.DORMANT, _KASMINA, (Gate.G5,)) for stage in (Stage.CULLED, Stage.CANCELLED)),
)

_MOVES: Mapping[tuple[Stage, Stage], Transition] = MappingProxyType({(t.source, t.target): t for t in TRANSITIONS})
_TARGETS: Mapping[Stage, frozenset[Stage]] = MappingProxyType(
    {stage: frozenset(t.target for t in TRANSITIONS if t.source is stage) for stage in Stage}
)


def allowed(source: Stage) -> frozenset[Stage]:
    """Return the stages that may follow `source`, whoever orders the move and whatever the kernel."""
    return _TARGETS[source]


def check(source: Stage, target: Stage, actor: Actor, trainable: bool = True) -> Transition:
    """Return the transition from `source` to `target`; its gates are still to be asked by the caller.

    Raises:
        LifecycleError: there is no such move, this actor may not order it, or it is not for this kind of kernel.
    """
    move = f"{source.name} to {target.name}"
    transition = _MOVES.get((source, target))
    if transition is None:
        names = ", ".join(stage.name for stage in sorted(allowed(source))) or "nothing; the stage is terminal"
        raise LifecycleError(move, "no such transition", names)
    if actor not in transition.ordered_by:
        raise LifecycleError(move, f"{actor.value} may not order it", ", ".join(sorted(transition.ordered_by)))
    if not transition.fits(trainable):
        kind = "trainable" if transition.only_trainable else "fixed-function"
        raise LifecycleError(move, f"the kernel is {'' if trainable else 'not '}trainable", f"{kind} kernels only")
    return transition
