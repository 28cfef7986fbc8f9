"""The state of one request. Middleware and endpoints share it: AccessLogMiddleware creates it, each sets its own member."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from starlette.types import Scope

if TYPE_CHECKING:  # these modules import this one
    from graph.http.admission import Slot
    from graph.http.caller import Caller
    from graph.http.response_cache import InFlightRequest

_KEY: Final = "request_state"


@dataclass(slots=True)
class RequestState:
    """The state of one request."""

    request_id: str
    kind: str = ""
    """Metric label, if it differs from that of the path."""
    slot: "Slot | None" = None
    """The request's slot. A streaming response releases it early."""
    in_flight_request: "InFlightRequest | None" = None
    """The request that the response cache records; None if its response cannot be cached."""
    caller: "Caller" = field(init=False)
    """The client that AdmissionMiddleware identified."""


def create_state(scope: Scope, request_id: str) -> RequestState:
    """Creates the state of a request."""
    state: RequestState = RequestState(request_id)
    scope[_KEY] = state
    return state


def state_of(scope: Scope) -> RequestState:
    """Returns the state of the request."""
    state: RequestState = scope[_KEY]
    return state
