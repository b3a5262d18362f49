from leyline.v1 import seed_pb2 as _seed_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Actor(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTOR_UNSPECIFIED: _ClassVar[Actor]
    ACTOR_TAMIYO: _ClassVar[Actor]
    ACTOR_KASMINA: _ClassVar[Actor]
    ACTOR_TOLARIA: _ClassVar[Actor]
    ACTOR_PERSON: _ClassVar[Actor]
ACTOR_UNSPECIFIED: Actor
ACTOR_TAMIYO: Actor
ACTOR_KASMINA: Actor
ACTOR_TOLARIA: Actor
ACTOR_PERSON: Actor

class Germinate(_message.Message):
    __slots__ = ("slot", "kernel_artifact_id", "blueprint", "blend", "objective", "alpha_schedule", "tags")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    KERNEL_ARTIFACT_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_FIELD_NUMBER: _ClassVar[int]
    BLEND_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    ALPHA_SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    slot: str
    kernel_artifact_id: str
    blueprint: str
    blend: _seed_pb2.Blend
    objective: _seed_pb2.Objective
    alpha_schedule: _seed_pb2.AlphaSchedule
    tags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, slot: _Optional[str] = ..., kernel_artifact_id: _Optional[str] = ..., blueprint: _Optional[str] = ..., blend: _Optional[_Union[_seed_pb2.Blend, str]] = ..., objective: _Optional[_Union[_seed_pb2.Objective, str]] = ..., alpha_schedule: _Optional[_Union[_seed_pb2.AlphaSchedule, str]] = ..., tags: _Optional[_Iterable[str]] = ...) -> None: ...

class Advance(_message.Message):
    __slots__ = ("seed_id", "target")
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    seed_id: str
    target: _seed_pb2.Stage
    def __init__(self, seed_id: _Optional[str] = ..., target: _Optional[_Union[_seed_pb2.Stage, str]] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("seed_id",)
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    seed_id: str
    def __init__(self, seed_id: _Optional[str] = ...) -> None: ...

class Cull(_message.Message):
    __slots__ = ("seed_id",)
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    seed_id: str
    def __init__(self, seed_id: _Optional[str] = ...) -> None: ...

class Pause(_message.Message):
    __slots__ = ("seed_id",)
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    seed_id: str
    def __init__(self, seed_id: _Optional[str] = ...) -> None: ...

class Resume(_message.Message):
    __slots__ = ("seed_id",)
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    seed_id: str
    def __init__(self, seed_id: _Optional[str] = ...) -> None: ...

class Rollback(_message.Message):
    __slots__ = ("seed_id", "checkpoint_epoch")
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_EPOCH_FIELD_NUMBER: _ClassVar[int]
    seed_id: str
    checkpoint_epoch: int
    def __init__(self, seed_id: _Optional[str] = ..., checkpoint_epoch: _Optional[int] = ...) -> None: ...

class Checkpoint(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class OptimizerChange(_message.Message):
    __slots__ = ("learning_rate_scale", "weight_decay")
    LEARNING_RATE_SCALE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    learning_rate_scale: float
    weight_decay: float
    def __init__(self, learning_rate_scale: _Optional[float] = ..., weight_decay: _Optional[float] = ...) -> None: ...

class AdaptationCommand(_message.Message):
    __slots__ = ("command_id", "run", "epoch", "actor", "reason", "numbers", "germinate", "advance", "cancel", "cull", "pause", "resume", "rollback", "optimizer_change", "checkpoint")
    class NumbersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    GERMINATE_FIELD_NUMBER: _ClassVar[int]
    ADVANCE_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    CULL_FIELD_NUMBER: _ClassVar[int]
    PAUSE_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_CHANGE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    command_id: str
    run: str
    epoch: int
    actor: Actor
    reason: str
    numbers: _containers.ScalarMap[str, float]
    germinate: Germinate
    advance: Advance
    cancel: Cancel
    cull: Cull
    pause: Pause
    resume: Resume
    rollback: Rollback
    optimizer_change: OptimizerChange
    checkpoint: Checkpoint
    def __init__(self, command_id: _Optional[str] = ..., run: _Optional[str] = ..., epoch: _Optional[int] = ..., actor: _Optional[_Union[Actor, str]] = ..., reason: _Optional[str] = ..., numbers: _Optional[_Mapping[str, float]] = ..., germinate: _Optional[_Union[Germinate, _Mapping]] = ..., advance: _Optional[_Union[Advance, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., cull: _Optional[_Union[Cull, _Mapping]] = ..., pause: _Optional[_Union[Pause, _Mapping]] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ..., rollback: _Optional[_Union[Rollback, _Mapping]] = ..., optimizer_change: _Optional[_Union[OptimizerChange, _Mapping]] = ..., checkpoint: _Optional[_Union[Checkpoint, _Mapping]] = ...) -> None: ...

class CommandResult(_message.Message):
    __slots__ = ("command_id", "run", "applied", "reason", "error", "epoch", "step")
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    command_id: str
    run: str
    applied: bool
    reason: str
    error: str
    epoch: int
    step: int
    def __init__(self, command_id: _Optional[str] = ..., run: _Optional[str] = ..., applied: _Optional[bool] = ..., reason: _Optional[str] = ..., error: _Optional[str] = ..., epoch: _Optional[int] = ..., step: _Optional[int] = ...) -> None: ...
