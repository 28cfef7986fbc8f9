// Settings of the reader that stay in the browser, as signals. Without storage they last until the next reload.

import { effect, signal } from "../vendor/signals-core-1.14.5.mjs";

const isText = (value) => typeof value === "string";
const isListOf = (isItem) => (value) => Array.isArray(value) && value.every(isItem);

/** Returns a signal whose value is stored under a name, and shared by all tabs. A stored value that is not valid is ignored. */
function stored(name, initial, isValid) {
  const key = `tickgraph.${name}`;
  const load = () => {
    const value = read(key);
    return value !== null && isValid(value) ? value : initial;
  };
  const found = signal(load());
  effect(() => write(key, found.value));
  addEventListener("storage", (event) => event.key === key && (found.value = load()));
  return found;
}

function read(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null; // no storage, or not written by this page
  }
}

function write(key, value) {
  const text = JSON.stringify(value);
  try {
    if (localStorage.getItem(key) !== text) localStorage.setItem(key, text);
  } catch {
    // Without storage, the value lasts until the next reload.
  }
}

export const theme = stored("theme", "system", (value) => ["system", "light", "dark"].includes(value));
export const areKeysEnabled = stored("keys", true, (value) => typeof value === "boolean"); // keys of one character
export const pinned = stored("pinned", [], isListOf(isText)); // names of tickers
export const columns = stored("columns", ["spark", "price", "change", "low", "high", "age"], isListOf(isText));
export const levels = stored("levels", [], isListOf((one) => isText(one?.ticker) && isText(one?.price) && Number(one.price) > 0)); // prices to be notified of
export const reloadedAt = stored("reloadedAt", 0, Number.isSafeInteger); // UNIX milliseconds: when the page last reloaded itself
export const lastSeen = stored("lastSeen", null, Number.isSafeInteger); // UNIX seconds: when the API last responded
