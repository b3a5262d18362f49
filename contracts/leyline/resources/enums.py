"""Every enumeration a manifest may use. Values are CamelCase, as in Kubernetes' own resources."""

from __future__ import annotations

from enum import StrEnum


class Precision(StrEnum):
    """Number format of the forward and backward pass; parameters are always float32."""

    FLOAT32 = "Float32"
    BFLOAT16 = "BFloat16"


class Device(StrEnum):
    """Where the run computes; ``Auto`` takes CUDA when the process sees a GPU."""

    AUTO = "Auto"
    CPU = "Cpu"
    CUDA = "Cuda"


class OptimizerName(StrEnum):
    """Optimizers by their name in ``torch.optim``."""

    ADAMW = "AdamW"
    ADAM = "Adam"
    SGD = "SGD"


class ScheduleKind(StrEnum):
    """Shape of the learning rate over the run; every shape begins with the warm-up."""

    CONSTANT = "Constant"
    WARMUP_STABLE_DECAY = "WarmupStableDecay"
    COSINE = "Cosine"


class Objective(StrEnum):
    """What a seed learns in isolation, before it may change the host."""

    NONE = "None"
    RECONSTRUCTION = "Reconstruction"
    SHADOW = "Shadow"
    TASK = "Task"


class Blend(StrEnum):
    """How a branch s joins activations u: ``Residual`` u+α·s(u), ``Convex`` (1−α)·u+α·s(u)."""

    RESIDUAL = "Residual"
    CONVEX = "Convex"


class AlphaSchedule(StrEnum):
    """Shape of the α ramp while a seed is grafted."""

    LINEAR = "Linear"
    COSINE = "Cosine"
    SIGMOID = "Sigmoid"


class Freeze(StrEnum):
    """When a fossilized seed's parameters stop training."""

    AT_END = "AtEnd"
    IMMEDIATELY = "Immediately"


class JudgeMode(StrEnum):
    """How often a seed is compared with its twin."""

    ONCE = "Once"
    TWICE = "Twice"
    OFF = "Off"


class TwinPlacement(StrEnum):
    """Where the twin trains; the bits are the same."""

    IN_PROCESS = "InProcess"
    PROCESS = "Process"


class PolicyName(StrEnum):
    """Which policy proposes growth."""

    HEURISTIC = "Heuristic"
    NEVER = "Never"
    ALWAYS = "Always"
    RANDOM = "Random"
    FIXED = "Fixed"


class Placement(StrEnum):
    """How the heuristic ranks the slots it could grow."""

    PROBE = "Probe"
    GRADIENT_NORM = "GradientNorm"
    EARLIEST = "Earliest"
    RANDOM = "Random"


class Strategy(StrEnum):
    """How much effort went into compiling a kernel."""

    FAST = "Fast"
    STANDARD = "Standard"


class Prepare(StrEnum):
    """When the first kernels are built and certified."""

    BEFORE_TRAINING = "BeforeTraining"
    ALONGSIDE = "Alongside"


class RunPhase(StrEnum):
    """One word for where a run is."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class KernelPhase(StrEnum):
    """One word for where a kernel artifact is; the library's states in CamelCase."""

    PENDING_BUILD = "PendingBuild"
    BUILT = "Built"
    PENDING_BENCHMARK = "PendingBenchmark"
    VALIDATED = "Validated"
    REJECTED = "Rejected"
    NOISY = "Noisy"
    RETIRED = "Retired"


class Tier(StrEnum):
    """How far a blueprint is trusted; risk bands of the library in words."""

    TRUSTED = "Trusted"
    STANDARD = "Standard"
    EXPERIMENTAL = "Experimental"
    QUARANTINED = "Quarantined"


class TolerationOperator(StrEnum):
    """How a toleration matches a taint."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """What a taint does to pods that don't tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class ConditionStatus(StrEnum):
    """A condition holds, does not, or can't be told."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"
