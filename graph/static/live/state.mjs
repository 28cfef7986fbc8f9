// The state of the page, as signals: templates and effects that read one run again when it changes.

import { computed, signal } from "../vendor/signals-core-1.14.5.mjs";
import { buildViewUrl, parseView } from "./address.mjs";
import { nowSeconds } from "./api.mjs";

const STALE_AFTER_S = 180;

export const view = signal(parseView(location.search));
export const connection = signal("connecting"); // as `Socket` reports it
export const CONNECTED = ["live", "http", "polling"];
export const clock = signal(nowSeconds()); // UNIX seconds, once a second
export const tickers = signal(null); // by name, with their newest price; null until they are loaded
export const staleCount = computed(() => [...(tickers.value?.values() ?? [])].filter((one) => isStale(one, clock.value)).length);

export function isStale(ticker, now) {
  return ticker.tracked && now - (ticker.latest?.ts ?? ticker.since ?? now) > STALE_AFTER_S;
}

/** Changes the view and its URL. A choice of the user gets a history entry; with `replace`, it does not. */
export function navigate(change, { replace = false } = {}) {
  const next = { ...view.peek(), ...(!replace && { problems: [] }), ...change };
  view.value = next;
  try {
    const url = new URL(buildViewUrl(next), location.href);
    history[replace || url.href === location.href ? "replaceState" : "pushState"](null, "", url);
  } catch (error) {
    console.warn(error.message); // a browser limits how often the URL changes; the next change sets it
  }
}

/** Handles a click on a link to a view: the page shows the view without loading itself again. */
export function follow(event) {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  show(event.currentTarget.href);
}

/** Shows the view of an address, with an entry in the history. */
export function show(address) {
  history.pushState(null, "", address);
  view.value = parseView(location.search);
  scrollTo(0, 0);
}

addEventListener("popstate", () => (view.value = parseView(location.search)));
setInterval(() => (clock.value = nowSeconds()), 1_000);
