"""The bus on a Pulsar broker. The only place that imports the broker's client."""

from esper.oona.pulsar.bus import PulsarBus, PulsarSubscription
from esper.oona.pulsar.provision import Change, provision
from esper.oona.pulsar.settings import PREFIX, PulsarSettings, load_settings

__all__ = [
    "PREFIX",
    "Change",
    "PulsarBus",
    "PulsarSettings",
    "PulsarSubscription",
    "load_settings",
    "provision",
]
