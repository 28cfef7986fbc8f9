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
const answers = GraphiQL.createFetcher({ url });

/** Yields the events of a subscription from server-sent events. */
async function* events(params, headers) {
  const stopping = new AbortController();
  try {
    const response = await fetch(url, {
      method: "POST",
      headers: { ...headers, "Content-Type": "application/json", Accept: "text/event-stream" },
      body: JSON.stringify(params),
      signal: stopping.signal,
    });
    if (!response.headers.get("Content-Type").startsWith("text/event-stream")) {
      yield await response.json();
      return;
    }
    let text = "";
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const lines = (text + part.value).split("\n");
      text = lines.pop();
      for (const line of lines) if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
    }
  } finally {
    stopping.abort();
  }
}

function fetcher(params, options) {
  const operations = options?.documentAST?.definitions.filter((one) => one.kind === "OperationDefinition") ?? [];
  const asked = params.operationName ? operations.find((one) => one.name?.value === params.operationName) : operations[0];
  return asked?.operation === "subscription" ? events(params, options.headers) : answers(params, options);
}

// The URL may contain a query, in its query string or in its fragment. The page updates the URL while the user types.
const LONGEST = 8000;
const asked = new URLSearchParams(window.location.search);
const hash = decoded(window.location.hash.slice(1)) || undefined;

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a % that is not part of an encoded character
  }
}

function follow(name, text) {
  if (text) asked.set(name, text);
  else asked.delete(name);
  const address = `${url}?${asked}`;
  window.history.replaceState(null, "", address.length <= LONGEST ? address : url);
}

ReactDOM.createRoot(document.getElementById("graphiql")).render(
  React.createElement(GraphiQL, {
    fetcher,
    query: asked.get("query") ?? hash,
    variables: asked.get("variables") ?? undefined,
    operationName: asked.get("operationName") ?? undefined,
    onEditQuery: (text) => follow("query", text),
    onEditVariables: (text) => follow("variables", text),
    onEditOperationName: (name) => follow("operationName", name),
    defaultQuery: EXAMPLE,
    defaultEditorToolsVisibility: "variables",
  }),
);
