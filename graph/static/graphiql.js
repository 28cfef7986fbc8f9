"use strict";

const EXAMPLE = `# Every ticker with its newest price. Run it with the button, or Ctrl-Enter.
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

# The minutes of the last hour and more: prices(ticker: "btc_usd", first: 60) { nodes { time price } }
# All types and fields are explained in the documentation, the book at the upper left.
`;

const fetcher = GraphiQL.createFetcher({ url: window.location.pathname });
ReactDOM.createRoot(document.getElementById("graphiql")).render(
  React.createElement(GraphiQL, { fetcher, defaultQuery: EXAMPLE, defaultEditorToolsVisibility: "variables" }),
);
