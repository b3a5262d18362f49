from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STAGE_UNSPECIFIED: _ClassVar[Stage]
    STAGE_DORMANT: _ClassVar[Stage]
    STAGE_GERMINATED: _ClassVar[Stage]
    STAGE_LOADING: _ClassVar[Stage]
    STAGE_TRAINING: _ClassVar[Stage]
    STAGE_GRAFTING: _ClassVar[Stage]
    STAGE_STABILIZATION: _ClassVar[Stage]
    STAGE_EVALUATING: _ClassVar[Stage]
    STAGE_FINE_TUNING: _ClassVar[Stage]
    STAGE_FOSSILIZED: _ClassVar[Stage]
    STAGE_CULLED: _ClassVar[Stage]
    STAGE_CANCELLED: _ClassVar[Stage]
    STAGE_ERROR_RECOVERY: _ClassVar[Stage]
    STAGE_ROLLED_BACK: _ClassVar[Stage]

class Blend(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BLEND_UNSPECIFIED: _ClassVar[Blend]
    BLEND_RESIDUAL: _ClassVar[Blend]
    BLEND_CONVEX: _ClassVar[Blend]

class Objective(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OBJECTIVE_UNSPECIFIED: _ClassVar[Objective]
    OBJECTIVE_NONE: _ClassVar[Objective]
    OBJECTIVE_RECONSTRUCTION: _ClassVar[Objective]
    OBJECTIVE_SHADOW: _ClassVar[Objective]
    OBJECTIVE_TASK: _ClassVar[Objective]

class AlphaSchedule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ALPHA_SCHEDULE_UNSPECIFIED: _ClassVar[AlphaSchedule]
    ALPHA_SCHEDULE_LINEAR: _ClassVar[AlphaSchedule]
    ALPHA_SCHEDULE_COSINE: _ClassVar[AlphaSchedule]
    ALPHA_SCHEDULE_SIGMOID: _ClassVar[AlphaSchedule]
STAGE_UNSPECIFIED: Stage
STAGE_DORMANT: Stage
STAGE_GERMINATED: Stage
STAGE_LOADING: Stage
STAGE_TRAINING: Stage
STAGE_GRAFTING: Stage
STAGE_STABILIZATION: Stage
STAGE_EVALUATING: Stage
STAGE_FINE_TUNING: Stage
STAGE_FOSSILIZED: Stage
STAGE_CULLED: Stage
STAGE_CANCELLED: Stage
STAGE_ERROR_RECOVERY: Stage
STAGE_ROLLED_BACK: Stage
BLEND_UNSPECIFIED: Blend
BLEND_RESIDUAL: Blend
BLEND_CONVEX: Blend
OBJECTIVE_UNSPECIFIED: Objective
OBJECTIVE_NONE: Objective
OBJECTIVE_RECONSTRUCTION: Objective
OBJECTIVE_SHADOW: Objective
OBJECTIVE_TASK: Objective
ALPHA_SCHEDULE_UNSPECIFIED: AlphaSchedule
ALPHA_SCHEDULE_LINEAR: AlphaSchedule
ALPHA_SCHEDULE_COSINE: AlphaSchedule
ALPHA_SCHEDULE_SIGMOID: AlphaSchedule

class SeedState(_message.Message):
    __slots__ = ("seed_id", "slot", "stage", "kernel_artifact_id", "blueprint", "blend", "alpha", "health", "last_update_epoch", "exec_latency_us", "is_ready_for_transition", "run")
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    KERNEL_ARTIFACT_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_FIELD_NUMBER: _ClassVar[int]
    BLEND_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    LAST_UPDATE_EPOCH_FIELD_NUMBER: _ClassVar[int]
    EXEC_LATENCY_US_FIELD_NUMBER: _ClassVar[int]
    IS_READY_FOR_TRANSITION_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    seed_id: str
    slot: str
    stage: Stage
    kernel_artifact_id: str
    blueprint: str
    blend: Blend
    alpha: float
    health: float
    last_update_epoch: int
    exec_latency_us: int
    is_ready_for_transition: bool
    run: str
    def __init__(self, seed_id: _Optional[str] = ..., slot: _Optional[str] = ..., stage: _Optional[_Union[Stage, str]] = ..., kernel_artifact_id: _Optional[str] = ..., blueprint: _Optional[str] = ..., blend: _Optional[_Union[Blend, str]] = ..., alpha: _Optional[float] = ..., health: _Optional[float] = ..., last_update_epoch: _Optional[int] = ..., exec_latency_us: _Optional[int] = ..., is_ready_for_transition: _Optional[bool] = ..., run: _Optional[str] = ...) -> None: ...

class SlotState(_message.Message):
    __slots__ = ("slot", "variance", "dead_fraction", "correlation", "rms", "count")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    VARIANCE_FIELD_NUMBER: _ClassVar[int]
    DEAD_FRACTION_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_FIELD_NUMBER: _ClassVar[int]
    RMS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    slot: str
    variance: float
    dead_fraction: float
    correlation: float
    rms: float
    count: int
    def __init__(self, slot: _Optional[str] = ..., variance: _Optional[float] = ..., dead_fraction: _Optional[float] = ..., correlation: _Optional[float] = ..., rms: _Optional[float] = ..., count: _Optional[int] = ...) -> None: ...
