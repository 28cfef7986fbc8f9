"""What a client accepts, by RFC 9110: media types with their q-values."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

GRAPHQL: Final = "application/graphql-response+json"
JSON: Final = "application/json"
HTML: Final = "text/html"
EVENTS: Final = "text/event-stream"

EXACTLY: Final = 3


@dataclass(frozen=True)
class Range:
    """One member of an Accept header."""

    type: str
    charset: str
    q: float

    def matches(self, media: str) -> int:
        """How closely it names the media type: 3 exactly, 2 by its group, 1 by `*/*`, 0 not at all."""
        if self.charset not in ("", "utf-8", "utf8"):
            return 0
        if self.type == media:
            return EXACTLY
        if self.type == f"{media.partition('/')[0]}/*":
            return 2
        return 1 if self.type == "*/*" else 0


@lru_cache(512)
def answer_type(header: str) -> str | None:
    """What a GraphQL answer is sent as; None where the client accepts neither.

    GRAPHQL for who names it and likes nothing better; JSON for who takes anything, as older clients do.
    """
    ranges = _ranges(header)
    if not ranges:
        return JSON
    graphql, json = _liking(GRAPHQL, ranges), _liking(JSON, ranges)
    names_it = any(one.matches(GRAPHQL) == EXACTLY for one in ranges)
    if graphql > 0 and graphql >= json and (names_it or graphql > json):
        return GRAPHQL
    return JSON if json > 0 else None


@lru_cache(512)
def wants_page(header: str) -> bool:
    """Whether a person with a browser asks: text/html is named, and liked no less than an answer."""
    ranges = _ranges(header)
    html = _liking(HTML, ranges) if any(one.matches(HTML) == EXACTLY for one in ranges) else 0.0
    return html > 0 and html >= max(_liking(GRAPHQL, ranges), _liking(JSON, ranges))


@lru_cache(512)
def takes_events(header: str) -> bool:
    """Whether a client names server-sent events among what it takes."""
    return any(one.q > 0 and one.matches(EVENTS) == EXACTLY for one in _ranges(header))


def _ranges(header: str) -> list[Range]:
    return [_range(member) for member in header.split(",") if member.strip()]


def _liking(media: str, ranges: list[Range]) -> float:
    closest = max(ranges, key=lambda one: one.matches(media))
    return closest.q if closest.matches(media) else 0.0


def _range(member: str) -> Range:
    media, _, parameters = member.partition(";")
    given = parameters_of(parameters)
    try:
        q = min(1.0, max(0.0, float(given.get("q", "1"))))
    except ValueError:
        q = 0.0
    return Range(media.strip().lower(), given.get("charset", ""), q)


def parameters_of(text: str) -> dict[str, str]:
    """What stands behind a media type, in lower case: `; charset=UTF-8; q=0.5`."""
    pairs = (one.partition("=") for one in text.lower().split(";"))
    return {name.strip(): value.strip().strip('"') for name, _, value in pairs}
