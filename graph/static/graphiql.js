"use strict";

const EXAMPLE = `# Every ticker with its newest price.
# Run it: the button, or Ctrl-Enter.
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

# The book at the upper left explains
# every type, field and argument.
`;

// An address may bring a query behind its #.
const query = window.location.hash ? decodeURIComponent(window.location.hash.slice(1)) : undefined;
const fetcher = GraphiQL.createFetcher({ url: window.location.pathname });
ReactDOM.createRoot(document.getElementById("graphiql")).render(
  React.createElement(GraphiQL, { fetcher, query, defaultQuery: EXAMPLE, defaultEditorToolsVisibility: "variables" }),
);
