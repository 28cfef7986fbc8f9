// Requests to the API.

let key = null;
try {
  key = sessionStorage.getItem("tickgraph.key");
} catch {
  // Without session storage, the page asks for the key after each reload.
}

export function setKey(text) {
  key = text;
  try {
    sessionStorage.setItem("tickgraph.key", text);
  } catch {
    // Without session storage, the key is valid until the next reload.
  }
}

export function hasKey() {
  return key !== null;
}

export function headers() {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Executes a query. Returns its data. Throws an Error with the API's error code in `code`, if there is one. */
export async function execute(query, variables = {}) {
  const response = await fetch("graphql", {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json", ...headers() },
    body: JSON.stringify({ query, variables }),
    signal: AbortSignal.timeout(20_000),
  });
  const result = await response.json();
  if (result.errors) throw Object.assign(new Error(result.errors[0].message), { code: result.errors[0].extensions?.code });
  return result.data;
}
