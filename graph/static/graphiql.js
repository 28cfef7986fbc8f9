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
