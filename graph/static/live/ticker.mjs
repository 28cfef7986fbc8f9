// One ticker: its price, its candles with their gaps, and how complete they are.

import { ask } from "./api.mjs";
import { merged } from "./buckets.mjs";
import { Chart } from "./chart.mjs";
import { make, say } from "./dom.mjs";
import { change, coverage, direction, duration, gap, instant, minutes, price } from "./format.mjs";
import { INTERVALS, RANGES, write } from "./state.mjs";

const AT_ONCE = 500;
const TICKER = `query ($ticker: String!, $day: UnixTime!) {
  ticker(name: $ticker) { tracked since latest { id ts price } }
  first: prices(ticker: $ticker, order: OLDEST_FIRST, first: 1) { nodes { ts } }
  summary(ticker: $ticker, from: $day) { first { price } high { price } low { price } }
}`;
const CANDLE = "ts end open high low close count expected closed complete";
const WINDOW = `query ($ticker: String!, $interval: Interval!, $from: UnixTime!, $to: UnixTime) {
  candles(ticker: $ticker, interval: $interval, from: $from, to: $to, includeOpen: true, includeEmpty: true) { ${CANDLE} }
}`;
const COVERAGE = `query ($ticker: String!, $from: UnixTime!, $to: UnixTime) {
  coverage(ticker: $ticker, from: $from, to: $to) {
    expected stored missing live backfilled imported extra
    gaps(first: 1000) { nodes { from to reason state } }
    parts(first: 1000) { from to source }
  }
}`;
const UPDATED = `subscription ($ticker: String!, $interval: Interval!) { candleUpdated(ticker: $ticker, interval: $interval) { ${CANDLE} } }`;
const CHANGES = `subscription ($ticker: String!, $after: ID) {
  changes(tickers: [$ticker], after: $after) {
    __typename
    ... on Price { id ts price source }
    ... on HistoryChanged { id from to }
    ... on GapOpened { id from to }
    ... on GapClosed { id from to }
    ... on TickerChanged { id }
  }
}`;
const DAY = 86_400;
const now = () => Math.floor(Date.now() / 1000);

/** Shows a ticker in `main`; gives the way to leave it. */
export async function ticker(main, view, { socket, go, moved }) {
  const found = await ask(TICKER, { ticker: view.ticker, day: now() - DAY });
  if (!found.ticker) throw Object.assign(new Error(`${view.ticker} is not known.`), { code: "UNKNOWN_TICKER" });
  const page = new Ticker(main, view, found, { socket, go, moved });
  await page.begin();
  return () => page.leave();
}

class Ticker {
  #view;
  #moved;
  #socket;
  #latest;
  #isTracked;
  #dayBegan;
  #first;
  #candles = [];
  #gaps = [];
  #parts = [];
  #hasAll = false;
  #isLoading = false;
  #leaving = [];
  #refreshing = null;
  #chart;
  #at = {};

  constructor(main, view, found, { socket, go, moved }) {
    this.#view = { ...view };
    this.#moved = moved;
    this.#socket = socket;
    this.#latest = found.ticker.latest;
    this.#isTracked = found.ticker.tracked;
    this.#dayBegan = found.summary?.first.price ?? null;
    this.#first = found.first.nodes[0]?.ts ?? null;
    this.#build(main, found, go);
    this.#showPrice();
    document.title = `${view.ticker} · Tickgraph`;
  }

  #build(main, found, go) {
    const at = this.#at;
    at.price = make("p", { class: "price big" });
    at.change = make("p", { class: "change" });
    at.age = make("p", { class: "age" });
    at.range = make("p", { class: "dayrange" });
    if (found.summary) at.range.textContent = `24 h: ${price(found.summary.low.price)} to ${price(found.summary.high.price)}`;
    at.chart = make("div", { class: "chart", tabindex: "0", role: "group", "aria-label": `Candles of ${this.#view.ticker}`, "aria-describedby": "keys" });
    at.legend = make("p", { class: "legend", "aria-live": "off" });
    at.words = make("p", { class: "words", text: "…" });
    at.list = make("ul", { class: "gaps" });
    at.intervals = this.#choice("Interval", INTERVALS, (name) => this.#setInterval(name));
    at.ranges = this.#choice("Range", RANGES, (name) => this.#setRange(name));
    at.from = make("input", { type: "datetime-local", step: "60", "aria-label": "From, UTC" });
    at.to = make("input", { type: "datetime-local", step: "60", "aria-label": "To, UTC" });
    at.graphiql = make("a", { text: "GraphQL" });
    at.csv = make("a", { text: "CSV", download: "" });
    at.curl = make("code", {});
    at.copied = make("span", { class: "copied", role: "status" });
    const window = make("form", { class: "window", onsubmit: (event) => this.#setWindow(event) }, at.from, make("span", { text: "to", "aria-hidden": "true" }), at.to, make("button", { text: "Show" }));
    main.replaceChildren(
      make("nav", { class: "back", "aria-label": "Back" }, make("a", { href: "/", text: "← All tickers", onclick: go })),
      make("section", { class: "head", "aria-labelledby": "name" },
        make("h1", { id: "name", text: this.#view.ticker }),
        make("div", { class: "now" }, at.price, at.change, at.age, at.range)),
      make("div", { class: "controls" }, at.intervals.element, at.ranges.element, window),
      make("section", { class: "panel", "aria-label": "Chart" },
        at.legend,
        at.chart,
        make("p", { class: "keys", id: "keys", text: "Arrow keys move, + and − zoom, End goes to now." }),
        make("ul", { class: "key" },
          make("li", { class: "missing", text: "missing" }), make("li", { class: "backfilled", text: "backfilled" }), make("li", { class: "imported", text: "imported" }))),
      make("section", { class: "panel coverage", "aria-labelledby": "coverage" },
        make("h2", { id: "coverage", text: "How complete this is" }), at.words, at.list),
      make("section", { class: "panel same", "aria-labelledby": "same" },
        make("h2", { id: "same", text: "The same data" }),
        make("p", {}, at.graphiql, " in GraphiQL, ", at.csv, " of the minutes, or with curl:"),
        make("div", { class: "curl" }, at.curl, make("button", { type: "button", text: "Copy", onclick: () => this.#copy() }), at.copied)),
    );
  }

  #choice(name, values, chosen) {
    const buttons = Object.entries(values).map(([key, one]) =>
      make("button", { type: "button", "aria-pressed": "false", "aria-label": `${one.short ?? key}: ${one.name}`, title: one.name, text: one.short ?? key, "data-key": key, onclick: () => chosen(key) }));
    const element = make("div", { class: "choice", role: "group", "aria-label": name }, ...buttons);
    return { element, show: (key) => buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.key === key))) };
  }

  async begin() {
    this.#chart = new Chart(this.#at.chart, {
      onHover: (candle) => this.#showLegend(candle),
      onWindow: (from, to, isLive) => this.#windowMoved(from, to, isLive),
      onOlder: () => this.#older(),
    });
    this.#leaving.push(() => this.#chart.remove());
    await this.#show();
    this.#listen();
    const ages = setInterval(() => this.#showPrice(), 1_000);
    this.#leaving.push(() => clearInterval(ages));
  }

  leave() {
    for (const end of this.#leaving) end();
    this.#leaveCandles?.();
    clearTimeout(this.#refreshing);
    document.title = "Tickgraph";
  }

  #leaveCandles = null;

  #listen() {
    this.#leaving.push(
      this.#socket.subscribe(CHANGES, { ticker: this.#view.ticker, after: this.#latest?.id ?? null }, {
        onData: (event) => {
          if (event.__typename === "Price") {
            if (!this.#latest || event.ts >= this.#latest.ts) this.#latest = event;
            this.#first ??= event.ts;
            this.#showPrice();
            if (event.source === "LIVE") return;
          }
          this.#refresh();
        },
        onAgain: () => this.#again(),
      }),
    );
  }

  async #again() {
    const { ticker: found } = await ask(TICKER, { ticker: this.#view.ticker, day: now() - DAY });
    this.#latest = found?.latest ?? this.#latest;
    this.#showPrice();
    this.#refresh();
  }

  #follow() {
    this.#leaveCandles?.();
    this.#leaveCandles = this.#socket.subscribe(UPDATED, { ticker: this.#view.ticker, interval: this.#view.interval }, {
      onData: (candle) => {
        const last = this.#candles.at(-1);
        if (last && candle.ts > last.end) this.#refresh(); // candles between were missed
        this.#candles = merged(this.#candles, [candle]);
        this.#chart.update(candle);
      },
      onAgain: () => this.#refresh(),
    });
  }

  async #show() {
    const { ticker, interval, from, to } = this.#view;
    const seconds = INTERVALS[interval].seconds;
    const end = to ?? now();
    const begin = Math.max(from === null ? 0 : from - 50 * seconds, end - AT_ONCE * seconds, 0);
    this.#at.intervals.show(interval);
    this.#hasAll = false;
    this.#candles = await this.#read(from === null ? begin : Math.max(from - 50 * seconds, end - 5_000 * seconds), to === null ? null : to + 50 * seconds);
    if (this.#view.interval !== interval || this.#view.ticker !== ticker) return; // another was asked for meanwhile
    this.#chart.show(this.#candles, { from, to }, { asLine: interval === "ONE_MINUTE" });
    this.#follow();
    await this.#readCoverage();
  }

  async #read(from, to) {
    const low = Math.max(from, this.#first === null ? now() - DAY : this.#first - INTERVALS[this.#view.interval].seconds);
    if (to !== null && low >= to) return [];
    const { candles } = await ask(WINDOW, { ticker: this.#view.ticker, interval: this.#view.interval, from: Math.min(low, now() - 60), to });
    return candles;
  }

  async #older() {
    const first = this.#candles[0];
    if (this.#isLoading || this.#hasAll || !first || this.#first === null) return;
    if (first.ts <= this.#first) {
      this.#hasAll = true;
      return;
    }
    this.#isLoading = true;
    try {
      const more = await this.#read(first.ts - AT_ONCE * INTERVALS[this.#view.interval].seconds, first.ts);
      this.#hasAll = more.length === 0;
      this.#candles = merged(this.#candles, more);
      this.#chart.put(this.#candles);
      await this.#readCoverage();
    } catch (error) {
      console.warn(error.message); // the next move asks again
    } finally {
      this.#isLoading = false;
    }
  }

  /** Reads anew what is shown, once for many changes. */
  #refresh() {
    if (this.#refreshing) return;
    this.#refreshing = setTimeout(async () => {
      this.#refreshing = null;
      try {
        const first = this.#candles[0];
        const last = this.#view.to === null ? null : (this.#candles.at(-1)?.end ?? null);
        this.#candles = merged(this.#candles, await this.#read(first ? first.ts : now() - DAY, last));
        this.#chart.put(this.#candles);
        await this.#readCoverage();
      } catch (error) {
        console.warn(error.message); // what changes next asks again
      }
    }, 500);
  }

  async #readCoverage() {
    const [first, last] = [this.#candles[0], this.#candles.at(-1)];
    if (!first) return say(this.#at.words, "Nothing is stored here.");
    const { coverage: found } = await ask(COVERAGE, { ticker: this.#view.ticker, from: first.ts, to: last.end });
    this.#gaps = found.gaps.nodes;
    this.#parts = found.parts;
    this.#chart.mark(this.#candles, this.#gaps.filter((one) => one.state !== "FILLED"), this.#parts);
    say(this.#at.words, `From ${instant(first.ts)} to ${instant(Math.min(last.end, now()))}. ${coverage(found)}`);
    this.#at.list.replaceChildren(...this.#gaps.slice(-20).reverse().map((one) => make("li", { "data-state": one.state, text: gap(one) })));
    if (this.#gaps.length > 20) this.#at.list.append(make("li", { text: `and ${this.#gaps.length - 20} periods before` }));
    this.#showSame(first.ts, this.#view.to);
  }

  #showPrice() {
    const at = this.#at;
    if (!this.#latest) {
      say(at.price, "no price yet");
      return;
    }
    say(at.price, price(this.#latest.price));
    const seconds = Date.now() / 1000 - this.#latest.ts;
    say(at.age, `${instant(this.#latest.ts)} UTC, ${duration(seconds)} ago${this.#isTracked ? "" : "; not collected any more"}`);
    at.age.classList.toggle("stale", this.#isTracked && seconds > 180);
    if (this.#dayBegan === null) return;
    say(at.change, `${change(this.#dayBegan, this.#latest.price)} in 24 h`);
    at.change.dataset.direction = direction(this.#dayBegan, this.#latest.price);
  }

  #showLegend(time) {
    const candle = time === null ? this.#candles.at(-1) : this.#candles.find((one) => one.ts === time);
    if (!candle) return say(this.#at.legend, "");
    const gaps = this.#gaps.filter((one) => one.from < candle.end && one.to > candle.ts);
    const parts = [instant(candle.ts)];
    if (candle.open !== null) {
      parts.push(`open ${price(candle.open)}`, `high ${price(candle.high)}`, `low ${price(candle.low)}`, `close ${price(candle.close)}`);
      if (!candle.closed) parts.push("still open");
      else if (!candle.complete) parts.push(`${candle.count} of ${minutes(candle.expected)}`);
    } else {
      parts.push("no prices");
    }
    parts.push(...gaps.slice(0, 2).map(gap));
    const sources = this.#parts.filter((one) => one.from < candle.end && one.to > candle.ts).map((one) => one.source.toLowerCase());
    if (sources.length) parts.push([...new Set(sources)].map((one) => ({ backfill: "backfilled", import: "imported" })[one]).join(", "));
    say(this.#at.legend, parts.join("  ·  "));
    this.#at.legend.classList.toggle("gap", gaps.some((one) => one.state !== "FILLED"));
  }

  #showSame(from, to) {
    const { ticker, interval } = this.#view;
    const window = `from: ${from}${to === null ? "" : `, to: ${to}`}`;
    const query = `{\n  candles(ticker: "${ticker}", interval: ${interval}, ${window}) {\n    ts open high low close count complete\n  }\n}`;
    this.#at.graphiql.href = `/graphql#${encodeURIComponent(query)}`;
    const csv = `/export?ticker=${ticker}&from=${from}${to === null ? "" : `&to=${to}`}&format=csv`;
    this.#at.csv.href = csv;
    say(this.#at.curl, `curl '${location.origin}${csv}'`);
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(this.#at.curl.textContent);
      say(this.#at.copied, "Copied");
    } catch {
      getSelection().selectAllChildren(this.#at.curl);
      say(this.#at.copied, "Marked: press Ctrl-C");
    }
  }

  #setInterval(interval) {
    this.#view.interval = interval;
    this.#go();
  }

  #setRange(name) {
    const range = RANGES[name];
    const seconds = range.seconds === Infinity ? now() - (this.#first ?? now() - DAY) : range.seconds;
    const interval = range.seconds !== Infinity ? range.interval : seconds > 5 * 365 * DAY ? "ONE_WEEK" : seconds > 60 * DAY ? "ONE_DAY" : seconds > 5 * DAY ? "ONE_HOUR" : "FIVE_MINUTES";
    this.#view = { ...this.#view, interval, from: now() - seconds, to: now() };
    this.#go(() => {
      this.#view = { ...this.#view, from: null, to: null };
      this.#moved(this.#view);
    });
  }

  #setWindow(event) {
    event.preventDefault();
    const [from, to] = [this.#at.from, this.#at.to].map((input) => Math.floor(Date.parse(`${input.value}Z`) / 1000));
    const problem = Number.isNaN(from) || Number.isNaN(to) ? "Give both ends" : from >= to ? "The end should be after the beginning" : "";
    this.#at.to.setCustomValidity(problem);
    if (problem) return this.#at.to.reportValidity();
    const interval = Object.keys(INTERVALS).find((name) => INTERVALS[name].seconds * 500 >= to - from) ?? "ONE_MONTH";
    this.#view = { ...this.#view, interval: INTERVALS[this.#view.interval].seconds * 5_000 >= to - from ? this.#view.interval : interval, from, to };
    this.#go();
  }

  #go(then = () => {}) {
    this.#moved(this.#view);
    this.#show().then(then, (error) => say(this.#at.words, error.message));
  }

  /** The chart was moved: the address tells where to, or follows the present. */
  #windowMoved(from, to, isLive) {
    const stamp = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 16);
    if (document.activeElement !== this.#at.from && document.activeElement !== this.#at.to) {
      this.#at.from.value = stamp(from);
      this.#at.to.value = stamp(to);
    }
    this.#view = { ...this.#view, from: isLive ? null : from, to: isLive ? null : to };
    this.#moved(this.#view);
  }
}
