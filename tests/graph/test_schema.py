"""graph/schema.graphql equals the schema of the code, describes every part, and has the agreed query fields."""

from graphql import GraphQLEnumType, GraphQLInputObjectType, GraphQLInterfaceType, GraphQLObjectType, build_schema

from graph.schema.executable import Schema
from tests.conftest import ROOT

SCHEMA_FILE = ROOT / "graph" / "schema.graphql"


def test_the_schema_file_is_up_to_date() -> None:
    assert f"{Schema().as_str()}\n" == SCHEMA_FILE.read_text(), (
        "graph/schema.graphql differs from the code. If the change is intended, run `make schema`"
    )


def test_everything_in_the_schema_is_described() -> None:
    missing = []
    for name, kind in build_schema(SCHEMA_FILE.read_text()).type_map.items():
        if name.startswith("__") or name in ("String", "Int", "Boolean", "ID", "Float"):
            continue
        if not kind.description:
            missing.append(name)
        if isinstance(kind, GraphQLEnumType):
            missing += [f"{name}.{value}" for value, one in kind.values.items() if not one.description]
        if isinstance(kind, GraphQLObjectType | GraphQLInterfaceType | GraphQLInputObjectType):
            missing += [f"{name}.{field}" for field, one in kind.fields.items() if not one.description]
        if isinstance(kind, GraphQLObjectType | GraphQLInterfaceType):
            missing += [
                f"{name}.{field}({argument}:)"
                for field, definition in kind.fields.items()
                for argument, argument_definition in definition.args.items()
                if not argument_definition.description
            ]
    assert missing == []


def test_query_fields_have_the_agreed_signatures() -> None:
    fields = build_schema(SCHEMA_FILE.read_text()).type_map["Query"]
    assert isinstance(fields, GraphQLObjectType)
    signatures = {
        name: (", ".join(f"{argument}: {definition.type}" for argument, definition in field.args.items()), str(field.type))
        for name, field in fields.fields.items()
    }
    assert signatures == {
        "dataVersion": ("", "ID!"),
        "tickers": ("", "[Ticker!]!"),
        "ticker": ("name: String!", "Ticker"),
        "alerts": ("", "[Alert!]!"),
        "latest": ("ticker: String!, asOf: ID", "Price"),
        "latestPrices": ("tickers: [String!]", "[Price!]!"),
        "prices": (
            (
                "ticker: String!, from: UnixTime, to: UnixTime, order: Order!, "
                "first: Int, after: String, last: Int, before: String, asOf: ID"
            ),
            "PriceConnection!",
        ),
        "range": ("ticker: String!, from: UnixTime!, to: UnixTime, order: Order!, asOf: ID", "[Price!]!"),
        "candles": (
            (
                "ticker: String!, interval: Interval!, from: UnixTime!, to: UnixTime, basis: Basis!, "
                "includeOpen: Boolean!, includeEmpty: Boolean!, asOf: ID, timeZone: String!, weekStart: WeekStart!, "
                "dayStart: String!"
            ),
            "[Candle!]!",
        ),
        "summary": ("ticker: String!, from: UnixTime!, to: UnixTime, asOf: ID", "Summary"),
        "series": ("ticker: String!, from: UnixTime!, to: UnixTime, asOf: ID, maxPoints: Int", "Series!"),
        "pricesAt": ("ticker: String!, at: [UnixTime!]!, maxAge: Int!, asOf: ID", "[Price]!"),
        "digests": ("ticker: String!, from: UnixTime!, to: UnixTime", "[DayDigest!]!"),
        "deliveryPrice": ("ticker: String!, date: UnixTime!", "DeliveryPrice"),
        "workers": ("", "WorkerReport"),
        "touched": ("ticker: String!, price: Decimal!, from: UnixTime!, to: UnixTime", "Touch!"),
        "coverage": ("ticker: String!, from: UnixTime!, to: UnixTime, asOf: ID", "Coverage!"),
        "priceAt": ("ticker: String!, at: UnixTime!, maxAge: Int!, asOf: ID", "Price"),
    }
