"""The only place that talks to the API server."""

from esper_operator.cluster.api import Cluster
from esper_operator.cluster.connection import connect
from esper_operator.cluster.election import LeaseLost, lead
from esper_operator.cluster.requests import Gone

__all__ = ["Cluster", "Gone", "LeaseLost", "connect", "lead"]
