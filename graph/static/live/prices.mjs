// The newest price of each ticker, by one subscription for the whole page.

import { execute } from "./api.mjs";
import { lastSeen } from "./storage.mjs";
import { nowSeconds, tickers } from "./state.mjs";

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
  lastSeen.value = nowSeconds();
  const known = tickers.peek();
  tickers.value = new Map(found.tickers.map((one) => [one.name, merge(known?.get(one.name), one)]));
}

function merge(known, loaded) {
  const isOlder = known?.latest && (!loaded.latest || loaded.latest.ts < known.latest.ts);
  return { ...loaded, latest: isOlder ? known.latest : loaded.latest };
}

function collect(price) {
  if (!arrived.length) setTimeout(apply, COLLECT_MS);
  arrived.push(price);
}

function apply() {
  const prices = arrived;
  arrived = [];
  const found = new Map(tickers.peek());
  const changed = [];
  for (const { id, ticker, ts, price } of prices) {
    const known = found.get(ticker) ?? { name: ticker, tracked: true, since: ts, latest: null };
    if (known.latest && ts < known.latest.ts) continue; // a backfilled price is not the newest
    found.set(ticker, { ...known, latest: { id, ts, price } });
    changed.push([ticker, price, known.latest?.price ?? null]);
  }
  tickers.value = found;
  lastSeen.value = nowSeconds();
  for (const one of changed) for (const listener of listeners) listener(...one);
}
