"""What the operator counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

RECONCILE_SECONDS = Histogram("esper_operator_reconcile_seconds", "Time to bring one resource nearer to its spec")
FAILURES = Counter("esper_operator_reconcile_failures", "Reconciles that will be tried again after an error")
ACTIONS = Counter("esper_operator_actions", "Writes to the cluster", ["action", "kind"])
QUEUED = Gauge("esper_operator_queued", "Resources waiting to be looked at")
LEADING = Gauge("esper_operator_leading", "1 while this replica leads")
STALE = Gauge("esper_operator_stale_objects", "Objects whose newest version no watch has told of")
#
