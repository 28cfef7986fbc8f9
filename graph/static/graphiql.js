"use strict";

// Each tab has one operation, so that the button runs it at once.
const EXAMPLES = [
  `# Every ticker with its newest price.
# To run it, press the button or Ctrl-Enter. The documentation
# (book icon, upper left) lists every type, field and argument.
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
`,
  `# Candles of one day. They may be in a time zone.
query Candles {
  candles(ticker: "btc_usd", interval: ONE_HOUR, from: "FROM", timeZone: "Europe/Berlin", includeOpen: true) {
    ts
    open
    high
    low
    close
    complete
  }
}
`,
  `# How many minutes of a window are stored, and why others are not.
query Coverage {
  coverage(ticker: "btc_usd", from: "FROM") {
    expected
    stored
    missing
    gaps(first: 10) {
      nodes {
        from
        to
        reason
        state
      }
    }
  }
}
`,
  `# The price that was known at an instant, as a back-test needs it.
query PriceAt {
  priceAt(ticker: "btc_usd", at: "AT") {
    price
    time
    observedAt
    source
  }
}
`,
  `# Each price when it is stored. The button stops it, too.
subscription Prices {
  priceAdded {
    ticker
    time
    price
  }
}
`,
].map((text) => text.replace("FROM", before(86_400)).replace("AT", before(300)));

/** Returns the instant so many seconds ago: `2026-11-27T12:00:00Z`. */
function before(seconds) {
  return `${new Date(Date.now() - seconds * 1_000).toISOString().slice(0, 19)}Z`;
}

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
  return selected?.operation === "subscription" ? subscribe(params, options.headers) : explainKey(execute(params, options));
}

/** Says where a key is entered, if the API requires one. */
async function explainKey(response) {
  const result = await response;
  const notice = document.getElementById("notice");
  const isRejected = result.errors?.some((error) => error.extensions?.code === "UNAUTHENTICATED") ?? false;
  notice.hidden = !isRejected;
  notice.textContent = isRejected ? 'This API requires a key. Open the "Headers" tab below the query and enter: {"Authorization": "Bearer YOUR_KEY"}' : "";
  return result;
}

// The URL may contain a query, in its query string or in its fragment. The page updates the URL while the user types.
const MAX_URL_LENGTH = 8000;
const search = new URLSearchParams(window.location.search);
const hash = decoded(window.location.hash.slice(1)) || undefined;

const linked = search.get("query") ?? hash;

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
    ...(linked === undefined ? { defaultTabs: EXAMPLES.map((query) => ({ query })) } : { query: linked }),
    variables: search.get("variables") ?? undefined,
    operationName: search.get("operationName") ?? undefined,
    onEditQuery: (text) => updateUrl("query", text),
    onEditVariables: (text) => updateUrl("variables", text),
    onEditOperationName: (name) => updateUrl("operationName", name),
    defaultEditorToolsVisibility: "variables",
  }),
);

// The editors have no labels of their own.
const LABELS = { "graphiql-query-editor": "Query", "graphiql-editor-tool": "Variables or headers", "result-window": "Response" };

new MutationObserver(() => {
  for (const [name, label] of Object.entries(LABELS)) {
    for (const editor of document.querySelectorAll(`.${name}`)) {
      for (const field of editor.querySelectorAll("textarea:not([aria-label])")) field.setAttribute("aria-label", label);
      for (const region of editor.querySelectorAll('.CodeMirror-scroll[tabindex="-1"]')) region.tabIndex = 0;
    }
  }
}).observe(document.getElementById("graphiql"), { childList: true, subtree: true });
