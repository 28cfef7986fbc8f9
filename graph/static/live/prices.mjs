// The newest price of each ticker, by one subscription for the whole page.

import { effect } from "../vendor/signals-core-1.14.5.mjs";
import { execute, nowSeconds } from "./api.mjs";
import { lastSeen } from "./storage.mjs";
import { staleCount, tickers } from "./state.mjs";

const TICKERS = "{ tickers { name tracked since latest { id ts price } lastGap { to reason } } }";
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
  unsubscribe = socket.subscribe(ADDED, { after: String(newestId) }, { onData: collect, onReconnect: retry });
  setInterval(retry, RELOAD_MS);
  effect(() => staleCount.value && retry()); // the gap of a ticker that became stale says why
}

async function loadTickers() {
  const found = await execute(TICKERS);
  const known = tickers.peek();
  const merged = found.tickers.map((one) => ({ ...one, latest: newer(known?.get(one.name)?.latest ?? null, one.latest) }));
  const isNew = ({ name, latest }) => known && latest && latest.ts !== known.get(name)?.latest?.ts;
  update(new Map(merged.map((one) => [one.name, one])), merged.filter(isNew).map(({ name, latest }) => [name, latest.price, known.get(name)?.latest?.price ?? null]));
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
  const changes = [];
  for (const { id, ticker, ts, price } of arrived) {
    const known = found.get(ticker) ?? { name: ticker, tracked: true, since: ts, latest: null, lastGap: null };
    if (known.latest && known.latest.ts >= ts) continue; // a backfilled price is not the newest
    changes.push([ticker, price, known.latest?.price ?? null]);
    found.set(ticker, { ...known, latest: { id, ts, price } });
  }
  arrived = [];
  update(found, changes);
}

/** Replaces the tickers, and calls the listeners with each change: a ticker, its price and the price before. */
function update(found, changes) {
  tickers.value = found;
  lastSeen.value = nowSeconds();
  for (const change of changes) for (const listener of listeners) listener(...change);
}
