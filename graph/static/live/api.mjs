// Requests to the API.

const NAME = "tickgraph.key";
let key = null;
try {
  key = sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME);
} catch {
  // Without storage, the page asks for the key after each reload.
}

/** Sets the API key: for this tab, or with `isRemembered` for this browser. */
export function setKey(text, isRemembered = false) {
  key = text;
  try {
    for (const storage of [localStorage, sessionStorage]) storage.removeItem(NAME);
    (isRemembered ? localStorage : sessionStorage).setItem(NAME, text);
  } catch {
    // Without storage, the key is valid until the next reload.
  }
}

export function hasKey() {
  return key !== null;
}

export function headers() {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Executes a document. Returns its data. Throws an Error with the API's error code in `code`, if there is one. `token` replaces the key. */
export async function execute(query, variables = {}, token = null) {
  const response = await fetch("graphql", {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json", ...(token === null ? headers() : { Authorization: `Bearer ${token}` }) },
    body: JSON.stringify({ query, variables }),
    signal: AbortSignal.timeout(20_000),
  });
  const result = await response.json();
  if (result.errors) throw Object.assign(new Error(result.errors[0].message), { code: result.errors[0].extensions?.code });
  return result.data;
}
