// One ticker: its price, its candles with their gaps, and how complete they are.

import { ask, hasKey, headers } from "./api.mjs";
import { merged, touching } from "./buckets.mjs";
import { Chart } from "./chart.mjs";
import { make, say } from "./dom.mjs";
import { change, coverage, direction, duration, gap, instant, minutes, price } from "./format.mjs";
import { INTERVALS, RANGES, intervalFor } from "./state.mjs";

const AT_ONCE = 500;
const LOADED_MOST = 5_000; // candles
const CANDLES_MOST = 9_000; // of one question; the API gives 10,000
const MINUTE = 60;
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
    gaps(first: 1000) { nodes { from to reason state } pageInfo { hasNextPage } }
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
export async function ticker(main, view, { socket, go, moved, isCurrent }) {
  const found = await ask(TICKER, { ticker: view.ticker, day: now() - DAY });
  if (!isCurrent()) return () => {};
  if (!found.ticker) throw Object.assign(new Error(`${view.ticker} is not known.`), { code: "UNKNOWN_TICKER" });
  const page = new Ticker(main, view, found, { socket, go, moved, isCurrent });
  try {
    await page.begin();
  } catch (error) {
    page.leave();
    throw error;
  }
  return () => page.leave();
}

class Ticker {
  #view;
  #moved;
  #socket;
  #latest = null;
  #isTracked;
  #dayBegan;
  #first;
  #candles = [];
  #gaps = [];
  #parts = [];
  #end = null; // of what is loaded; null: it reaches to now, and is followed
  #isLoading = false;
  #leaving = [];
  #leaveCandles = () => {};
  #refreshing = null;
  #generation = 0; // grows with each view: what comes for another is dropped
  #isCurrent;
  #chart;
  #at = {};

  constructor(main, view, found, { socket, go, moved, isCurrent }) {
    this.#view = { ...view };
    this.#moved = moved;
    this.#socket = socket;
    this.#isCurrent = isCurrent;
    this.#build(main, go);
    this.#take(found);
    document.title = `${view.ticker} · Tickgraph`;
  }

  #build(main, go) {
    const at = this.#at;
    at.price = make("p", { class: "price big" });
    at.change = make("p", { class: "change" });
    at.age = make("p", { class: "age" });
    at.range = make("p", { class: "dayrange" });
    at.chart = make("div", { class: "chart", tabindex: "0", role: "group", "aria-label": `Candles of ${this.#view.ticker}`, "aria-describedby": "keys" });
    at.legend = make("p", { class: "legend", role: "status", "aria-live": "off" });
    at.words = make("p", { class: "words", text: "…" });
    at.list = make("ul", { class: "gaps" });
    at.intervals = this.#choice("Interval", INTERVALS, (name) => this.#setInterval(name));
    at.ranges = this.#choice("Range", RANGES, (name) => this.#setRange(name), { isKept: false });
    const isMended = () => at.to.setCustomValidity("");
    at.from = make("input", { type: "datetime-local", step: "60", "aria-label": "From, UTC", oninput: isMended });
    at.to = make("input", { type: "datetime-local", step: "60", "aria-label": "To, UTC", oninput: isMended });
    at.graphiql = make("a", { text: "GraphQL" });
    at.csv = make("a", { text: "CSV", download: "", onclick: (event) => hasKey() && this.#download(event) });
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
        make("p", { class: "keys", id: "keys", text: "Arrow keys move, + and − zoom, End goes to now; with Shift, arrow keys read candle by candle." }),
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

  /** Buttons, one of which is pressed, or, where they do not stay so, none. */
  #choice(name, values, chosen, { isKept = true } = {}) {
    const buttons = Object.entries(values).map(([key, one]) =>
      make("button", { type: "button", "aria-pressed": isKept && "false", "aria-label": `${one.short ?? key}: ${one.name}`, title: one.name, text: one.short ?? key, "data-key": key, onclick: () => chosen(key) }));
    const element = make("div", { class: "choice", role: "group", "aria-label": name }, ...buttons);
    return { element, show: (key) => buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.key === key))) };
  }

  async begin() {
    this.#chart = new Chart(this.#at.chart, {
      onHover: (time) => this.#showLegend(time),
      onWindow: (from, to, isLive) => this.#windowMoved(from, to, isLive),
      onOlder: () => this.#more(-1),
      onNewer: () => this.#more(1),
    });
    // Read out while it is moved by keys, and not at each move of a mouse.
    this.#at.chart.addEventListener("keydown", () => this.#at.legend.setAttribute("aria-live", "polite"));
    this.#at.chart.addEventListener("pointermove", () => this.#at.legend.setAttribute("aria-live", "off"));
    this.#leaving.push(() => this.#chart.remove());
    await this.#show();
    if (!this.#isCurrent()) return;
    this.#leaving.push(this.#listen());
    const ages = setInterval(() => this.#showPrice(), 1_000);
    const days = setInterval(() => this.#again(), 300_000);
    this.#leaving.push(() => clearInterval(ages), () => clearInterval(days), () => clearTimeout(this.#refreshing));
  }

  leave() {
    this.#generation++;
    for (const end of this.#leaving) end();
    this.#leaveCandles();
    document.title = "Tickgraph";
  }

  #listen() {
    return this.#socket.subscribe(CHANGES, { ticker: this.#view.ticker, after: this.#latest?.id ?? null }, {
      onData: (event) => {
        switch (event.__typename) {
          case "Price":
            if (!this.#latest || event.ts >= this.#latest.ts) this.#latest = event;
            this.#first ??= event.ts;
            this.#showPrice();
            // What belongs to the last candle comes with it; what is older changes another.
            if (event.ts < (this.#candles.at(-1)?.ts ?? 0)) this.#refresh();
            break;
          case "HistoryChanged":
          case "TickerChanged":
            this.#again();
            break;
          default:
            this.#refresh();
        }
      },
      onAgain: () => this.#again(),
    });
  }

  /** What is told of the last day, and whatever else is not told by events. */
  async #again() {
    const mine = this.#generation;
    try {
      const found = await ask(TICKER, { ticker: this.#view.ticker, day: now() - DAY });
      if (mine === this.#generation) this.#take(found);
    } catch (error) {
      console.warn(error.message); // it is asked again in a few minutes
    }
    this.#refresh();
  }

  #take(found) {
    this.#isTracked = found.ticker.tracked;
    if (found.ticker.latest && (!this.#latest || found.ticker.latest.ts >= this.#latest.ts)) this.#latest = found.ticker.latest;
    this.#dayBegan = found.summary?.first.price ?? null;
    this.#first = found.first.nodes[0]?.ts ?? null;
    say(this.#at.range, found.summary ? `24 h: ${price(found.summary.low.price)} to ${price(found.summary.high.price)}` : "");
    this.#showPrice();
  }

  /** Follows the open candle where the chart reaches to now. */
  #follow() {
    this.#leaveCandles();
    this.#leaveCandles = () => {};
    if (this.#end !== null) return;
    const mine = this.#generation;
    this.#leaveCandles = this.#socket.subscribe(UPDATED, { ticker: this.#view.ticker, interval: this.#view.interval }, {
      onData: (candle) => {
        if (mine !== this.#generation) return;
        const last = this.#candles.at(-1);
        if (!last || candle.ts > last.end) return this.#refresh(); // those between are not there yet
        this.#candles = merged(this.#candles, [candle]);
        if (candle.ts >= last.ts) this.#chart.update(candle);
        else this.#refresh();
      },
      onAgain: () => this.#refresh(),
    });
  }

  /** Shows the view anew. What was asked for the one before is dropped when it comes. */
  async #show() {
    const mine = ++this.#generation;
    const { interval, from, to } = this.#view;
    const beside = 50 * INTERVALS[interval].seconds;
    this.#at.intervals.show(interval);
    const begin = from === null ? now() - AT_ONCE * INTERVALS[interval].seconds : from - beside;
    const end = to === null || to + beside >= now() ? null : to + beside;
    const candles = await this.#read(begin, end);
    if (mine !== this.#generation) return;
    this.#candles = candles;
    this.#end = end;
    this.#chart.show(candles, { from, to }, { asLine: interval === "ONE_MINUTE" });
    this.#follow();
    await this.#readCoverage();
  }

  /** The candles of a window, empty ones too; `to` null: up to now. */
  async #read(from, to) {
    const seconds = INTERVALS[this.#view.interval].seconds;
    const first = this.#first === null ? now() - DAY : this.#first - seconds;
    const low = Math.max(0, Math.min(Math.max(from, first), now() - MINUTE), (to ?? now()) - CANDLES_MOST * seconds);
    if (to !== null && low >= to) return [];
    const { candles } = await ask(WINDOW, { ticker: this.#view.ticker, interval: this.#view.interval, from: low, to });
    return candles;
  }

  /** Older (-1) or newer (1) candles than are loaded. Of very many those on the other side go. */
  async #more(side) {
    const [first, last] = [this.#candles[0], this.#candles.at(-1)];
    const isAllThere = side < 0 ? this.#first === null || first?.ts <= this.#first : this.#end === null;
    if (this.#isLoading || !first || isAllThere) return;
    const mine = this.#generation;
    const span = AT_ONCE * INTERVALS[this.#view.interval].seconds;
    this.#isLoading = true;
    try {
      const end = side < 0 ? first.ts : last.end + span >= now() ? null : last.end + span;
      const more = await this.#read(side < 0 ? first.ts - span : last.end, end);
      if (mine !== this.#generation) return;
      const all = merged(this.#candles, more);
      const kept = side < 0 ? all.slice(0, LOADED_MOST) : all.slice(-LOADED_MOST);
      if (side > 0) this.#end = end;
      else if (kept.length < all.length) this.#end = kept.at(-1).end;
      this.#candles = kept;
      this.#chart.put(kept);
      this.#follow();
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
      const mine = this.#generation;
      try {
        const candles = await this.#read(this.#candles[0]?.ts ?? now() - DAY, this.#end);
        if (mine !== this.#generation) return;
        this.#candles = merged(this.#candles, candles).slice(-LOADED_MOST);
        this.#chart.put(this.#candles);
        await this.#readCoverage();
      } catch (error) {
        console.warn(error.message);
        if (mine === this.#generation) this.#refreshing ??= setTimeout(() => ((this.#refreshing = null), this.#refresh()), 5_000);
      }
    }, 500);
  }

  async #readCoverage() {
    const mine = this.#generation;
    const [first, last] = [this.#candles[0], this.#candles.at(-1)];
    if (!first) return say(this.#at.words, "Nothing is stored here.");
    const { coverage: found } = await ask(COVERAGE, { ticker: this.#view.ticker, from: first.ts, to: last.end });
    if (mine !== this.#generation) return;
    this.#gaps = found.gaps.nodes;
    this.#parts = found.parts;
    this.#chart.mark(this.#candles, this.#missing(found.gaps.pageInfo.hasNextPage), this.#parts);
    say(this.#at.words, `From ${instant(first.ts)} to ${instant(Math.min(last.end, now()))}. ${coverage(found)}`);
    this.#at.list.replaceChildren(...this.#gaps.slice(-20).reverse().map((one) => make("li", { "data-state": one.state, text: gap(one) })));
    if (found.gaps.pageInfo.hasNextPage) this.#at.list.prepend(make("li", { text: "There are more periods than are listed; a shorter window tells them." }));
    else if (this.#gaps.length > 20) this.#at.list.append(make("li", { text: `and ${this.#gaps.length - 20} periods before` }));
    this.#showSame(first.ts, this.#end === null ? null : last.end);
  }

  /** The periods that are drawn as missing; where there are too many to list them, each candle that is not whole is one. */
  #missing(areTooMany) {
    if (!areTooMany) return this.#gaps.filter((one) => one.state !== "FILLED");
    return this.#candles.filter((one) => one.closed && !one.complete).map((one) => ({ from: one.ts, to: one.end }));
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
    const gaps = touching(this.#gaps, candle);
    const parts = [instant(candle.ts)];
    if (candle.open !== null) {
      parts.push(`open ${price(candle.open)}`, `high ${price(candle.high)}`, `low ${price(candle.low)}`, `close ${price(candle.close)}`);
      if (!candle.closed) parts.push("still open");
      else if (!candle.complete) parts.push(`${candle.count} of ${minutes(candle.expected)}`);
    } else {
      parts.push("no prices");
    }
    parts.push(...gaps.slice(0, 2).map(gap));
    const sources = touching(this.#parts, candle).map((one) => one.source.toLowerCase());
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
    say(this.#at.curl, `curl ${hasKey() ? "-H 'Authorization: Bearer …' " : ""}'${location.origin}${csv}'`);
  }

  /** A link brings no key. */
  async #download(event) {
    event.preventDefault();
    const response = await fetch(this.#at.csv.href, { headers: headers() });
    if (!response.ok) {
      say(this.#at.copied, `The file could not be read: HTTP ${response.status}`);
      return;
    }
    const address = URL.createObjectURL(await response.blob());
    make("a", { href: address, download: `${this.#view.ticker}.csv` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
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
    this.#go();
  }

  #setWindow(event) {
    event.preventDefault();
    const [from, to] = [this.#at.from, this.#at.to].map((input) => Math.floor(Date.parse(`${input.value}Z`) / 1000));
    const problem = Number.isNaN(from) || Number.isNaN(to) ? "Give both ends" : from >= to ? "The end should be after the beginning" : "";
    this.#at.to.setCustomValidity(problem);
    if (problem) return this.#at.to.reportValidity();
    const interval = intervalFor(to - from, AT_ONCE);
    this.#view = { ...this.#view, interval: INTERVALS[this.#view.interval].seconds * 5_000 >= to - from ? this.#view.interval : interval, from, to };
    this.#go();
  }

  #go() {
    this.#moved(this.#view);
    this.#show().catch((error) => say(this.#at.words, error.message));
  }

  /** The chart was moved: the address tells where to, or follows the present. */
  #windowMoved(from, to, isLive) {
    const stamp = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 16);
    if (document.activeElement !== this.#at.from && document.activeElement !== this.#at.to) {
      this.#at.from.value = stamp(from);
      this.#at.to.value = stamp(to);
    }
    const follows = isLive && this.#end === null;
    this.#view = { ...this.#view, from: follows ? null : from, to: follows ? null : to };
    this.#moved(this.#view);
  }
}
