// Composes the subgraph with a second one, and runs a query through Apollo Gateway: node federation.js URL QUERY
import { ApolloGateway, LocalGraphQLDataSource, RemoteGraphQLDataSource } from "@apollo/gateway";
import { composeServices } from "@apollo/composition";
import { buildSchema, parse, validate } from "graphql";

const [url, query] = process.argv.slice(2);
const positionsSdl = `
  extend schema @link(url: "https://specs.apollo.dev/federation/v2.3", import: ["@key", "@shareable"])
  type Query { positions: [Position!]! }
  type Position { size: Int!, ticker: Ticker }
  type Ticker @key(fields: "name", resolvable: false) { name: String! }
  type PageInfo @shareable { hasNextPage: Boolean! }
`;
const positions = [["btc_usd", 3], ["nobody_usd", 2], ["eth_usd", 1]].map(([name, size]) => ({ size, ticker: { name } }));

class Positions extends LocalGraphQLDataSource {
  async process() {
    const withTypes = positions.map(({ size, ticker }) => ({ size, ticker: { __typename: "Ticker", ...ticker } }));
    return { data: { positions: withTypes } };
  }
}

async function readSdl() {
  const body = JSON.stringify({ query: "{ _service { sdl } }" });
  const response = await fetch(url, { method: "POST", body, headers: { "content-type": "application/json" } });
  return (await response.json()).data._service.sdl;
}

const services = [
  { name: "tickgraph", url, typeDefs: parse(await readSdl()) },
  { name: "positions", url: "http://localhost/positions", typeDefs: parse(positionsSdl) },
];
const composed = composeServices(services);
console.log(JSON.stringify({ errors: (composed.errors ?? []).map(String), hints: (composed.hints ?? []).length }));
const requests = [];
const gateway = new ApolloGateway({
  supergraphSdl: composed.supergraphSdl,
  buildService: ({ name }) =>
    name === "positions"
      ? new Positions(buildSchema("type Query { positions: [Int] }"))
      : new RemoteGraphQLDataSource({ url, willSendRequest: ({ request }) => requests.push(request.query) }),
});
const { schema, executor } = await gateway.load();
const document = parse(query);
const problems = validate(schema, document).map(String);
const result = await executor({
  document, operationName: null, queryHash: "1", context: {}, overallCachePolicy: {}, metrics: {},
  request: { query, variables: {} }, logger: console, schema, source: query,
  cache: { get: async () => undefined, set: async () => {}, delete: async () => true },
});
console.log(JSON.stringify({ problems, result, requests: requests.length }));
await gateway.stop();
