// The view and its URL, so that users can share and reload a view.

import { INTERVALS, RANGES } from "./intervals.mjs";
import { UTC, findZone } from "./zones.mjs";

export const STYLES = { candles: "Candles", line: "Line", area: "Area" };
export const SCALES = { linear: "Linear", log: "Log", percent: "Percent" };
const SORTS = ["name", "price", "change", "low", "high", "age"];
const GROUPS = ["none", "quote"];
export const MAX_COMPARED = 5;

const TICKER = /^[a-z0-9][a-z0-9_-]{0,63}$/;
const PAGES = ["health", "alerts"];
const oneOf = (values) => (text) => (values.includes(text) ? text : undefined);

// For each parameter its default, how it is read (undefined: wrong) and what would be right. A view without a window follows the newest prices.
const PARAMETERS = {
  interval: { initial: "FIVE_MINUTES", read: oneOf(Object.keys(INTERVALS)), right: Object.keys(INTERVALS).join(", ") },
  range: { initial: null, read: oneOf(Object.keys(RANGES)), right: Object.keys(RANGES).join(", ") },
  zone: { initial: UTC, read: findZone, right: "an IANA time zone like Europe/Berlin" },
  style: { initial: null, read: oneOf(Object.keys(STYLES)), right: Object.keys(STYLES).join(", ") },
  scale: { initial: "linear", read: oneOf(Object.keys(SCALES)), right: Object.keys(SCALES).join(", ") },
  compare: { initial: "", read: readTickers, right: `up to ${MAX_COMPARED} tickers, separated by commas` },
  sort: { initial: "name", read: oneOf(SORTS), right: SORTS.join(", ") },
  order: { initial: "up", read: oneOf(["up", "down"]), right: "up, down" },
  filter: { initial: "", read: (text) => text.slice(0, 64), right: "a text" },
  group: { initial: "none", read: oneOf(GROUPS), right: GROUPS.join(", ") },
};

function readTickers(text) {
  const names = [...new Set(text.toLowerCase().split(","))];
  return names.length <= MAX_COMPARED && names.every((name) => TICKER.test(name)) ? names.join(",") : undefined;
}

/** Parses the query string of a URL to a view. `problems` has a sentence for each parameter that is ignored. */
export function parseView(search) {
  const params = new URLSearchParams(search);
  const view = { page: "prices", ticker: null, from: null, to: null, problems: [] };
  const reject = (name, right) => view.problems.push(`${name}=${params.get(name).slice(0, 40)} is unknown and ignored. Use ${right}.`);
  const ticker = params.get("ticker")?.trim().toLowerCase();
  if (ticker !== undefined) {
    if (TICKER.test(ticker)) Object.assign(view, { page: "ticker", ticker });
    else reject("ticker", "a name like btc_usd");
  } else if (params.has("view")) {
    if (PAGES.includes(params.get("view"))) view.page = params.get("view");
    else reject("view", PAGES.join(", "));
  }
  for (const [name, { initial, read, right }] of Object.entries(PARAMETERS)) {
    const value = params.has(name) ? read(params.get(name)) : initial;
    if (value === undefined) reject(name, right);
    view[name] = value ?? initial;
  }
  if (params.has("from") || params.has("to")) {
    const [from, to] = ["from", "to"].map((name) => (/^\d{1,10}$/.test(params.get(name) ?? "") ? Number(params.get(name)) : NaN));
    if (from < to) Object.assign(view, { from, to, range: null });
    else view.problems.push("from and to are ignored: both must be UNIX seconds, and from must be before to.");
  }
  return view;
}

const OWN_PARAMETERS = { ticker: ["interval", "range", "zone", "style", "scale", "compare"], prices: ["sort", "order", "filter", "group"] };

/** Returns the URL of a view, relative to the page. */
export function buildViewUrl(view) {
  const params = new URLSearchParams();
  if (view.page === "ticker") params.set("ticker", view.ticker);
  else if (view.page !== "prices") params.set("view", view.page);
  for (const name of OWN_PARAMETERS[view.page] ?? []) {
    if (view[name] !== undefined && view[name] !== PARAMETERS[name].initial) params.set(name, view[name]);
  }
  if (view.page === "ticker" && (view.from ?? null) !== null) {
    params.set("from", view.from);
    params.set("to", view.to);
  }
  return params.size ? `?${params}` : "./";
}
