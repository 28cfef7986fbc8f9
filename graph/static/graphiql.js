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

/** Returns the events of a subscription as an observable, which GraphiQL's stop button unsubscribes. */
function subscribe(params, headers) {
  return {
    subscribe(observer) {
      const client = graphqlSse.createClient({ url, headers, retryAttempts: 0 });
      const unsubscribe = client.subscribe(params, {
        next: (result) => observer.next(result),
        complete: () => observer.complete(),
        error: async (error) => {
          // The response to a rejected request contains the errors.
          if (!(error instanceof graphqlSse.NetworkError) || !error.response) return observer.error(error);
          observer.next(await error.response.json());
          observer.complete();
        },
      });
      return { unsubscribe };
    },
  };
}

function fetcher(params, options) {
  const operations = options?.documentAST?.definitions.filter((definition) => definition.kind === "OperationDefinition") ?? [];
  const selected = params.operationName ? operations.find((operation) => operation.name?.value === params.operationName) : operations[0];
  return selected?.operation === "subscription" ? subscribe(params, options.headers) : execute(params, options);
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
