// Every ticker: last price, change over a day, age, and the day as a line.

import { ask } from "./api.mjs";
import { spark } from "./buckets.mjs";
import { make, say } from "./dom.mjs";
import { change, direction, duration, price } from "./format.mjs";
import { write } from "./state.mjs";

const TICKERS = "{ tickers { name tracked stale latest { price ts id } } }";
const ADDED = "subscription ($after: ID) { priceAdded(after: $after) { id ticker ts price } }";
const DAY = 86_400;
const AT_ONCE = 10; // a document may have 20 fields at its root
const WIDTH = 120;
const HEIGHT = 32;

/** Shows the overview in `main`; gives the way to leave it. */
export async function overview(main, { socket, go, isCurrent }) {
  const { tickers } = await ask(TICKERS);
  if (!isCurrent()) return () => {};
  const rows = new Map();
  const list = make("ul", { class: "tickers", "aria-label": "Tickers" });
  main.replaceChildren(
    make("h1", { text: "Index prices" }),
    tickers.length
      ? list
      : make("div", { class: "empty" },
          make("h2", { text: "No prices yet" }),
          make("p", { text: "The first ones are stored within a minute of a worker's start. This page shows them as they come." })),
  );
  const add = (ticker) => {
    const row = new Row(ticker, go);
    rows.set(ticker.name, row);
    list.append(row.element);
    return row;
  };
  for (const ticker of tickers) add(ticker);

  const load = async (names) => {
    for (let start = 0; start < names.length; start += AT_ONCE) {
      const some = names.slice(start, start + AT_ONCE);
      const from = Math.floor(Date.now() / 1000) - DAY;
      const fields = some.map((_, n) => `t${n}: candles(ticker: $n${n}, interval: THIRTY_MINUTES, from: $from, includeOpen: true, includeEmpty: true) { close } p${n}: prices(ticker: $n${n}, from: $from, order: OLDEST_FIRST, first: 1) { nodes { price } }`);
      const declared = some.map((_, n) => `$n${n}: String!`);
      const variables = Object.fromEntries(some.map((name, n) => [`n${n}`, name]));
      const data = await ask(`query (${declared.join(", ")}, $from: UnixTime!) { ${fields.join("\n")} }`, { ...variables, from });
      some.forEach((name, n) => rows.get(name)?.showDay(data[`t${n}`], data[`p${n}`].nodes[0]));
    }
  };
  // A ticker that fails to load its day keeps its price.
  const loadAll = () => load([...rows.keys()]).catch((error) => console.warn(error.message));
  loadAll();

  const last = tickers.reduce((most, ticker) => (BigInt(ticker.latest?.id ?? 0) > most ? BigInt(ticker.latest.id) : most), 0n);
  const leaveSocket = socket.subscribe(ADDED, { after: last ? String(last) : null }, {
    onData: (event) => {
      if (!rows.has(event.ticker)) {
        if (!list.isConnected) main.querySelector(".empty")?.replaceWith(list);
        add({ name: event.ticker, tracked: true, stale: false, latest: null });
      }
      rows.get(event.ticker).show(event);
    },
    onAgain: () => readAgain(rows).catch((error) => console.warn(error.message)),
  });
  const ages = setInterval(() => rows.forEach((row) => row.age()), 1_000);
  const days = setInterval(loadAll, 300_000);
  return () => {
    leaveSocket();
    clearInterval(ages);
    clearInterval(days);
  };
}

async function readAgain(rows) {
  const { tickers } = await ask(TICKERS);
  for (const ticker of tickers) if (ticker.latest) rows.get(ticker.name)?.show(ticker.latest);
}

class Row {
  #price = make("span", { class: "price", text: "–" });
  #change = make("span", { class: "change" });
  #age = make("span", { class: "age" });
  #path = make("path", {});
  #latest = null;
  #first = null;
  #isTracked;

  constructor(ticker, go) {
    this.#isTracked = ticker.tracked;
    const address = write({ ticker: ticker.name, interval: "FIVE_MINUTES", from: null, to: null });
    const line = make("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, this.#path);
    const link = make("a", { href: address, onclick: go }, make("span", { class: "name", text: ticker.name }), line, this.#price, this.#change, this.#age);
    this.element = make("li", {}, link);
    if (ticker.latest) this.show(ticker.latest);
    else this.age();
  }

  show(latest) {
    if (this.#latest && latest.ts < this.#latest.ts) return; // what was backfilled is no news
    this.#latest = latest;
    say(this.#price, price(latest.price));
    this.#showChange();
    this.age();
  }

  showDay(candles, first) {
    this.#first = first?.price ?? null;
    this.#path.setAttribute("d", spark(candles.map((candle) => (candle.close === null ? null : Number(candle.close))), WIDTH, HEIGHT));
    this.#showChange();
  }

  age() {
    if (!this.#latest) return say(this.#age, "no price yet");
    const seconds = Date.now() / 1000 - this.#latest.ts;
    say(this.#age, this.#isTracked ? `${duration(seconds)} ago` : `until ${duration(seconds)} ago, not collected any more`);
    this.element.classList.toggle("stale", this.#isTracked && seconds > 180);
  }

  #showChange() {
    if (this.#first === null || !this.#latest) return;
    say(this.#change, change(this.#first, this.#latest.price));
    this.element.dataset.direction = direction(this.#first, this.#latest.price);
  }
}
