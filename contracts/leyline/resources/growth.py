"""How the network may grow: seeds, the judge, the controller, and the kernels it chooses from."""

from __future__ import annotations

from typing import Annotated

from leyline.resources.base import ATOMIC, MAX_INT, SET, Choice, Distinct, Int, Model, Name, field
from leyline.resources.enums import (
    AlphaSchedule,
    Blend,
    Freeze,
    JudgeMode,
    Objective,
    Placement,
    PolicyName,
    Prepare,
    Strategy,
    TwinPlacement,
)


class SeedsSpec(Model):
    """How many seeds there may be and how one lives."""

    max_active: Int = field(
        "Seeds between germination and verdict at the same time.",
        1,
        unit="seeds",
        why="one twin a run: seeds that overlap can only be judged as a group",
        ge=1,
        le=1024,
    )
    max_per_slot: Int = field(
        "Fossilized and active seeds one slot may hold.",
        1,
        unit="seeds",
        why="the next free slot comes first; a second seed in one slot is for those who ask",
        ge=1,
        le=64,
    )
    max_total: Int | None = field(
        "Seeds ever fossilized or active in the run; when absent, as many as slots and budget allow.",
        None,
        unit="seeds",
        why="the budget is the better bound",
        ge=1,
        le=100_000,
    )
    objective: Annotated[Objective, Choice] = field(
        "What a seed learns in isolation: nothing (zero-initialised kernels need none), to reconstruct the slot's "
        "activations so that the fully blended output equals them, the task in a shadow pass, or the task directly.",
        Objective.NONE,
        why="measured on MNIST-1D: none beat a zero-initialised residual branch that trains with everything",
    )
    isolation_epochs: Int = field(
        "Epochs a seed with an objective learns before it may be grafted.",
        1,
        unit="epochs",
        why="short on purpose: measured on MNIST-1D, up to 50 steps cost nothing",
        ge=0,
        le=10_000,
    )
    blend: Annotated[Blend, Choice] = field(
        "How a branch s joins activations u at ramp position α: Residual u+α·s(u), or Convex (1−α)·u+α·s(u).",
        Blend.RESIDUAL,
        why="with a zero-initialised branch nothing jumps at any α",
    )
    alpha_schedule: Annotated[AlphaSchedule, Choice] = field(
        "Shape of the ramp of α from 0 to 1.", AlphaSchedule.LINEAR, why="the simplest ramp"
    )
    grafting_epochs: Int = field(
        "Length of the α ramp.",
        1,
        unit="epochs",
        why="does what re-warming the learning rate did (0.9 points); the twin is paid for meanwhile",
        ge=1,
        le=10_000,
    )
    stabilization_epochs: Int = field(
        "Epochs in which the seed stands still while the host settles.",
        0,
        unit="epochs",
        why="the judge's cool-down settles both sides; standing still costs the seed steps and the budget a twin",
        ge=0,
        le=10_000,
    )
    fine_tuning_epochs: Int = field(
        "Epochs a seed trains with the host after its verdict, before it is fossilized.",
        1,
        unit="epochs",
        why="long enough for judge.mode Twice to look again",
        ge=0,
        le=10_000,
    )
    learning_rate_scale: float = field(
        "Learning rate of a seed's parameters, as a multiple of the host's.",
        1.0,
        unit="ratio",
        why="3 cost up to 4 points where the host's own rate was well tuned",
        gt=0,
        le=100,
    )
    freeze: Annotated[Freeze, Choice] = field(
        "When a fossilized seed stops training: with the run, or at once.",
        Freeze.AT_END,
        why="measured on MNIST-1D: freezing 1,000 to 200 steps after germination cost 0.5 to 3.5 points",
    )
    output_scale_limit: float = field(
        "Gate G3 fails when a branch's output RMS exceeds this multiple of the slot's.",
        4.0,
        unit="ratio of RMS",
        why="measured on MNIST-1D: a branch that nothing bounds reached 25",
        gt=0,
        le=1e6,
    )


class JudgeSpec(Model):
    """Gate G4: the comparison of a run with its twin that never had the seed."""

    mode: Annotated[JudgeMode, Choice] = field(
        'Compare once after stabilization, again after fine-tuning, or never. Quote "Off": bare, YAML reads false.',
        JudgeMode.ONCE,
        why="one pre-set look keeps the stated error rate",
    )
    p_value: float = field(
        "Promote only when a useless seed would do as well with less than this probability (one-sided).",
        0.005,
        unit="probability",
        why="one useless seed in 200 if chance were all; docs/promises.md has the measured error rate",
        gt=0,
        lt=0.5,
    )
    clip: float = field(
        "Clip each example's paired loss difference to ± this before averaging.",
        1.0,
        unit="nats of loss",
        why="a few extreme examples must not decide",
        gt=0,
        le=1e6,
    )
    cooldown_steps: Int = field(
        "Most steps of learning-rate decay to zero given to both sides before they are compared; a run takes 2 % of "
        "the steps that its host alone would make, but at least 50.",
        200,
        unit="steps",
        why="measured on a character Transformer: without it 2 of 12 useful blocks were found, with 200 steps "
        "12 of 12; more than 2 % costs a short run too much",
        ge=0,
        le=MAX_INT,
    )
    replicates: Int = field(
        "Cool-downs with other data orders, averaged.",
        1,
        unit="replicates",
        why="each costs a full cool-down; ask for more when effects are small",
        ge=1,
        le=64,
    )
    minimum_effect: float = field(
        "Promote only when the improvement is more than this, by the test of pValue.",
        0.01,
        unit="loss, nats for cross entropy",
        why="measured on MNIST-1D: two runs that differ in data order alone end 0.014 apart (standard deviation) "
        "after a cool-down of 50 steps; choose less for a loss on a smaller scale",
        ge=0,
        le=1e6,
    )
    twin: Annotated[TwinPlacement, Choice] = field(
        "Where the twin trains; results are bit-identical.",
        TwinPlacement.IN_PROCESS,
        why="needs no second process; Process is faster when cores are idle",
    )


class FixedSeed(Model):
    """One germination by policy Fixed."""

    epoch: Int = field("At the end of this epoch, counted from 1.", unit="epochs", ge=1, le=1_000_000)
    slot: str = field("Slot id, such as blocks.0 or blocks.0#1.", min_length=1, max_length=256)
    blueprint: Name = field("Blueprint to grow there.")


class ControllerSpec(Model):
    """Who decides when and where to grow."""

    policy: Annotated[PolicyName, Choice] = field(
        "Heuristic grows when it should pay; Never, Always, Random and Fixed are for controls and replays.",
        PolicyName.HEURISTIC,
        why="the only one that looks at the run",
    )
    warmup_epochs: Int = field(
        "Epochs before the first germination.",
        2,
        unit="epochs",
        why="growing after 3 % of a run beat every later moment; two epochs get the host off the ground",
        ge=0,
        le=1_000_000,
    )
    patience_epochs: Int = field(
        "Epochs between one germination and the next, and after a probe that spoke against growing.",
        3,
        unit="epochs",
        why="the loss must settle before the next seed is weighed",
        ge=1,
        le=1_000_000,
    )
    minimum_improvement: float = field(
        "Begin a trial only where it should lower the loss at the end of the run by at least this much more than it "
        "costs.",
        0.005,
        unit="fraction of the loss",
        why="smaller advantages are lost in what the forecast does not know",
        ge=0,
        lt=1,
    )
    embargo_epochs: Int = field(
        "Epochs a slot is left alone after a seed was culled there.",
        5,
        unit="epochs",
        why="the same seed would fail for the same reason",
        ge=0,
        le=1_000_000,
    )
    max_germinations: Int | None = field(
        "Most germinations of the run; when absent, seeds.maxTotal and the budget decide.",
        None,
        unit="germinations",
        why="the budget counts culled seeds already",
        ge=0,
        le=100_000,
    )
    minimum_remaining_fraction: float = field(
        "Germinate only while at least this share of the run is left.",
        0.35,
        unit="fraction of the run",
        why="a seed needs time to earn back its compute",
        ge=0,
        le=1,
    )
    probe_steps: Int = field(
        "Steps of the frozen-host probe that ranks candidates.",
        50,
        unit="steps",
        why="measured on MNIST-1D: ranked as well as 150 real training steps; not run where it takes over 2 % of "
        "what remains",
        ge=1,
        le=100_000,
    )
    placement: Annotated[Placement, Choice] = field(
        "How candidate slots are ranked.",
        Placement.GRADIENT_NORM,
        why="four steps a slot tell the slots that are worth something from those that are not, on signals and on "
        "images; a probe costs more and ranked them wrongly early in a run",
    )
    fixed: list[FixedSeed] = field(
        "The plan of policy Fixed.", factory=list, why="no other policy reads it", max_length=128, schema=ATOMIC
    )
    max_risk: float = field(
        "Refuse blueprints and kernels above this risk.",
        0.6,
        unit="risk, 0 to 1",
        why="above it lie designs that are quarantined until approved",
        ge=0,
        le=1,
    )
    approved: Annotated[list[Name], Distinct] = field(
        "Blueprints allowed whatever their risk.",
        factory=list,
        why="approval is a person's act",
        max_length=128,
        schema=SET,
    )


class KernelsSpec(Model):
    """Which kernels the run chooses from and how they are kept."""

    blueprints: Annotated[list[Name], Distinct] = field(
        "Blueprints of the catalogue or the library to prepare; empty for all that fit the slots.",
        factory=list,
        why="the controller should have the choice",
        max_length=128,
        schema=SET,
    )
    strategies: Annotated[list[Annotated[Strategy, Choice]], Distinct] = field(
        "Strategies to build each blueprint by.",
        factory=lambda: [Strategy.FAST],
        why="builds in milliseconds; Standard takes seconds and a C++ compiler",
        min_length=1,
        max_length=3,
        schema=SET,
    )
    prepare: Annotated[Prepare, Choice] = field(
        "Certify the first kernels before epoch 1, or let them arrive while training.",
        Prepare.BEFORE_TRAINING,
        why="then nothing depends on how fast this machine compiles",
    )
    cache_bytes: Int = field(
        "Bytes of kernels one process keeps loaded.",
        268_435_456,
        unit="bytes",
        why="256 MiB: many small kernels, and a long run can not fill the memory",
        ge=1_048_576,
        le=MAX_INT,
    )
    cache_count: Int = field(
        "Kernels one process keeps loaded.",
        64,
        unit="kernels",
        why="more than the catalogue times the slots of a small network",
        ge=1,
        le=100_000,
    )
    build_timeout_seconds: Int = field(
        "A build that takes longer is rejected.",
        300,
        unit="seconds",
        why="the promise of strategy Standard",
        ge=1,
        le=86_400,
    )
