// Requests to the API.

import { signal } from "../vendor/signals-core-1.14.5.mjs";

const NAME = "tickgraph.key";
const TIMEOUT_MS = 20_000;
const CLOCK_TOLERANCE_MS = 2_000; // the clock of a response counts whole seconds
const isKey = (text) => /^[\x20-\x7e]+$/.test(text ?? ""); // what a header can hold

/** Whether the API rejects the key, or requires one. */
export const isKeyRejected = signal(false);

let key = null;
let clockOffsetMs = 0; // clock of the API minus that of the browser
try {
  key = [sessionStorage, localStorage].map((storage) => storage.getItem(NAME)).find(isKey) ?? null;
} catch {
  // Without storage, the page asks for the key after each reload.
}

/** Sets the API key: for this tab, or with `isRemembered` for this browser. Null removes it. */
export function setKey(text, isRemembered = false) {
  key = text;
  try {
    for (const storage of [localStorage, sessionStorage]) storage.removeItem(NAME);
    if (text !== null) (isRemembered ? localStorage : sessionStorage).setItem(NAME, text);
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

/** Returns UNIX seconds by the clock of the API, because that of the browser may be wrong. */
export function nowSeconds() {
  return Math.floor((Date.now() + clockOffsetMs) / 1_000);
}

/** Executes a document. Returns its data. Throws an Error with the API's error code in `code`, if there is one. `token` replaces the key. */
export async function execute(query, variables = {}, token = null) {
  const response = await request(query, variables, token === null ? headers() : { Authorization: `Bearer ${token}` });
  const offset = Date.parse(response.headers.get("Date")) - Date.now();
  clockOffsetMs = Math.abs(offset) > CLOCK_TOLERANCE_MS ? offset : 0;
  const result = await response.json().catch(() => {
    throw new Error(`HTTP ${response.status}`);
  });
  if (result.errors) {
    const [{ message, extensions }] = result.errors;
    if (extensions?.code === "UNAUTHENTICATED" && token === null) isKeyRejected.value = true;
    throw Object.assign(new Error(message), { code: extensions?.code });
  }
  return result.data;
}

async function request(query, variables, authorization) {
  try {
    return await fetch("graphql", {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json", ...authorization },
      body: JSON.stringify({ query, variables }),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
  } catch (error) {
    throw new Error(error.name === "TimeoutError" ? "the API did not respond in time" : "no connection");
  }
}
