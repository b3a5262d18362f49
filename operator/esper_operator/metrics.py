"""What the operator counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

RECONCILE_SECONDS = Histogram("esper_operator_reconcile_seconds", "Time to bring one resource nearer to its spec")
FAILURES = Counter("esper_operator_reconcile_failures", "Reconciles that will be tried again after an error")
ACTIONS = Counter("esper_operator_actions", "Writes to the cluster", ["action", "kind"])
QUEUED = Gauge("esper_operator_queued", "Resources waiting to be looked at")
LEADING = Gauge("esper_operator_leading", "1 while this replica leads")
POOL_WAITING = Gauge(
    "esper_operator_pool_waiting_artifacts", "Artifacts that wait for a pool or are worked on", ["pool"]
)
POOL_WANTED = Gauge("esper_operator_pool_wanted_pods", "Pods that a pool should have", ["pool"])
POOL_WORKING = Gauge("esper_operator_pool_pods", "Pods that a pool has or will have in a moment", ["pool"])
POOL_FAILURES = Counter("esper_operator_pool_failures", "Looks at the pools that came to nothing, and actions refused")
STALE = Gauge("esper_operator_stale_objects", "Objects whose newest version no watch has told of")
#
