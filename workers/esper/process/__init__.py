"""What every process of an installation shares: settings, preflight, health and metrics, logs, signals."""

from esper.process.preflight import Part, PartsMissing, preflight, writable
from esper.process.process import NotReady, Process
from esper.process.settings import ProcessSettings
from esper.process.status import Look, StatusServer
from esper.process.stopping import Stopping
from esper.settings import load_settings

__all__ = [
    "Look",
    "NotReady",
    "Part",
    "PartsMissing",
    "Process",
    "ProcessSettings",
    "StatusServer",
    "Stopping",
    "load_settings",
    "preflight",
    "writable",
]
