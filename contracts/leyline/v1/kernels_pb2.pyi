from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Strategy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STRATEGY_UNSPECIFIED: _ClassVar[Strategy]
    STRATEGY_FAST: _ClassVar[Strategy]
    STRATEGY_STANDARD: _ClassVar[Strategy]
    STRATEGY_AGGRESSIVE: _ClassVar[Strategy]

class Layout(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LAYOUT_UNSPECIFIED: _ClassVar[Layout]
    LAYOUT_VECTOR: _ClassVar[Layout]
    LAYOUT_SEQUENCE: _ClassVar[Layout]
    LAYOUT_IMAGE1D: _ClassVar[Layout]
    LAYOUT_IMAGE2D: _ClassVar[Layout]

class KernelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KERNEL_STATE_UNSPECIFIED: _ClassVar[KernelState]
    KERNEL_STATE_PENDING_BUILD: _ClassVar[KernelState]
    KERNEL_STATE_BUILT: _ClassVar[KernelState]
    KERNEL_STATE_PENDING_BENCHMARK: _ClassVar[KernelState]
    KERNEL_STATE_VALIDATED: _ClassVar[KernelState]
    KERNEL_STATE_REJECTED: _ClassVar[KernelState]
    KERNEL_STATE_NOISY: _ClassVar[KernelState]
    KERNEL_STATE_RETIRED: _ClassVar[KernelState]
STRATEGY_UNSPECIFIED: Strategy
STRATEGY_FAST: Strategy
STRATEGY_STANDARD: Strategy
STRATEGY_AGGRESSIVE: Strategy
LAYOUT_UNSPECIFIED: Layout
LAYOUT_VECTOR: Layout
LAYOUT_SEQUENCE: Layout
LAYOUT_IMAGE1D: Layout
LAYOUT_IMAGE2D: Layout
KERNEL_STATE_UNSPECIFIED: KernelState
KERNEL_STATE_PENDING_BUILD: KernelState
KERNEL_STATE_BUILT: KernelState
KERNEL_STATE_PENDING_BENCHMARK: KernelState
KERNEL_STATE_VALIDATED: KernelState
KERNEL_STATE_REJECTED: KernelState
KERNEL_STATE_NOISY: KernelState
KERNEL_STATE_RETIRED: KernelState

class KernelInterface(_message.Message):
    __slots__ = ("layout", "width", "trailing", "dtype", "batch_min", "batch_max")
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    TRAILING_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    BATCH_MIN_FIELD_NUMBER: _ClassVar[int]
    BATCH_MAX_FIELD_NUMBER: _ClassVar[int]
    layout: Layout
    width: int
    trailing: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    batch_min: int
    batch_max: int
    def __init__(self, layout: _Optional[_Union[Layout, str]] = ..., width: _Optional[int] = ..., trailing: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ..., batch_min: _Optional[int] = ..., batch_max: _Optional[int] = ...) -> None: ...

class KernelPrefetchRequest(_message.Message):
    __slots__ = ("run", "slot", "kernel_artifact_id", "blueprint", "interface", "strategy", "hardware")
    RUN_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    KERNEL_ARTIFACT_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_FIELD_NUMBER: _ClassVar[int]
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_FIELD_NUMBER: _ClassVar[int]
    run: str
    slot: str
    kernel_artifact_id: str
    blueprint: str
    interface: KernelInterface
    strategy: Strategy
    hardware: str
    def __init__(self, run: _Optional[str] = ..., slot: _Optional[str] = ..., kernel_artifact_id: _Optional[str] = ..., blueprint: _Optional[str] = ..., interface: _Optional[_Union[KernelInterface, _Mapping]] = ..., strategy: _Optional[_Union[Strategy, str]] = ..., hardware: _Optional[str] = ...) -> None: ...

class KernelArtifactReady(_message.Message):
    __slots__ = ("run", "kernel_artifact_id", "manifest_sha256", "size_bytes")
    RUN_FIELD_NUMBER: _ClassVar[int]
    KERNEL_ARTIFACT_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    run: str
    kernel_artifact_id: str
    manifest_sha256: str
    size_bytes: int
    def __init__(self, run: _Optional[str] = ..., kernel_artifact_id: _Optional[str] = ..., manifest_sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class KernelArtifactError(_message.Message):
    __slots__ = ("run", "kernel_artifact_id", "cause", "retryable")
    RUN_FIELD_NUMBER: _ClassVar[int]
    KERNEL_ARTIFACT_ID_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    run: str
    kernel_artifact_id: str
    cause: str
    retryable: bool
    def __init__(self, run: _Optional[str] = ..., kernel_artifact_id: _Optional[str] = ..., cause: _Optional[str] = ..., retryable: _Optional[bool] = ...) -> None: ...

class KernelCompileRequest(_message.Message):
    __slots__ = ("kernel_artifact_id", "blueprint", "blueprint_ir", "interface", "strategy", "hardware", "toolchain", "timeout_seconds")
    KERNEL_ARTIFACT_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_IR_FIELD_NUMBER: _ClassVar[int]
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_FIELD_NUMBER: _ClassVar[int]
    TOOLCHAIN_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    kernel_artifact_id: str
    blueprint: str
    blueprint_ir: bytes
    interface: KernelInterface
    strategy: Strategy
    hardware: str
    toolchain: str
    timeout_seconds: int
    def __init__(self, kernel_artifact_id: _Optional[str] = ..., blueprint: _Optional[str] = ..., blueprint_ir: _Optional[bytes] = ..., interface: _Optional[_Union[KernelInterface, _Mapping]] = ..., strategy: _Optional[_Union[Strategy, str]] = ..., hardware: _Optional[str] = ..., toolchain: _Optional[str] = ..., timeout_seconds: _Optional[int] = ...) -> None: ...

class KernelBuilt(_message.Message):
    __slots__ = ("kernel_artifact_id", "manifest_sha256", "build_seconds", "size_bytes")
    KERNEL_ARTIFACT_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    BUILD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    kernel_artifact_id: str
    manifest_sha256: str
    build_seconds: float
    size_bytes: int
    def __init__(self, kernel_artifact_id: _Optional[str] = ..., manifest_sha256: _Optional[str] = ..., build_seconds: _Optional[float] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class KernelBenchmarkRequest(_message.Message):
    __slots__ = ("kernel_artifact_id", "manifest_sha256", "baseline_artifact_id", "timeout_seconds")
    KERNEL_ARTIFACT_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    BASELINE_ARTIFACT_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    kernel_artifact_id: str
    manifest_sha256: str
    baseline_artifact_id: str
    timeout_seconds: int
    def __init__(self, kernel_artifact_id: _Optional[str] = ..., manifest_sha256: _Optional[str] = ..., baseline_artifact_id: _Optional[str] = ..., timeout_seconds: _Optional[int] = ...) -> None: ...

class KernelMeasurements(_message.Message):
    __slots__ = ("latency_ms_mean", "latency_ms_p99", "throughput_ops_per_sec", "memory_mb_peak", "power_watts_avg", "precision_drift_vs_fp32", "ratio", "ratio_low", "ratio_high", "samples")
    LATENCY_MS_MEAN_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_P99_FIELD_NUMBER: _ClassVar[int]
    THROUGHPUT_OPS_PER_SEC_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MB_PEAK_FIELD_NUMBER: _ClassVar[int]
    POWER_WATTS_AVG_FIELD_NUMBER: _ClassVar[int]
    PRECISION_DRIFT_VS_FP32_FIELD_NUMBER: _ClassVar[int]
    RATIO_FIELD_NUMBER: _ClassVar[int]
    RATIO_LOW_FIELD_NUMBER: _ClassVar[int]
    RATIO_HIGH_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    latency_ms_mean: float
    latency_ms_p99: float
    throughput_ops_per_sec: float
    memory_mb_peak: float
    power_watts_avg: float
    precision_drift_vs_fp32: float
    ratio: float
    ratio_low: float
    ratio_high: float
    samples: int
    def __init__(self, latency_ms_mean: _Optional[float] = ..., latency_ms_p99: _Optional[float] = ..., throughput_ops_per_sec: _Optional[float] = ..., memory_mb_peak: _Optional[float] = ..., power_watts_avg: _Optional[float] = ..., precision_drift_vs_fp32: _Optional[float] = ..., ratio: _Optional[float] = ..., ratio_low: _Optional[float] = ..., ratio_high: _Optional[float] = ..., samples: _Optional[int] = ...) -> None: ...

class KernelCertified(_message.Message):
    __slots__ = ("kernel_artifact_id", "manifest_sha256", "report_sha256", "hardware", "measurements", "tags", "risk")
    KERNEL_ARTIFACT_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    REPORT_SHA256_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_FIELD_NUMBER: _ClassVar[int]
    MEASUREMENTS_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    RISK_FIELD_NUMBER: _ClassVar[int]
    kernel_artifact_id: str
    manifest_sha256: str
    report_sha256: str
    hardware: str
    measurements: KernelMeasurements
    tags: _containers.RepeatedScalarFieldContainer[str]
    risk: float
    def __init__(self, kernel_artifact_id: _Optional[str] = ..., manifest_sha256: _Optional[str] = ..., report_sha256: _Optional[str] = ..., hardware: _Optional[str] = ..., measurements: _Optional[_Union[KernelMeasurements, _Mapping]] = ..., tags: _Optional[_Iterable[str]] = ..., risk: _Optional[float] = ...) -> None: ...

class KernelRejected(_message.Message):
    __slots__ = ("kernel_artifact_id", "stage", "cause", "noisy")
    KERNEL_ARTIFACT_ID_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    NOISY_FIELD_NUMBER: _ClassVar[int]
    kernel_artifact_id: str
    stage: str
    cause: str
    noisy: bool
    def __init__(self, kernel_artifact_id: _Optional[str] = ..., stage: _Optional[str] = ..., cause: _Optional[str] = ..., noisy: _Optional[bool] = ...) -> None: ...

class KernelCatalogUpdate(_message.Message):
    __slots__ = ("kernel_artifact_id", "blueprint", "state", "tags", "risk", "cause")
    KERNEL_ARTIFACT_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    RISK_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    kernel_artifact_id: str
    blueprint: str
    state: KernelState
    tags: _containers.RepeatedScalarFieldContainer[str]
    risk: float
    cause: str
    def __init__(self, kernel_artifact_id: _Optional[str] = ..., blueprint: _Optional[str] = ..., state: _Optional[_Union[KernelState, str]] = ..., tags: _Optional[_Iterable[str]] = ..., risk: _Optional[float] = ..., cause: _Optional[str] = ...) -> None: ...
