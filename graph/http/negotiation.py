"""Content negotiation: the Accept header with its q-values (RFC 9110)."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

GRAPHQL: Final = "application/graphql-response+json"
JSON: Final = "application/json"
HTML: Final = "text/html"
EVENT_STREAM: Final = "text/event-stream"

EXACT: Final = 3


@dataclass(frozen=True)
class MediaRange:
    """One media range of an Accept header."""

    type: str
    charset: str
    q: float

    def specificity(self, media: str) -> int:
        """Returns how specifically the range matches a media type: 3 exact, 2 `type/*`, 1 `*/*`, 0 no match."""
        if self.charset not in ("", "utf-8", "utf8"):
            return 0
        if self.type == media:
            return EXACT
        if self.type == f"{media.partition('/')[0]}/*":
            return 2
        return 1 if self.type == "*/*" else 0


@lru_cache(512)
def response_media_type(header: str) -> str | None:
    """Returns the media type of a GraphQL response; None if the client accepts neither GRAPHQL nor JSON.

    GRAPHQL if the client names it and does not prefer JSON. JSON also without a header and for `*/*`, which older clients send.
    """
    ranges = _parse_accept(header)
    if not ranges:
        return JSON
    graphql, json = _quality(GRAPHQL, ranges), _quality(JSON, ranges)
    is_named = any(media_range.specificity(GRAPHQL) == EXACT for media_range in ranges)
    if graphql > 0 and graphql >= json and (is_named or graphql > json):
        return GRAPHQL
    return JSON if json > 0 else None


@lru_cache(512)
def prefers_html(header: str) -> bool:
    """Whether the client is a browser: it names text/html with at least the quality of the GraphQL media types."""
    ranges = _parse_accept(header)
    html = _quality(HTML, ranges) if any(media_range.specificity(HTML) == EXACT for media_range in ranges) else 0.0
    return html > 0 and html >= max(_quality(GRAPHQL, ranges), _quality(JSON, ranges))


@lru_cache(512)
def accepts_sse(header: str) -> bool:
    """Whether the client explicitly accepts server-sent events."""
    return any(media_range.q > 0 and media_range.specificity(EVENT_STREAM) == EXACT for media_range in _parse_accept(header))


def _parse_accept(header: str) -> list[MediaRange]:
    return [_parse_media_range(member) for member in header.split(",") if member.strip()]


def _quality(media: str, ranges: list[MediaRange]) -> float:
    closest = max(ranges, key=lambda media_range: media_range.specificity(media))
    return closest.q if closest.specificity(media) else 0.0


def _parse_media_range(member: str) -> MediaRange:
    media, _, parameters = member.partition(";")
    parameter_values = parse_media_parameters(parameters)
    try:
        q = min(1.0, max(0.0, float(parameter_values.get("q", "1"))))
    except ValueError:
        q = 0.0
    return MediaRange(media.strip().lower(), parameter_values.get("charset", ""), q)


def parse_media_parameters(text: str) -> dict[str, str]:
    """Parses the parameters of a media type, such as `charset=UTF-8; q=0.5`, in lower case."""
    pairs = (parameter.partition("=") for parameter in text.lower().split(";"))
    return {name.strip(): value.strip().strip('"') for name, _, value in pairs}
