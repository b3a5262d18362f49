from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class PolicyUpdate(_message.Message):
    __slots__ = ("policy", "version", "weights_sha256", "location", "feature_schema", "validation")
    class ValidationEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    POLICY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    FEATURE_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FIELD_NUMBER: _ClassVar[int]
    policy: str
    version: int
    weights_sha256: str
    location: str
    feature_schema: int
    validation: _containers.ScalarMap[str, float]
    def __init__(self, policy: _Optional[str] = ..., version: _Optional[int] = ..., weights_sha256: _Optional[str] = ..., location: _Optional[str] = ..., feature_schema: _Optional[int] = ..., validation: _Optional[_Mapping[str, float]] = ...) -> None: ...
