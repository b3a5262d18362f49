"""Which states are worth a status: one that is over within seconds is not.

A write of a status takes the API server longer than anything else that a run needs. That pods are waited for, or that
they start, is told to whoever looks once it lasts; what users wait for (training, an end, an obstacle) is told at once.
"""

from __future__ import annotations

from datetime import datetime

from esper_operator.plan.diagnosis import Diagnosis
from esper_operator.plan.observed import Observed
from esper_operator.plan.times import moment
from esper_operator.reasons import TABLE
from leyline.resources import TrainingRun

FIRST_SECONDS, LATER_SECONDS = 2.0, 5.0
"""Until a run's first status, and until another one, since the newest of the run and its pods was made.

The API server cuts that moment down to whole seconds.
"""


def seconds_to_last(run: TrainingRun, seen: Observed, found: Diagnosis, now: datetime) -> float:
    """Seconds until what was found is to be written down if it still holds; 0 when that is now.

    A reason that makes an Event is never put off, nor is that the operator has taken note of a changed spec.
    """
    if TABLE[found.why.reason].event:
        return 0.0
    noted = run.status.observed_generation if run.status is not None else None
    if noted is not None and noted != run.metadata.generation:
        return 0.0
    if noted is None and seen.job is None:
        return FIRST_SECONDS  # its Job is made at this very moment
    made = [run.metadata.creation_timestamp, *(pod.created_at for pod in seen.pods)]
    newest = max((moment(each) for each in made if each), default=None)
    if newest is None:
        return 0.0
    limit = FIRST_SECONDS if noted is None else LATER_SECONDS
    # A clock behind the API server's must not put it off for longer.
    return min(max(limit - (now - newest).total_seconds(), 0.0), limit)
