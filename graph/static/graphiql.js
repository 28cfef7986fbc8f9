"use strict";

const EXAMPLE = `# Every ticker with its newest price.
# To run it, press the button or Ctrl-Enter.
query Tickers {
  tickers {
    name
    stale
    latest {
      price
      time
      observedAt
    }
  }
}

# Each price when it is stored.
subscription Prices {
  priceAdded {
    ticker
    time
    price
  }
}

# The documentation (book icon, upper left)
# lists every type, field and argument.
`;

const url = window.location.pathname;
const execute = GraphiQL.createFetcher({ url });

/** Yields the events of a subscription. A rejected request yields the errors in its response. */
async function* events(params, headers) {
  try {
    yield* graphqlSse.createClient({ url, headers, retryAttempts: 0 }).iterate(params);
  } catch (error) {
    if (!(error instanceof graphqlSse.NetworkError) || !error.response) throw error;
    yield await error.response.json();
  }
}

function fetcher(params, options) {
  const operations = options?.documentAST?.definitions.filter((definition) => definition.kind === "OperationDefinition") ?? [];
  const selected = params.operationName ? operations.find((operation) => operation.name?.value === params.operationName) : operations[0];
  return selected?.operation === "subscription" ? events(params, options.headers) : execute(params, options);
}

// The URL may contain a query, in its query string or in its fragment. The page updates the URL while the user types.
const MAX_URL_LENGTH = 8000;
const search = new URLSearchParams(window.location.search);
const hash = decoded(window.location.hash.slice(1)) || undefined;

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a % that is not part of an encoded character
  }
}

function updateUrl(name, text) {
  if (text) search.set(name, text);
  else search.delete(name);
  const address = `${url}?${search}`;
  window.history.replaceState(null, "", address.length <= MAX_URL_LENGTH ? address : url);
}

ReactDOM.createRoot(document.getElementById("graphiql")).render(
  React.createElement(GraphiQL, {
    fetcher,
    query: search.get("query") ?? hash,
    variables: search.get("variables") ?? undefined,
    operationName: search.get("operationName") ?? undefined,
    onEditQuery: (text) => updateUrl("query", text),
    onEditVariables: (text) => updateUrl("variables", text),
    onEditOperationName: (name) => updateUrl("operationName", name),
    defaultQuery: EXAMPLE,
    defaultEditorToolsVisibility: "variables",
  }),
);
