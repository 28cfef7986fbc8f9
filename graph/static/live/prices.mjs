// The newest price of each ticker, by one subscription for the whole page.

import { execute, nowSeconds } from "./api.mjs";
import { lastSeen } from "./storage.mjs";
import { tickers } from "./state.mjs";

const TICKERS = "{ tickers { name tracked since latest { id ts price } } }";
const ADDED = "subscription ($after: ID) { priceAdded(after: $after) { id ticker ts price } }";
const COLLECT_MS = 16; // the prices of a minute arrive together; they are shown together
const RELOAD_MS = 300_000; // tracked tickers change without an event
const listeners = new Set();
let arrived = [];
let unsubscribe = null;

/** Calls the function with each new price: its ticker, and the price before. Returns a function that ends this. */
export function onPrice(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Loads the tickers, then follows their prices. Throws an error of the API. */
export async function followPrices(socket) {
  await loadTickers();
  if (unsubscribe) return;
  const newestId = [...tickers.peek().values()].map((one) => BigInt(one.latest?.id ?? 0)).reduce((a, b) => (a > b ? a : b), 0n);
  const retry = () => loadTickers().catch((error) => console.warn(error.message)); // again in five minutes, or after reconnecting
  unsubscribe = socket.subscribe(ADDED, { after: newestId ? String(newestId) : null }, { onData: collect, onReconnect: retry });
  setInterval(retry, RELOAD_MS);
}

async function loadTickers() {
  const found = await execute(TICKERS);
  const known = tickers.peek();
  update(new Map(found.tickers.map((one) => [one.name, { ...one, latest: newer(known?.get(one.name)?.latest ?? null, one.latest) }])));
}

/** Returns the newer of two prices, which may be null: a backfilled price is not the newest. */
export function newer(one, other) {
  return !one || (other && other.ts >= one.ts) ? other : one;
}

function collect(price) {
  if (!arrived.length) setTimeout(apply, COLLECT_MS);
  arrived.push(price);
}

function apply() {
  const found = new Map(tickers.peek());
  for (const { id, ticker, ts, price } of arrived) {
    const known = found.get(ticker) ?? { name: ticker, tracked: true, since: ts, latest: null };
    found.set(ticker, { ...known, latest: newer(known.latest, { id, ts, price }) });
  }
  arrived = [];
  update(found);
}

/** Replaces the tickers, and tells the listeners which prices are new. */
function update(found) {
  const before = tickers.peek();
  tickers.value = found;
  lastSeen.value = nowSeconds();
  for (const { name, latest } of found.values()) {
    const known = before?.get(name)?.latest ?? null;
    if (before && latest && latest.ts !== known?.ts) for (const listener of listeners) listener(name, latest.price, known?.price ?? null);
  }
}
