// The overview: for each ticker the last price, its age, the change and a sparkline of the last 24 hours.

import { execute } from "./api.mjs";
import { spark } from "./chart_data.mjs";
import { make, setText } from "./dom.mjs";
import { change, direction, duration, price } from "./format.mjs";
import { buildViewUrl } from "./state.mjs";

const TICKERS = "{ tickers { name tracked stale latest { price ts id } } }";
const ADDED = "subscription ($after: ID) { priceAdded(after: $after) { id ticker ts price } }";
const DAY = 86_400;
const BATCH_SIZE = 10; // two root fields per ticker; a document may have 20
const WIDTH = 120;
const HEIGHT = 32;

/** Shows the overview in `main`. Returns a function that stops its updates. */
export async function showOverview(main, { socket, go, isCurrent }) {
  const { tickers } = await execute(TICKERS);
  if (!isCurrent()) return () => {};
  const rows = new Map();
  const list = make("ul", { class: "tickers", "aria-label": "Tickers" });
  main.replaceChildren(
    make("h1", { text: "Index prices" }),
    tickers.length
      ? list
      : make("div", { class: "empty" },
          make("h2", { text: "No prices yet" }),
          make("p", { text: "The worker stores the first prices within a minute of its start. This page shows them automatically." })),
  );
  const add = (ticker) => {
    const row = new Row(ticker, go);
    rows.set(ticker.name, row);
    list.append(row.element);
    return row;
  };
  for (const ticker of tickers) add(ticker);

  const load = async (names) => {
    for (let start = 0; start < names.length; start += BATCH_SIZE) {
      const batch = names.slice(start, start + BATCH_SIZE);
      const from = Math.floor(Date.now() / 1000) - DAY;
      const fields = batch.map((_, n) => `t${n}: candles(ticker: $n${n}, interval: THIRTY_MINUTES, from: $from, includeOpen: true, includeEmpty: true) { close } p${n}: prices(ticker: $n${n}, from: $from, order: OLDEST_FIRST, first: 1) { nodes { price } }`);
      const declared = batch.map((_, n) => `$n${n}: String!`);
      const variables = Object.fromEntries(batch.map((name, n) => [`n${n}`, name]));
      const data = await execute(`query (${declared.join(", ")}, $from: UnixTime!) { ${fields.join("\n")} }`, { ...variables, from });
      batch.forEach((name, n) => rows.get(name)?.showDay(data[`t${n}`], data[`p${n}`].nodes[0]));
    }
  };
  // If the last 24 hours of a ticker fail to load, its price remains visible.
  const loadAll = () => load([...rows.keys()]).catch((error) => console.warn(error.message));
  loadAll();

  const newestId = tickers.map((ticker) => BigInt(ticker.latest?.id ?? 0)).reduce((a, b) => (a > b ? a : b), 0n);
  const unsubscribe = socket.subscribe(ADDED, { after: newestId ? String(newestId) : null }, {
    onData: (event) => {
      if (!rows.has(event.ticker)) {
        if (!list.isConnected) main.querySelector(".empty")?.replaceWith(list);
        add({ name: event.ticker, tracked: true, stale: false, latest: null });
      }
      rows.get(event.ticker).show(event);
    },
    onReconnect: () => reloadPrices(rows).catch((error) => console.warn(error.message)),
  });
  const ageTimer = setInterval(() => rows.forEach((row) => row.updateAge()), 1_000);
  const dayTimer = setInterval(loadAll, 300_000);
  return () => {
    unsubscribe();
    clearInterval(ageTimer);
    clearInterval(dayTimer);
  };
}

async function reloadPrices(rows) {
  const { tickers } = await execute(TICKERS);
  for (const ticker of tickers) if (ticker.latest) rows.get(ticker.name)?.show(ticker.latest);
}

class Row {
  #price = make("span", { class: "price", text: "–" });
  #change = make("span", { class: "change" });
  #age = make("span", { class: "age" });
  #path = make("path", {});
  #latest = null;
  #dayStartPrice = null;
  #isTracked;

  constructor(ticker, go) {
    this.#isTracked = ticker.tracked;
    const address = buildViewUrl({ ticker: ticker.name, interval: "FIVE_MINUTES", from: null, to: null });
    const line = make("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, this.#path);
    const link = make("a", { href: address, onclick: go }, make("span", { class: "name", text: ticker.name }), line, this.#price, this.#change, this.#age);
    this.element = make("li", {}, link);
    if (ticker.latest) this.show(ticker.latest);
    else this.updateAge();
  }

  show(latest) {
    if (this.#latest && latest.ts < this.#latest.ts) return; // a backfilled price is not the newest
    this.#latest = latest;
    setText(this.#price, price(latest.price));
    this.#showChange();
    this.updateAge();
  }

  showDay(candles, first) {
    this.#dayStartPrice = first?.price ?? null;
    this.#path.setAttribute("d", spark(candles.map((candle) => (candle.close === null ? null : Number(candle.close))), WIDTH, HEIGHT));
    this.#showChange();
  }

  updateAge() {
    if (!this.#latest) return setText(this.#age, "no price yet");
    const seconds = Date.now() / 1000 - this.#latest.ts;
    setText(this.#age, this.#isTracked ? `${duration(seconds)} ago` : `last price ${duration(seconds)} ago, no longer tracked`);
    this.element.classList.toggle("stale", this.#isTracked && seconds > 180);
  }

  #showChange() {
    if (this.#dayStartPrice === null || !this.#latest) return;
    setText(this.#change, change(this.#dayStartPrice, this.#latest.price));
    this.element.dataset.direction = direction(this.#dayStartPrice, this.#latest.price);
  }
}
