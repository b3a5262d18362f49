"""What is trained and how: task, slots, optimizer, schedule, budget, checkpoints, governor."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from leyline.resources.base import ATOMIC, MAX_INT, PRESERVE, BigInt, Choice, Int, Model, field, keyed
from leyline.resources.enums import Device, OptimizerName, Precision, ScheduleKind


class TaskSpec(Model):
    """The network, its data and its loss, as one Python function."""

    ref: str = field(
        "The task function, as module:function. It takes seed and the params below and returns an esper Task.",
        form="module:function, such as esper.tasks.mnist1d:task",
        max_length=256,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$",
    )
    params: dict[str, Any] = field(
        "Keyword arguments of the task function, any JSON values.",
        factory=dict,
        why="most tasks have sensible parameters of their own",
        schema=PRESERVE,
        max_length=256,
    )


class SlotSpec(Model):
    """Modules of the host whose output a seed may change."""

    path: str = field(
        "Module path inside the host network; * matches within one name, ** across dots.",
        min_length=1,
        max_length=256,
        form="a module path or glob, such as blocks.*",
        pattern=r"^[A-Za-z0-9_.*?\[\]!-]+$",
    )
    chunks: Int = field(
        "Split the module's features into this many equal slots.",
        1,
        unit="slots",
        why="one slot a module is what every bundled task uses",
        ge=1,
        le=1024,
    )


class OptimizerSpec(Model):
    """The optimizer of the host and of every seed that trains with it."""

    name: Annotated[OptimizerName, Choice] = field(
        "Optimizer, by its name in torch.optim.",
        OptimizerName.ADAMW,
        why="the usual choice; without weight decay it equals Adam",
    )
    learning_rate: float = field(
        "Peak learning rate, after the warm-up.",
        0.001,
        unit="1/step",
        why="PyTorch's own default for Adam; tune it first: on MNIST-1D that gained more than growing",
        gt=0,
        le=100,
    )
    weight_decay: float = field(
        "Weight decay, decoupled for AdamW.",
        0.0,
        unit="1/step",
        why="regularisation is the task's business",
        ge=0,
        le=10,
    )
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = field(
        "Decay rates of Adam's two moment estimates; SGD ignores them.",
        factory=lambda: [0.9, 0.999],
        why="Kingma and Ba's values",
        min_length=2,
        max_length=2,
        schema=ATOMIC,
    )
    momentum: float = field("Momentum of SGD.", 0.0, why="plain SGD unless asked", unit="fraction", ge=0, lt=1)


class ScheduleSpec(Model):
    """The learning rate over the whole run."""

    kind: Annotated[ScheduleKind, Choice] = field(
        "Shape after the warm-up: constant, constant with a linear decay at the end, or cosine to zero.",
        ScheduleKind.WARMUP_STABLE_DECAY,
        why="its stable part has no end date, which a network that may grow needs",
    )
    warmup_steps: Int = field(
        "Steps of linear warm-up from zero.",
        50,
        unit="steps",
        why="enough for Adam's second moments to settle",
        ge=0,
        le=MAX_INT,
    )
    decay_fraction: float = field(
        "Share of the run over which WarmupStableDecay goes linearly to zero.",
        0.3,
        unit="fraction of the run",
        why="the decay that the measurements behind the other defaults were made with",
        ge=0,
        lt=1,
    )


class TrainingSpec(Model):
    """The training loop."""

    epochs: Int = field("Epochs to train; growth is decided at their ends.", unit="epochs", ge=1, le=1_000_000)
    batch_size: Int = field(
        "Examples in one micro-batch, all ranks together; must divide by their number.",
        100,
        unit="examples",
        why="small enough for a laptop, large enough for batch statistics",
        ge=1,
        le=1_048_576,
    )
    gradient_accumulation: Int = field(
        "Micro-batches added up before one optimizer step.",
        1,
        unit="micro-batches",
        why="one is the plain loop",
        ge=1,
        le=65_536,
    )
    precision: Annotated[Precision, Choice] = field(
        "Number format of forward and backward; parameters stay float32.",
        Precision.FLOAT32,
        why="exact everywhere; BFloat16 needs hardware that has it to gain anything",
    )
    device: Annotated[Device, Choice] = field(
        "Where to compute.",
        Device.AUTO,
        why="the same manifest serves a laptop and a GPU pod",
    )
    threads: Int = field(
        "CPU threads of one process.",
        1,
        unit="threads",
        why="sums in another order are other bits: one thread keeps their order, however many cores there are",
        ge=1,
        le=1024,
    )
    steps_per_epoch: Int | None = field(
        "Optimizer steps in an epoch; when absent, one pass over the train split.",
        None,
        unit="steps",
        why="an epoch is a pass over the data unless said otherwise",
        ge=1,
        le=MAX_INT,
    )
    optimizer: OptimizerSpec = field("The optimizer.", factory=OptimizerSpec, why="see its fields")
    schedule: ScheduleSpec = field("The learning-rate schedule.", factory=ScheduleSpec, why="see its fields")
    gradient_clip: float | None = field(
        "Clip the global gradient norm at this value; when absent, no clipping.",
        None,
        unit="L2 norm",
        why="clipping hides trouble the governor should see",
        gt=0,
        le=1e6,
    )


class BudgetSpec(Model):
    """What the run may spend, culled seeds, probes and twins included."""

    parameters: Int | None = field(
        "Most parameters the network may have at any time; when absent, no limit.",
        None,
        unit="parameters",
        why="most first runs want to see what growth would do",
        ge=1,
        le=MAX_INT,
    )
    training_flops: BigInt | None = field(
        "Most training FLOPs of the whole run; when absent, what the epochs take.",
        None,
        unit="FLOPs",
        why="epochs alone bound a first run",
        ge=1,
        le=1e27,
    )


class CheckpointsSpec(Model):
    """What is kept on disk for resuming."""

    every_epochs: Int = field(
        "Write a checkpoint after this many epochs.",
        1,
        unit="epochs",
        why="a killed run loses one epoch at most",
        ge=1,
        le=1_000_000,
    )
    keep: Int = field(
        "Newest checkpoints to keep.",
        3,
        unit="checkpoints",
        why="one to resume from, one before it, one in case the disk lied",
        ge=1,
        le=1000,
    )


class GovernorSpec(Model):
    """When training is rolled back to the last good checkpoint."""

    loss_spike: float = field(
        "Roll back when the loss is this many robust standard deviations above its recent median.",
        8.0,
        unit="robust z-score",
        why="far outside ordinary noise, so that only a real jump undoes work",
        gt=0,
        le=1e6,
    )
    step_timeout_seconds: float = field(
        "A step that takes longer is taken for hung.",
        120.0,
        unit="seconds",
        why="longer than any honest step, short enough to notice a hang",
        gt=0,
        le=86_400,
    )
    max_rollbacks: Int = field(
        "After this many rollbacks the run fails instead.",
        3,
        unit="rollbacks",
        why="a fourth would repeat the third",
        ge=0,
        le=1000,
    )


def _distinct_paths(slots: list[SlotSpec]) -> list[SlotSpec]:
    seen: set[str] = set()
    for slot in slots:
        if slot.path in seen:
            raise ValueError(f"path {slot.path} is listed twice")
        seen.add(slot.path)
    return slots


Slots = Annotated[list[SlotSpec], AfterValidator(_distinct_paths)]
SLOTS_SCHEMA = keyed("path")
