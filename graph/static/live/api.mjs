// Questions to the API.

let key = null;
try {
  key = sessionStorage.getItem("tickgraph.key");
} catch {
  // A browser that keeps nothing is asked again.
}

export function setKey(text) {
  key = text;
  try {
    sessionStorage.setItem("tickgraph.key", text);
  } catch {
    // As above.
  }
}

export function hasKey() {
  return key !== null;
}

export function headers() {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** The data of an answer. Throws an Error with `code`, where the API gives one. */
export async function ask(query, variables = {}) {
  const response = await fetch("/graphql", {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json", ...headers() },
    body: JSON.stringify({ query, variables }),
    signal: AbortSignal.timeout(20_000),
  });
  const answer = await response.json();
  if (answer.errors) throw Object.assign(new Error(answer.errors[0].message), { code: answer.errors[0].extensions?.code });
  return answer.data;
}
