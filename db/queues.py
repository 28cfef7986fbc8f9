"""Names of the queues and actors that messages are sent to."""

from enum import StrEnum


class Queue(StrEnum):
    """A queue in Redis."""

    COLLECT = "collect"
    RECONCILE = "reconcile"
    ALERTS = "alerts"


class Actor(StrEnum):
    """An actor that processes messages."""

    COLLECT = "collect"
    RECONCILE = "reconcile"
    ALERTS = "alerts"
