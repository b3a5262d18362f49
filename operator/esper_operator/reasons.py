"""Every reason that a condition, a phase or an Event may carry: stable names, what they mean, what to do next.

``docs/operator.md`` shows this table; scripts/gen_docs.py writes it there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """CamelCase names that users may match on; one is never renamed and never given another meaning."""

    # a resource as a whole
    IN_PLACE = "ObjectsInPlace"
    INVALID_SPEC = "InvalidSpec"
    REFUSED = "Refused"
    NAME_TAKEN = "NameTaken"
    # pods on their way
    WAITING_FOR_PODS = "WaitingForPods"
    UNSCHEDULABLE = "Unschedulable"
    SCHEDULED = "PodsScheduled"
    STARTING = "ContainersStarting"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONTAINER_REFUSED = "ContainerRefused"
    RESTARTING = "Restarting"
    TRAINING = "Training"
    # as asked
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    NOT_SUSPENDED = "NotSuspended"
    EXTERNALLY_MANAGED = "ExternallyManaged"
    # the end
    NOT_FINISHED = "NotFinished"
    COMPLETED = "TrainingComplete"
    BACKOFF_EXHAUSTED = "BackoffLimitExceeded"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    NEVER_RAN = "PreRunningDeadlineExceeded"
    BAD_INPUT = "BadInput"
    FAILED = "JobFailed"
    # blueprints and kernels in the library
    REGISTERING = "Registering"
    REGISTERED = "Registered"
    NAME_MOVED = "NameMoved"
    BLUEPRINT_UNKNOWN = "BlueprintUnknown"
    POOLS_UNKNOWN = "PoolsUnknown"
    IN_PIPELINE = "InPipeline"
    VALIDATED = "Validated"
    REJECTED = "Rejected"
    RESTLESS = "MachineRestless"
    RETIRED = "Retired"
    NO_LIBRARY = "NoLibrary"
    LIBRARY_AWAY = "LibraryUnavailable"
    LIBRARY_DENIES = "LibraryAccessDenied"
    LIBRARY_REFUSES = "LibraryRefused"
    # pools
    NO_POOL = "NoPoolForHardware"
    POOL_SCALED = "PoolScaledUp"
    POOL_FAILING = "PoolFailing"
    POOL_INVALID = "InvalidPool"


@dataclass(frozen=True)
class Entry:
    """What a reason means, what its reader should do, and whether it is told as an Event (Normal or Warning)."""

    meaning: str
    advice: str = ""
    event: str = ""


TABLE: dict[Reason, Entry] = {
    Reason.IN_PLACE: Entry("every object of the resource exists as it should"),
    Reason.INVALID_SPEC: Entry(
        "the spec says what can't be", "delete it and create it with the named fields corrected", "Warning"
    ),
    Reason.REFUSED: Entry(
        "the API server refused an object", "correct what it names (podTemplate, quota, permissions)", "Warning"
    ),
    Reason.NAME_TAKEN: Entry(
        "an object of this name belongs to something else", "delete that object or rename this resource", "Warning"
    ),
    Reason.WAITING_FOR_PODS: Entry("the Job has not made its pods yet"),
    Reason.UNSCHEDULABLE: Entry(
        "no node can take a pod", "free or add what is missing, or change resources, nodeSelector or tolerations",
        "Warning",
    ),
    Reason.SCHEDULED: Entry("every pod has a node"),
    Reason.STARTING: Entry("nodes fetch images and start containers"),
    Reason.IMAGE_PULL_FAILED: Entry(
        "a node can't fetch the image", "check spec.image, the registry and imagePullSecrets in spec.podTemplate",
        "Warning",
    ),
    Reason.CONTAINER_REFUSED: Entry(
        "a node can't start the container", "correct what its message names, most often in spec.podTemplate", "Warning"
    ),
    Reason.RESTARTING: Entry(
        "a pod failed and another takes its place", "it resumes from its newest checkpoint; see its log if it repeats",
        "Warning",
    ),
    Reason.TRAINING: Entry("every pod runs", "", "Normal"),
    Reason.SUSPENDING: Entry("pods write a checkpoint and end"),
    Reason.SUSPENDED: Entry("no pod runs, as asked", "set spec.suspend to false to resume", "Normal"),
    Reason.NOT_SUSPENDED: Entry("the run may run"),
    Reason.EXTERNALLY_MANAGED: Entry("the Job is left to the controller that spec.managedBy names"),
    Reason.NOT_FINISHED: Entry("the run has not ended"),
    Reason.COMPLETED: Entry("every pod ended well", "", "Normal"),
    Reason.BACKOFF_EXHAUSTED: Entry(
        "pods failed more often than backoffLimit allows", "read the log of the last pod, then create the run again",
        "Warning",
    ),
    Reason.DEADLINE_EXCEEDED: Entry(
        "it ran longer than activeDeadlineSeconds", "create it again with a longer one, or with fewer epochs",
        "Warning",
    ),
    Reason.NEVER_RAN: Entry(
        "it had not begun within preRunningDeadlineSeconds", "see why its pods could not start, then create it again",
        "Warning",
    ),
    Reason.BAD_INPUT: Entry(
        "the trainer refused its input (exit code 2)", "read its log, correct the manifest, create the run again",
        "Warning",
    ),
    Reason.FAILED: Entry("the Job failed", "see its message", "Warning"),
    Reason.REGISTERING: Entry("the design is being entered in the library"),
    Reason.REGISTERED: Entry("the library has the design under this name", "", "Normal"),
    Reason.NAME_MOVED: Entry(
        "somebody has registered another design under this name since",
        "rename this blueprint, or delete and create it to take the name back", "Warning",
    ),
    Reason.BLUEPRINT_UNKNOWN: Entry(
        "the library has no such blueprint", "create the Blueprint; this goes on by itself then", "Warning"
    ),
    Reason.POOLS_UNKNOWN: Entry(
        "it is not known what the pools build for and with",
        "set ESPER_OPERATOR_HARDWARE and ESPER_OPERATOR_TOOLCHAIN of the operator", "Warning",
    ),
    Reason.IN_PIPELINE: Entry("the pools build and measure it"),
    Reason.VALIDATED: Entry("it is certified and may be used", "", "Normal"),
    Reason.REJECTED: Entry("it can't be used", "see its cause", "Warning"),
    Reason.RESTLESS: Entry("the machine was too restless to measure it; it is tried again"),
    Reason.RETIRED: Entry("it was taken out of use", "", "Warning"),
    Reason.NO_LIBRARY: Entry(
        "the operator was told of no library", "set ESPER_OPERATOR_URZA_URL and ESPER_OPERATOR_URZA_TOKEN_FILE",
        "Warning",
    ),
    Reason.LIBRARY_AWAY: Entry("the library does not answer", "it is asked again; see its pods' log", "Warning"),
    Reason.LIBRARY_DENIES: Entry(
        "the library does not let the operator do this", "give its subject the role trainer, or admin to approve",
        "Warning",
    ),
    Reason.LIBRARY_REFUSES: Entry("the library does not take it", "correct what it names", "Warning"),
    Reason.NO_POOL: Entry(
        "no pool takes artifacts of its hardware", "add a pool for it, or name hardware that a pool has", "Warning"
    ),
    Reason.POOL_SCALED: Entry("a pool gets more pods", "", "Normal"),
    Reason.POOL_FAILING: Entry(
        "a pool's pods failed again and again",
        "read their log; another Job is made once the failed one is deleted, 300 s later or by you", "Warning",
    ),
    Reason.POOL_INVALID: Entry(
        "a PodTemplate that is marked as a pool is none", "correct the label or annotation that is named", "Warning"
    ),
}  # fmt: skip
