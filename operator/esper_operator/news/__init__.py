"""The only place that listens to the message bus."""

from esper_operator.news.listening import Listener

__all__ = ["Listener"]
