"""Documents that differ only in literals share one entry of the document cache, and no others do."""

import json

import pytest
from graphql import GraphQLError, Lexer, Source, Token, TokenKind
from hypothesis import assume, example, given
from hypothesis import strategies as st

from graph.engine import literals
from graph.engine.documents import NO_LITERALS, Document
from graph.schema.executable import Schema

SCHEMA = Schema()


def _cache(text: str) -> None:
    SCHEMA.documents.validate_and_cache(Document(text, SCHEMA.field_rules))


def _tokens(text: str) -> list[Token]:
    lexer, found = Lexer(Source(text)), []
    while (token := lexer.advance()).kind is not TokenKind.EOF:
        found.append(token)
    return found


PIECES = ["1", "-0", "42", '"a b"', '""', '"', "1.5", "1e3", "007", "a1", "-", "...", "{", "(", ":", " ", "\n", "$", "@x", "é"]


@given(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map("".join), st.integers(0, 99), st.text("ab 1{", max_size=4)
)
@example('a"b"1c"', 1, "x")
@example("1.5 1e3 -0 007 a1 1a -a ...1", 1, "x")
@example('"""b"""', 1, "x")
def test_texts_with_one_template_have_the_same_tokens(text: str, number: int, string: str) -> None:
    found = literals.split(text)
    assume(found is not None and found[1])
    assert found is not None
    template, values = found
    pieces = template.split("\0")[:-1]
    others = [json.dumps(string) if isinstance(value, str) else str(number) for value in values]
    other_text = "".join(piece + other for piece, other in zip(pieces, [*others, ""], strict=True))
    split_again = literals.split(other_text)
    assume(split_again is not None)  # a string before a stray quote may become a block string
    assert split_again is not None
    assert split_again[0] == template
    try:
        tokens = _tokens(text)
    except GraphQLError:
        with pytest.raises(GraphQLError):
            _tokens(other_text)
        return
    other_tokens = _tokens(other_text)
    assert [token.kind for token in tokens] == [token.kind for token in other_tokens]
    literal_kinds = (TokenKind.INT, TokenKind.STRING)
    spans = {(token.start, token.end) for token in tokens if token.kind in literal_kinds}
    assert spans.issuperset(literals.spans(text))
    rest = [[token.value for token in part if token.kind not in literal_kinds] for part in (tokens, other_tokens)]
    assert rest[0] == rest[1]


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ('{ latest(ticker: "btc_usd") { ts } }', '{ latest(ticker: "") { ts } }'),
        ('{ range(ticker: "a", from: 60, to: 120) { ts } }', '{ range(ticker: "b c {", from: 0, to: 4102444800) { ts } }'),
        ('{ latestPrices(tickers: ["a", "b"]) { ts } }', '{ latestPrices(tickers: ["c", "d"]) { ts } }'),
        ('{ latestPrices(tickers: "a") { ts } }', '{ latestPrices(tickers: "b") { ts } }'),
        (
            '{ ...F } fragment F on Query { latest(ticker: "a") { ts } }',
            '{ ...F } fragment F on Query { latest(ticker: "b") { ts } }',
        ),
        ('query ($n: Int) { prices(ticker: "a", first: $n) { nodes { ts } } }',) * 2,
        ('{ __type(name: "Price") { name } }', '{ __type(name: "Query") { name } }'),
        ('{ tickers { name } coverage(ticker: "a", from: 60) { missing } }',) * 2,
    ],
)
def test_documents_that_differ_in_literal_arguments_share_an_entry(text: str, other: str) -> None:
    _cache(text)
    found, found_other = SCHEMA.documents.get(text), SCHEMA.documents.get(other)
    assert found is not None
    assert found_other is not None
    assert found[0] is found_other[0]
    values = literals.split(other)
    assert values is not None
    assert list(found_other[1].raw.values()) == values[1]


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ('query ($n: Int = 5) { prices(ticker: "a", first: $n) { nodes { ts } } }', "5"),  # a default value
        ('{ latest(ticker: "a") @include(if: true) { ts } latest(ticker: "a") { price } }', '"a"'),  # fields that are merged
        ('query A { latest(ticker: "a") { ts } } query B { latest(ticker: "b") { ts } }', '"b"'),  # two operations
        ('{ latest(ticker: "a\\u0062") { ts } }', '"'),
        ('{ latest(ticker: """a""") { ts } }', '"a"'),
        ('{ latest(ticker: "a") { ts } } # "b"', '"b"'),
    ],
)
def test_other_documents_are_cached_by_their_whole_text(text: str, other: str) -> None:
    _cache(text)
    found = SCHEMA.documents.get(text)
    assert found is not None
    assert found[1] == NO_LITERALS
    assert SCHEMA.documents.get(text.replace(other, '"zzz"' if '"' in other else "77", 1)) is None


def test_a_text_that_looks_like_a_template_is_not_taken_for_it() -> None:
    text = '{ latest(ticker: "btc_usd") { ts } }'
    _cache(text)
    found = literals.split(text)
    assert found is not None
    assert SCHEMA.documents.get(text) is not None
    assert SCHEMA.documents.get(found[0]) is None


@pytest.mark.parametrize(
    "text",
    [
        '{ range(ticker: "a", from: "yesterday", to: 120) { ts } }',
        '{ range(ticker: "a", from: -60, to: 120) { ts } }',
        '{ prices(ticker: "a", first: 3000000000) { nodes { ts } } }',
        '{ prices(ticker: "a", first: 99999999999999999999) { nodes { ts } } }',
    ],
)
def test_a_literal_that_is_invalid_for_its_argument_is_validated_again(text: str) -> None:
    _cache('{ range(ticker: "a", from: 60, to: 120) { ts } }')
    _cache('{ range(ticker: "a", from: "2024-01-01", to: 120) { ts } }')
    _cache('{ prices(ticker: "a", first: 3) { nodes { ts } } }')
    assert SCHEMA.documents.get(text) is None
