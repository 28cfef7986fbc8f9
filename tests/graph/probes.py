"""Hostile requests to a GraphQL endpoint, each with its expected outcome.

They come from graphql-cop, graphql-armor, the OWASP GraphQL cheat sheet, and failures of other servers. An outcome is the
error's code, `data`, an HTTP status, or `closed CODE` for a WebSocket. A vertical bar separates
alternatives.
"""

import gzip
import json
import zlib
from dataclasses import dataclass, field
from typing import Any

from graphql import get_introspection_query

from tests.sample_data import START_TS

KIB = 1024
GET_GRAPHQL = "/graphql?query=%7B__typename%7D"
JSON_TYPE = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class HttpProbe:
    """One HTTP request."""

    expected: str
    body: bytes | None = None
    method: str = "POST"
    path: str = "/graphql"
    headers: dict[str, str] = field(default_factory=lambda: JSON_TYPE)


@dataclass(frozen=True)
class RawProbe:
    """Bytes over a bare TCP socket; `sends_eof` if the client then ends its side of the connection."""

    expected: str
    parts: tuple[bytes, ...]
    sends_eof: bool = False


@dataclass(frozen=True)
class SocketProbe:
    """Messages over a WebSocket; `sends_init` if the client sends connection_init first."""

    expected: str
    messages: tuple[str | bytes, ...]
    sends_init: bool = True
    protocols: tuple[str, ...] = ("graphql-transport-ws",)
    headers: dict[str, str] = field(default_factory=dict)


Probe = HttpProbe | RawProbe | SocketProbe


def _post(expected: str, query: Any, **members: Any) -> HttpProbe:
    return HttpProbe(expected, json.dumps({"query": query} | members).encode())


def _post_variables(expected: str, query: str, **variables: Any) -> HttpProbe:
    return _post(expected, query, variables=variables)


def _aliases(count: int) -> str:
    return "{ " + " ".join(f"a{i}: __typename" for i in range(count)) + " }"


def _doubling(levels: int) -> str:
    chain = " ".join(f"fragment f{i} on Query {{ ...f{i + 1} ...f{i + 1} }}" for i in range(levels))
    return f"{{ ...f0 }} {chain} fragment f{levels} on Query {{ __typename }}"


def _overlapping(count: int) -> str:
    return "{ tickers { " + " ".join(f"... on Ticker {{ name b{i}: since }}" for i in range(count)) + " } }"


PARSE, INVALID, COMPLEX = "GRAPHQL_PARSE_FAILED", "GRAPHQL_VALIDATION_FAILED", "QUERY_TOO_COMPLEX"
BAD_INPUT, BAD_REQUEST, LARGE = "BAD_USER_INPUT", "BAD_REQUEST", "PAYLOAD_TOO_LARGE"

DOCUMENTS: dict[str, Probe] = {
    "100 aliases": _post(COMPLEX, _aliases(100)),
    "1,000 aliases": _post(f"{PARSE}|{COMPLEX}", _aliases(1_000)),
    "20,000 aliases": _post(f"{COMPLEX}|{LARGE}", _aliases(20_000)),
    "aliases of a mutation": _post(COMPLEX, "mutation { " + " ".join(f"a{i}: fetchPrices {{ ts }}" for i in range(21)) + " }"),
    "600 copies of a field": _post(COMPLEX, "{ " + "__typename " * 600 + "}"),
    "3,000 copies of a field": _post(COMPLEX, "{ " + "__typename " * 3_000 + "}"),
    "20,000 copies of a field": _post(COMPLEX, "{ " + "a " * 20_000 + "}"),
    "20 copies of a field at the root": _post("data", "{ " + "__typename " * 20 + "}"),
    "10 unknown directives": _post(INVALID, "{ __typename " + "@aa " * 10 + "}"),
    "500 unknown directives": _post(COMPLEX, "{ __typename " + "@aa " * 500 + "}"),
    "100 known directives": _post(COMPLEX, "{ __typename " + "@skip(if: false) " * 100 + "}"),
    "a directive twice": _post(INVALID, "{ __typename @skip(if: false) @skip(if: false) }"),
    "directives on the operation": _post(COMPLEX, "query " + "@aa " * 100 + "{ __typename }"),
    "directives on variables": _post(COMPLEX, "query (" + " ".join(f"$v{i}: Int @a @b" for i in range(60)) + ") { __typename }"),
    "defer": _post(INVALID, "{ ... @defer { __typename } }"),
    "stream": _post(INVALID, "{ tickers @stream { name } }"),
    "12 levels": _post(COMPLEX, "{ a " * 12 + "}" * 12),
    "900 levels": _post(f"{COMPLEX}|{PARSE}", "{ a " * 900 + "}" * 900),
    "5,000 levels": _post(COMPLEX, "{ a " * 5_000 + "}" * 5_000),
    "endless braces": _post(COMPLEX, "{" * 100_000),
    "endless brackets": _post(COMPLEX, "{ a(b: " + "[" * 100_000),
    "endless objects": _post(COMPLEX, "{ a(b: " + "{a:" * 50_000),
    "endless parentheses": _post(COMPLEX, "{ a" + "(" * 100_000),
    "endless list types": _post(COMPLEX, "query ($a: " + "[" * 100_000 + ") { a }"),
    "lists 900 levels deep": _post(f"{PARSE}|{INVALID}", "{ latestPrices(tickers: " + "[" * 900 + "]" * 900 + ") { ts } }"),
    "list types 900 levels deep": _post(f"{PARSE}|{INVALID}", "query ($a: " + "[" * 900 + "Int" + "]" * 900 + ") { __typename }"),
    "inline fragments 600 levels deep": _post(f"{COMPLEX}|{PARSE}", "{ " + "... { " * 600 + "__typename" + " }" * 601),
    "a fragment that spreads itself": _post(INVALID, "{ ...a } fragment a on Query { ...a }"),
    "cyclic fragments": _post(INVALID, "{ ...a } fragment a on Query { ...b __typename } fragment b on Query { ...a }"),
    "fragments that double 10 times": _post(COMPLEX, _doubling(10)),
    "fragments that double 40 times": _post(COMPLEX, _doubling(40)),
    "60 fragments": _post(COMPLEX, "{ __typename } " + " ".join(f"fragment f{i} on Query {{ __typename }}" for i in range(60))),
    "an unused fragment": _post(INVALID, "{ __typename } fragment f on Query { __typename }"),
    "a fragment on an unknown type": _post(INVALID, "{ ... on Nothing { a } }"),
    "60 operations": _post(COMPLEX, " ".join(f"query q{i} {{ __typename }}" for i in range(60)), operationName="q1"),
    "two operations without an operation name": _post(INVALID, "query a { __typename } query b { __typename }"),
    "two operations of one name": _post(INVALID, "query a { __typename } query a { __typename }", operationName="a"),
    "an unknown operation name": _post(INVALID, "query a { __typename }", operationName="b"),
    "an operation name of 100 KB": _post(INVALID, "query a { __typename }", operationName="b" * 100 * KIB),
    "a subscription": _post(INVALID, "subscription { a }"),
    "a type definition": _post(INVALID, "type Query { a: Int }"),
    "60 variables": _post(COMPLEX, "query (" + " ".join(f"$v{i}: Int" for i in range(60)) + ") { __typename }"),
    "15,000 variables": _post(COMPLEX, "query (" + " ".join(f"$v{i}: Int" for i in range(15_000)) + ") { __typename }"),
    "meaningless tokens": _post(COMPLEX, "! " * 100_000),
    "only commas": _post(COMPLEX, "," * 200_000),
    "only white space": _post(COMPLEX, " " * 200_000),
    "a comment of 16 KB": _post("data", "#" + "x" * 16_000 + "\n{ __typename }"),
    "a name of 16 KB": _post(INVALID, "{ " + "a" * 16_000 + " }"),
    "a string of 16 KB": _post(BAD_INPUT, '{ latest(ticker: "' + "a" * 16_000 + '") { ts } }'),
    "more tokens than allowed": _post(PARSE, "{ " + "a " * 2_500 + "}"),
    "endless brackets, 16 KB": _post(PARSE, "{ a(b: " + "[" * 16_000),
    "meaningless tokens, 16 KB": _post(PARSE, "! " * 8_000),
    "only white space, 16 KB": _post(PARSE, " " * 16_000),
    "copies of a field inside copies": _post(COMPLEX, "{ " + 'latest(ticker: "a") { price ts } ' * 120 + "}"),
    "a comment of 200 KB": _post(COMPLEX, "#" + "x" * 200 * KIB + "\n{ __typename }"),
    "a name of 200 KB": _post(COMPLEX, "{ " + "a" * 200 * KIB + " }"),
    "a string of 200 KB": _post(COMPLEX, '{ latest(ticker: "' + "a" * 200 * KIB + '") { ts } }'),
    "an unterminated block string": _post(PARSE, '{ latest(ticker: """' + "a" * 1_000),
    "endless quotes": _post(COMPLEX, '"' * 50_000),
    "a lone surrogate as an escape": _post(f"{PARSE}|{BAD_INPUT}", '{ latest(ticker: "\\uD800") { ts } }'),
    "an invalid code point": _post(PARSE, '{ latest(ticker: "\\u{FFFFFFFFFFFFFFFFFFFF}") { ts } }'),
    "a number of 5,000 digits": _post(f"{PARSE}|{BAD_INPUT}|{INVALID}", f'{{ prices(ticker: "btc_usd", first: {"9" * 5_000}) {{ nodes {{ ts }} }} }}'),
    "a time of 5,000 digits": _post(f"{BAD_INPUT}|{INVALID}", f'{{ range(ticker: "btc_usd", from: {"9" * 5_000}) {{ ts }} }}'),
    "a float out of range": _post(f"{BAD_INPUT}|{INVALID}", '{ range(ticker: "btc_usd", from: 1e999999999) { ts } }'),
    "many fields of one name": _post("data", _overlapping(45)),
    "more fields of one name": _post(COMPLEX, _overlapping(200)),
    "conflicting fields of one name": _post(INVALID, '{ a: latest(ticker: "a") { ts } a: latest(ticker: "b") { ts } }'),
    "all of the history": _post("RANGE_TOO_LARGE", '{ range(ticker: "btc_usd", from: 0) { ts } }'),
    "a long window many times": _post(COMPLEX, "{ " + " ".join(f'a{i}: range(ticker: "btc_usd", from: {START_TS}, to: {START_TS + 2_400_000}) {{ ts price }}' for i in range(20)) + " }"),
    "a long window of many fields": _post(COMPLEX, '{ range(ticker: "btc_usd", from: 0, to: 3000000) { ' + " ".join(f"a{i}: price" for i in range(11)) + " } }"),
    "a page of 2 to the 31": _post(f"{INVALID}|{COMPLEX}", '{ prices(ticker: "btc_usd", first: 2147483648) { nodes { ts } } }'),
    "a page of 100,000": _post(BAD_INPUT, '{ prices(ticker: "btc_usd", first: 100000) { nodes { ts } } }'),
    "a page of negative size": _post(BAD_INPUT, '{ prices(ticker: "btc_usd", first: -1) { nodes { ts } } }'),
    "first and last": _post(BAD_INPUT, '{ prices(ticker: "btc_usd", first: 1, last: 1) { nodes { ts } } }'),
    "a cursor of 100 KB": _post_variables(BAD_INPUT, 'query ($a: String) { prices(ticker: "btc_usd", after: $a) { nodes { ts } } }', a="A" * 100 * KIB),
    "a forged cursor": _post_variables(BAD_INPUT, 'query ($a: String) { prices(ticker: "btc_usd", after: $a) { nodes { ts } } }', a="Li4vLi4vZXRjL3Bhc3N3ZA=="),
    "SQL for a ticker": _post(f"{BAD_INPUT}|UNKNOWN_TICKER", """{ latest(ticker: "x'; DROP TABLE price; --") { ts } }"""),
    "30,000 tickers": _post_variables(f"{BAD_INPUT}|{LARGE}", "query ($t: [String!]) { latestPrices(tickers: $t) { ts } }", t=["a_b"] * 30_000),
    "an object for a string": _post_variables(BAD_INPUT, "query ($t: String!) { latest(ticker: $t) { ts } }", t={"$gt": ""}),
    "a list for a string": _post_variables(BAD_INPUT, "query ($t: String!) { latest(ticker: $t) { ts } }", t=["btc_usd"]),
    "a boolean for a time": _post_variables(BAD_INPUT, 'query ($a: UnixTime!) { priceAt(ticker: "btc_usd", at: $a) { ts } }', a=True),
    "an object for a time": _post_variables(BAD_INPUT, 'query ($a: UnixTime!) { priceAt(ticker: "btc_usd", at: $a) { ts } }', a={"a": [1]}),
    "a time before the earliest": _post_variables(BAD_INPUT, 'query ($a: UnixTime!) { priceAt(ticker: "btc_usd", at: $a) { ts } }', a=-(2**62)),
    "a time after the latest": _post_variables(BAD_INPUT, 'query ($a: UnixTime!) { priceAt(ticker: "btc_usd", at: $a) { ts } }', a=2**62),
    "a time of 100 KB": _post_variables(BAD_INPUT, 'query ($a: UnixTime!) { priceAt(ticker: "btc_usd", at: $a) { ts } }', a="2024-01-15T" * 9_000),
    "an age beyond 32 bits": _post_variables(BAD_INPUT, 'query ($a: Int!) { priceAt(ticker: "btc_usd", at: 0, maxAge: $a) { ts } }', a=2**40),
    "variables nested 31 levels": _post_variables(BAD_INPUT, "query ($t: String!) { latest(ticker: $t) { ts } }", t=json.loads("[" * 30 + "]" * 30)),
    "undeclared variables": _post_variables("data", "{ __typename }", **{f"v{i}": i for i in range(5_000)}),
    "a variable that the operation does not declare": _post(INVALID, "{ latest(ticker: $t) { ts } }"),
    "introspection of common tools": _post("data", get_introspection_query()),
    "introspection under 21 aliases": _post(COMPLEX, "{ " + " ".join(f"a{i}: __schema {{ types {{ fields {{ type {{ fields {{ type {{ fields {{ type {{ name }} }} }} }} }} }} }} }}" for i in range(21)) + " }"),
    "cyclic introspection": _post(f"{COMPLEX}|{INVALID}", "{ __schema { types { " + "fields { type { " * 12 + "name" + " } }" * 12 + " } } }"),
    "a type's name of 100 KB": _post(COMPLEX, '{ __type(name: "' + "a" * 100 * KIB + '") { name } }'),
    "introspection together with data": _post("data", "{ __schema { queryType { name } } tickers { name } }"),
    "a mutation without the queue": _post("UNAVAILABLE|data", "mutation { fetchPrices { queued } }"),
    "a query that is a number": _post(BAD_REQUEST, 7),
    "a query that is a list": _post(BAD_REQUEST, ["{ __typename }"]),
    "no query": _post(BAD_REQUEST, None),
    "an empty query": _post(BAD_REQUEST, ""),
    "NUL in the document": _post(PARSE, "{ __typename \0 }"),
    "a right-to-left mark in the document": _post(PARSE, "\u202e{ __typename }"),
    "extensions of a wrong type": _post(BAD_REQUEST, "{ __typename }", extensions=[1]),
    "a persisted query with an invalid digest": _post(BAD_REQUEST, "{ __typename }", extensions={"persistedQuery": {"version": 1, "sha256Hash": "x"}}),
    "an unknown persisted query": _post("PERSISTED_QUERY_NOT_FOUND", None, extensions={"persistedQuery": {"version": 1, "sha256Hash": "0" * 64}}),
    "variables of a wrong type": _post(BAD_REQUEST, "{ __typename }", variables="x"),
    "an operation name of a wrong type": _post(BAD_REQUEST, "{ __typename }", operationName={}),
}  # fmt: skip

BOMB = gzip.compress(b"[" * 64 * KIB * KIB, 9)
DEFLATED = zlib.compress(b" " * 64 * KIB * KIB, 9)

BODIES: dict[str, Probe] = {
    "ten requests in one": HttpProbe(BAD_REQUEST, json.dumps([{"query": "{ __typename }"}] * 10).encode()),
    "5,000 requests in one": HttpProbe(BAD_REQUEST, json.dumps([{"query": "{ __typename }"}] * 5_000).encode()),
    "an empty body": HttpProbe(BAD_REQUEST, b""),
    "null": HttpProbe(BAD_REQUEST, b"null"),
    "a number": HttpProbe(BAD_REQUEST, b"7"),
    "a string": HttpProbe(BAD_REQUEST, b'"{ __typename }"'),
    "true": HttpProbe(BAD_REQUEST, b"true"),
    "half an object": HttpProbe(BAD_REQUEST, b'{"query": "{ __ty'),
    "endless brackets, as JSON": HttpProbe(BAD_REQUEST, b"[" * 200 * KIB),
    "endless objects, as JSON": HttpProbe(BAD_REQUEST, b'{"a":' * 40 * KIB),
    "JSON 100 levels deep": HttpProbe(BAD_REQUEST, b'{"query": "{ __typename }", "variables": {"a": ' + b"[" * 100 + b"]" * 100 + b"}}"),
    "a number of 100,000 digits, as JSON": HttpProbe(BAD_REQUEST, b'{"query": "{ __typename }", "variables": {"a": ' + b"9" * 100_000 + b"}}"),
    "not a number": HttpProbe(BAD_REQUEST, b'{"query": "{ __typename }", "variables": {"a": NaN}}'),
    "invalid UTF-8": HttpProbe(BAD_REQUEST, b'{"query": "\xff\xfe"}'),
    "UTF-16": HttpProbe(BAD_REQUEST, '{"query": "{ __typename }"}'.encode("utf-16")),
    "a byte order mark": HttpProbe(BAD_REQUEST, b"\xef\xbb\xbf" + b'{"query": "{ __typename }"}'),
    "a duplicate key": HttpProbe("data", b'{"query": "{", "query": "{ __typename }"}'),
    "keys of JavaScript prototypes": HttpProbe("data", b'{"query": "{ __typename }", "__proto__": {"a": 1}, "constructor": {}}'),
    "300 KB": HttpProbe(LARGE, b'{"query": "' + b" " * 300 * KIB + b'{ __typename }"}'),
    "20 MB": HttpProbe(LARGE, b'{"query": "' + b" " * 20 * KIB * KIB + b'"}'),
    "a gzip bomb": HttpProbe(LARGE, BOMB, headers=JSON_TYPE | {"Content-Encoding": "gzip"}),
    "a deflate bomb": HttpProbe(LARGE, DEFLATED, headers=JSON_TYPE | {"Content-Encoding": "deflate"}),
    "invalid gzip": HttpProbe(BAD_REQUEST, b"nothing of the kind", headers=JSON_TYPE | {"Content-Encoding": "gzip"}),
    "gzip in gzip": HttpProbe(BAD_REQUEST, gzip.compress(gzip.compress(b'{"query": "{ __typename }"}')), headers=JSON_TYPE | {"Content-Encoding": "gzip"}),
    "an unsupported encoding": HttpProbe("UNSUPPORTED_MEDIA_TYPE", b"{}", headers=JSON_TYPE | {"Content-Encoding": "br"}),
    "two encodings": HttpProbe("UNSUPPORTED_MEDIA_TYPE", b"{}", headers=JSON_TYPE | {"Content-Encoding": "gzip, gzip"}),
    "a form": HttpProbe("UNSUPPORTED_MEDIA_TYPE", b"query=%7B__typename%7D", headers={"Content-Type": "application/x-www-form-urlencoded"}),
    "a multipart form": HttpProbe("UNSUPPORTED_MEDIA_TYPE", b"--x--", headers={"Content-Type": "multipart/form-data; boundary=x"}),
    "plain text": HttpProbe("UNSUPPORTED_MEDIA_TYPE", b'{"query": "{ __typename }"}', headers={"Content-Type": "text/plain"}),
    "no content type": HttpProbe("UNSUPPORTED_MEDIA_TYPE", b'{"query": "{ __typename }"}', headers={"Content-Type": ""}),
    "a content type of 10 KB": HttpProbe("UNSUPPORTED_MEDIA_TYPE", b"{}", headers={"Content-Type": "a" * 10 * KIB}),
    "an unsupported charset": HttpProbe("UNSUPPORTED_MEDIA_TYPE", b"{}", headers={"Content-Type": "application/json; charset=utf-7"}),
}  # fmt: skip

REQUESTS: dict[str, Probe] = {
    **{f"method {method}": HttpProbe("METHOD_NOT_ALLOWED", b"{}", method=method) for method in ("PUT", "DELETE", "PATCH", "TRACE", "PROPFIND")},
    "a mutation by GET": HttpProbe("METHOD_NOT_ALLOWED", None, "GET", "/graphql?query=mutation%7BfetchPrices%7Bts%7D%7D"),
    "a mutation by HEAD": HttpProbe("405", None, "HEAD", "/graphql?query=mutation%7BfetchPrices%7Bts%7D%7D"),
    "two queries by GET": HttpProbe(BAD_REQUEST, None, "GET", "/graphql?query=%7Ba%7D&query=%7Bb%7D"),
    "variables that are not JSON": HttpProbe(BAD_REQUEST, None, "GET", GET_GRAPHQL + "&variables=%7B"),
    "variables by GET of 100 levels": HttpProbe(BAD_REQUEST, None, "GET", GET_GRAPHQL + "&variables=" + "[" * 100 + "]" * 100),
    "broken percent codes": HttpProbe(PARSE, None, "GET", "/graphql?query=%zz%7B"),
    "a URL of 60 KB": HttpProbe("data", None, "GET", GET_GRAPHQL + "&operationName=&x=" + "a" * 60_000),
    "a query of 60 KB by GET": HttpProbe("QUERY_TOO_COMPLEX", None, "GET", GET_GRAPHQL + "%23" + "a" * 60_000),
    "Accept of 60 KB": HttpProbe("data", None, "GET", GET_GRAPHQL, {"Accept": "a/b;q=0.1, " * 5_000 + "*/*"}),
    "an invalid Accept": HttpProbe("NOT_ACCEPTABLE", None, "GET", GET_GRAPHQL, {"Accept": ";;;q=,,/"}),
    "a request id of 10 KB": HttpProbe("data", None, "GET", GET_GRAPHQL, {"X-Request-ID": "a" * 10 * KIB}),
    "a request id with markup": HttpProbe("data", None, "GET", GET_GRAPHQL, {"X-Request-ID": "<script>alert(1)</script>"}),
    "If-None-Match of 60 KB": HttpProbe("data", None, "GET", GET_GRAPHQL, {"If-None-Match": '"a", ' * 12_000}),
    "cookies of 60 KB": HttpProbe("data", None, "GET", GET_GRAPHQL, {"Cookie": "a=b; " * 12_000}),
    "a foreign Host": HttpProbe("data", None, "GET", GET_GRAPHQL, {"Host": "evil.example"}),
    "a forged client address": HttpProbe("data", None, "GET", GET_GRAPHQL, {"X-Forwarded-For": "127.0.0.1, " * 100, "Forwarded": "for=1.2.3.4"}),
    "Origin null": HttpProbe("data", None, "GET", GET_GRAPHQL, {"Origin": "null"}),
    "an invalid API key": HttpProbe("data", None, "GET", GET_GRAPHQL, {"Authorization": "Bearer " + "a" * 10 * KIB}),
    "an unsupported credential": HttpProbe("data", None, "GET", GET_GRAPHQL, {"Authorization": "Negotiate \xff"}),
    "ranges of bytes": HttpProbe("data", None, "GET", GET_GRAPHQL, {"Range": "bytes=" + ",".join(f"{i}-{i}" for i in range(1_000))}),
    "compression of every kind": HttpProbe("data", None, "GET", GET_GRAPHQL, {"Accept-Encoding": "gzip;q=0, br;q=x, *" * 50}),
    "many rows by REST": HttpProbe(BAD_INPUT, None, "GET", "/prices?ticker=btc_usd&limit=1000000000"),
    "a huge offset by REST": HttpProbe(BAD_INPUT, None, "GET", "/prices?ticker=btc_usd&offset=1000000000000000000000"),
    "a negative offset by REST": HttpProbe(BAD_INPUT, None, "GET", "/prices?ticker=btc_usd&offset=-1"),
    "not a number by REST": HttpProbe(BAD_INPUT, None, "GET", "/prices/range?ticker=btc_usd&from_ts=NaN&to_ts=inf"),
    "a ticker of 60 KB": HttpProbe(BAD_INPUT, None, "GET", "/prices/last?ticker=" + "a" * 60_000),
    "a ticker with NUL": HttpProbe(BAD_INPUT, None, "GET", "/prices/last?ticker=btc%00usd"),
    "a ticker twice": HttpProbe(BAD_INPUT, None, "GET", "/prices/last?ticker=a&ticker=b"),
    "1,000 parameters": HttpProbe(BAD_INPUT, None, "GET", "/prices/last?" + "&".join(f"a{i}={i}" for i in range(1_000))),
    "a path outside of the static files": HttpProbe("NOT_FOUND", None, "GET", "/static/..%2f..%2f..%2fetc%2fpasswd"),
    "a path outside of the static files, encoded twice": HttpProbe("NOT_FOUND", None, "GET", "/static/%252e%252e/%252e%252e/etc/passwd"),
    "the source code of the API": HttpProbe("NOT_FOUND", None, "GET", "/static/..%2fsettings.py"),
    "a path with NUL": HttpProbe("NOT_FOUND", None, "GET", "/static/a%00b"),
    "a path of another host": HttpProbe("NOT_FOUND", None, "GET", "//evil.example/%2f.."),
    "a path of 60 KB": HttpProbe("NOT_FOUND", None, "GET", "/" + "a" * 60_000),
    "another path for GraphiQL": HttpProbe("NOT_FOUND", None, "GET", "/graphiql"),
}  # fmt: skip

HOST = b"Host: x\r\nConnection: close\r\n"
RAW: dict[str, Probe] = {
    "endless headers": RawProbe("431|reset", (b"GET / HTTP/1.1\r\n", b"a: b\r\n" * 200_000)),
    "a header of 10 MB": RawProbe("431|reset", (b"GET / HTTP/1.1\r\nX: ", b"a" * 10_000_000)),
    "a URL of 1 MB": RawProbe("400|431|reset", (b"GET /" + b"a" * 1_000_000, b" HTTP/1.1\r\n" + HOST + b"\r\n")),
    "bytes that are not HTTP": RawProbe("400", (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",)),
    "a negative length": RawProbe("400", (b"POST /graphql HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",)),
    "a length out of range": RawProbe("400", (b"POST /graphql HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999999999999999\r\n\r\n",)),
    "two lengths": RawProbe("400", (b"POST /graphql HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",)),
    "a length and chunks": RawProbe("400", (b"POST /graphql HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",)),
    "a chunk with an invalid size": RawProbe("400", (b"POST /graphql HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",)),
    "an incomplete body": RawProbe("408|504", (b"POST /graphql HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{",)),
    "endless chunks": RawProbe("413|reset", (b"POST /graphql HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 0x10000 + b"\r\n", *((b"10000\r\n" + b" " * 0x10000 + b"\r\n",) * 60))),
    "an upgrade to h2c": RawProbe("200|400", (b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close, upgrade\r\nUpgrade: h2c\r\n\r\n",)),
    "a WebSocket without a key": RawProbe("400|403", (b"GET /graphql HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",)),
}  # fmt: skip

INIT = '{"type": "connection_init"}'


def _subscribe(payload: Any, operation_id: Any = "1") -> str:
    return json.dumps({"type": "subscribe", "id": operation_id, "payload": payload})


SOCKETS: dict[str, Probe] = {
    "no subprotocol": SocketProbe("closed 4406", (), sends_init=False, protocols=()),
    "the old subprotocol": SocketProbe("closed 4406", (), sends_init=False, protocols=("graphql-ws",)),
    "a page of another origin": SocketProbe("403", (), headers={"Origin": "https://evil.example"}),
    "a message of 2 MB": SocketProbe("closed 1009|closed 1006", (_subscribe({"query": "x" * 2 * KIB * KIB}),)),
    "a message of 300 KB": SocketProbe("closed 1009", (_subscribe({"query": "x" * 300 * KIB}),)),
    "a binary message": SocketProbe("closed 4400", (b"\x00\x01",)),
    "a message that is not JSON": SocketProbe("closed 4400", ("{",)),
    "a message that is not an object": SocketProbe("closed 4400", ("[]",)),
    "endless JSON": SocketProbe("closed 4400", ("[" * 100_000,)),
    "an unknown message type": SocketProbe("closed 4400", ('{"type": "start"}',)),
    "a message type that is not a string": SocketProbe("closed 4400", ('{"type": {"a": 1}}',)),
    "an operation before connection_init": SocketProbe("closed 4401", (_subscribe({"query": "{ __typename }"}),), sends_init=False),
    "connection_init twice": SocketProbe("closed 4429", (INIT,)),
    "connection_init with a list": SocketProbe("closed 4400", ('{"type": "connection_init", "payload": []}',), sends_init=False),
    "an operation id twice": SocketProbe("closed 4409", (_subscribe({"query": "subscription { priceAdded { id } }"}),) * 2),
    "an id that is a number": SocketProbe("closed 4400", (_subscribe({"query": "{ __typename }"}, 7),)),
    "no payload": SocketProbe("closed 4400", (_subscribe(None),)),
    "a payload without a query": SocketProbe("closed 4400", (_subscribe({"variables": {}}),)),
    "variables that are a list": SocketProbe("closed 4400", (_subscribe({"query": "{ __typename }", "variables": [1]}),)),
    "an operation's name that is an empty object": SocketProbe("closed 4400", (_subscribe({"query": "{ __typename }", "operationName": {}}),)),
    "variables that are an empty list": SocketProbe("closed 4400", (_subscribe({"query": "{ __typename }", "variables": []}),)),
    "an invalid document": SocketProbe(PARSE, (_subscribe({"query": "{"}),)),
    "1,000 aliases over a socket": SocketProbe(f"{COMPLEX}|{PARSE}", (_subscribe({"query": _aliases(1_000)}),)),
    "deep variables over a socket": SocketProbe("closed 4400", (_subscribe({"query": "{ __typename }", "variables": json.loads('{"a":' * 100 + "1" + "}" * 100)}),)),
    "a subscription to an unknown field": SocketProbe(INVALID, (_subscribe({"query": "subscription { a }"}),)),
    "complete for an unknown operation": SocketProbe("pong", ('{"type": "complete", "id": "never"}', '{"type": "ping"}')),
    "5,000 pings": SocketProbe("pong", ('{"type": "ping", "payload": {"a": "' + "b" * 100 + '"}}',) * 5_000),
}  # fmt: skip

PROBES: dict[str, Probe] = DOCUMENTS | BODIES | REQUESTS | RAW | SOCKETS
