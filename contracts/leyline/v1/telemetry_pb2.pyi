from leyline.v1 import seed_pb2 as _seed_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_FOSSILIZED: _ClassVar[Outcome]
    OUTCOME_CULLED: _ClassVar[Outcome]
    OUTCOME_CANCELLED: _ClassVar[Outcome]
    OUTCOME_ROLLED_BACK: _ClassVar[Outcome]
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_FOSSILIZED: Outcome
OUTCOME_CULLED: Outcome
OUTCOME_CANCELLED: Outcome
OUTCOME_ROLLED_BACK: Outcome

class BudgetState(_message.Message):
    __slots__ = ("parameters_used", "parameters_limit", "flops_used", "flops_limit", "remaining_fraction")
    PARAMETERS_USED_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_LIMIT_FIELD_NUMBER: _ClassVar[int]
    FLOPS_USED_FIELD_NUMBER: _ClassVar[int]
    FLOPS_LIMIT_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FRACTION_FIELD_NUMBER: _ClassVar[int]
    parameters_used: int
    parameters_limit: int
    flops_used: float
    flops_limit: float
    remaining_fraction: float
    def __init__(self, parameters_used: _Optional[int] = ..., parameters_limit: _Optional[int] = ..., flops_used: _Optional[float] = ..., flops_limit: _Optional[float] = ..., remaining_fraction: _Optional[float] = ...) -> None: ...

class SystemStatePacket(_message.Message):
    __slots__ = ("run", "epoch", "epochs", "step", "train_loss", "controller_loss", "controller_metrics", "learning_rate", "gradient_norm", "budget", "slots", "seeds", "loss_spike", "epoch_seconds")
    class ControllerMetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    RUN_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TRAIN_LOSS_FIELD_NUMBER: _ClassVar[int]
    CONTROLLER_LOSS_FIELD_NUMBER: _ClassVar[int]
    CONTROLLER_METRICS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    LOSS_SPIKE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_SECONDS_FIELD_NUMBER: _ClassVar[int]
    run: str
    epoch: int
    epochs: int
    step: int
    train_loss: float
    controller_loss: float
    controller_metrics: _containers.ScalarMap[str, float]
    learning_rate: float
    gradient_norm: float
    budget: BudgetState
    slots: _containers.RepeatedCompositeFieldContainer[_seed_pb2.SlotState]
    seeds: _containers.RepeatedCompositeFieldContainer[_seed_pb2.SeedState]
    loss_spike: bool
    epoch_seconds: float
    def __init__(self, run: _Optional[str] = ..., epoch: _Optional[int] = ..., epochs: _Optional[int] = ..., step: _Optional[int] = ..., train_loss: _Optional[float] = ..., controller_loss: _Optional[float] = ..., controller_metrics: _Optional[_Mapping[str, float]] = ..., learning_rate: _Optional[float] = ..., gradient_norm: _Optional[float] = ..., budget: _Optional[_Union[BudgetState, _Mapping]] = ..., slots: _Optional[_Iterable[_Union[_seed_pb2.SlotState, _Mapping]]] = ..., seeds: _Optional[_Iterable[_Union[_seed_pb2.SeedState, _Mapping]]] = ..., loss_spike: _Optional[bool] = ..., epoch_seconds: _Optional[float] = ...) -> None: ...

class Measurement(_message.Message):
    __slots__ = ("name", "value", "unit", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    unit: str
    labels: _containers.ScalarMap[str, str]
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., unit: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class TelemetryPacket(_message.Message):
    __slots__ = ("run", "seed_id", "epoch", "step", "measurements")
    RUN_FIELD_NUMBER: _ClassVar[int]
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    MEASUREMENTS_FIELD_NUMBER: _ClassVar[int]
    run: str
    seed_id: str
    epoch: int
    step: int
    measurements: _containers.RepeatedCompositeFieldContainer[Measurement]
    def __init__(self, run: _Optional[str] = ..., seed_id: _Optional[str] = ..., epoch: _Optional[int] = ..., step: _Optional[int] = ..., measurements: _Optional[_Iterable[_Union[Measurement, _Mapping]]] = ...) -> None: ...

class FieldReport(_message.Message):
    __slots__ = ("report_id", "run", "seed_id", "slot", "blueprint", "kernel_artifact_id", "hardware", "outcome", "reason", "germinated_epoch", "finished_epoch", "metric", "metric_before", "metric_after", "effect", "p_value", "training_flops", "measurements")
    class MeasurementsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    REPORT_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_FIELD_NUMBER: _ClassVar[int]
    KERNEL_ARTIFACT_ID_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    GERMINATED_EPOCH_FIELD_NUMBER: _ClassVar[int]
    FINISHED_EPOCH_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    METRIC_BEFORE_FIELD_NUMBER: _ClassVar[int]
    METRIC_AFTER_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FLOPS_FIELD_NUMBER: _ClassVar[int]
    MEASUREMENTS_FIELD_NUMBER: _ClassVar[int]
    report_id: str
    run: str
    seed_id: str
    slot: str
    blueprint: str
    kernel_artifact_id: str
    hardware: str
    outcome: Outcome
    reason: str
    germinated_epoch: int
    finished_epoch: int
    metric: str
    metric_before: float
    metric_after: float
    effect: float
    p_value: float
    training_flops: float
    measurements: _containers.ScalarMap[str, float]
    def __init__(self, report_id: _Optional[str] = ..., run: _Optional[str] = ..., seed_id: _Optional[str] = ..., slot: _Optional[str] = ..., blueprint: _Optional[str] = ..., kernel_artifact_id: _Optional[str] = ..., hardware: _Optional[str] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., reason: _Optional[str] = ..., germinated_epoch: _Optional[int] = ..., finished_epoch: _Optional[int] = ..., metric: _Optional[str] = ..., metric_before: _Optional[float] = ..., metric_after: _Optional[float] = ..., effect: _Optional[float] = ..., p_value: _Optional[float] = ..., training_flops: _Optional[float] = ..., measurements: _Optional[_Mapping[str, float]] = ...) -> None: ...
