"""Names of queues and actors: what a message is addressed to, whoever sends it."""

from enum import StrEnum


class Queue(StrEnum):
    """A queue in Redis."""

    COLLECT = "collect"
    RECONCILE = "reconcile"


class Actor(StrEnum):
    """An actor that takes messages."""

    COLLECT = "collect"
    RECONCILE = "reconcile"
