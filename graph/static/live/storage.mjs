// Settings of the reader that stay in the browser, as signals. Without storage they last until the next reload.

import { effect, signal } from "../vendor/signals-core-1.14.5.mjs";

/** Returns a signal whose value is stored under a name, and shared by all tabs. */
function stored(name, initial) {
  const key = `tickgraph.${name}`;
  const found = signal(read(key) ?? initial);
  effect(() => write(key, found.value));
  addEventListener("storage", (event) => event.key === key && (found.value = read(key) ?? initial));
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

export const theme = stored("theme", "system"); // or "light", "dark"
export const areKeysEnabled = stored("keys", true); // keys of one letter
export const pinned = stored("pinned", []); // names of tickers
export const columns = stored("columns", ["spark", "price", "change", "low", "high", "age"]);
export const levels = stored("levels", []); // { ticker, price } to be notified of
export const lastSeen = stored("lastSeen", null); // UNIX seconds: when the API last answered
