// The view of one ticker: price, candle chart with gaps, coverage.

import { execute } from "./api.mjs";
import { mergeCandles, overlapping } from "./chart_data.mjs";
import { Chart } from "./chart.mjs";
import { make, setText } from "./dom.mjs";
import { createCompleteness } from "./completeness.mjs";
import { createControls } from "./controls.mjs";
import { change, direction, duration, instant, instantAfter, price, setZone } from "./format.mjs";
import { describeCandle } from "./legend.mjs";
import { createLinks } from "./links.mjs";
import { INTERVALS, RANGES, intervalFor } from "./state.mjs";
import { MIN_CANDLES, fitWindow } from "./windows.mjs";
import { UTC } from "./zones.mjs";

const PAGE_CANDLES = 500;
const MAX_LOADED_CANDLES = 5_000;
const MAX_REQUEST_CANDLES = 9_000; // per request; the limit of the API is 10,000
const MINUTE = 60;
const MAX_PARTS = 300; // of each source: a screen shows no more
const TICKER = `query ($ticker: String!, $day: UnixTime!) {
  ticker(name: $ticker) { tracked since latest { id ts price } }
  first: prices(ticker: $ticker, order: OLDEST_FIRST, first: 1) { nodes { ts } }
  summary(ticker: $ticker, from: $day) { first { ts price } high { price } low { price } }
}`;
const CANDLE = "ts end open high low close count expected closed complete watched sampled";
const WINDOW = `query ($ticker: String!, $interval: Interval!, $from: UnixTime!, $to: UnixTime, $zone: String!) {
  candles(ticker: $ticker, interval: $interval, from: $from, to: $to, timeZone: $zone, includeOpen: true, includeEmpty: true) { ${CANDLE} }
}`;
const COVERAGE = `query ($ticker: String!, $from: UnixTime!, $to: UnixTime, $begin: UnixTime!, $end: UnixTime!, $pixel: Int!) {
  loaded: coverage(ticker: $ticker, from: $from, to: $to) {
    gaps(first: 1000) { nodes { from to reason state } pageInfo { hasNextPage } }
    parts(first: 1000, mergeWithin: $pixel) { from to source }
  }
  visible: coverage(ticker: $ticker, from: $begin, to: $end) {
    expected stored missing live backfilled imported fromPeers extra
    gaps(first: 1000) { nodes { from to reason state } pageInfo { hasNextPage } }
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

/** Shows a ticker in `main`. Returns a function that stops its updates. */
export async function showTicker(main, view, { socket, go, onMove, isCurrent }) {
  const found = await execute(TICKER, { ticker: view.ticker, day: now() - DAY });
  if (!isCurrent()) return () => {};
  if (!found.ticker) throw Object.assign(new Error(`Unknown ticker: ${view.ticker}.`), { code: "UNKNOWN_TICKER" });
  const page = new TickerView(main, view, found, { socket, go, onMove, isCurrent });
  try {
    await page.begin();
  } catch (error) {
    page.leave();
    throw error;
  }
  return () => page.leave();
}

class TickerView {
  #view;
  #onMove;
  #socket;
  #latest = null;
  #isTracked;
  #dayStart = null;
  #firstPriceTs;
  #candles = [];
  #gaps = [];
  #parts = [];
  #shown = null; // the last view that was loaded
  #visible = null; // what the chart shows: begin, end, and whether it follows the newest candle
  #end = null; // end of the loaded candles; null: they reach to now and are updated live
  #isLoading = false;
  #cleanups = [];
  #unsubscribeCandles = () => {};
  #refreshing = null;
  #generation = 0; // incremented for each view; responses for another view are dropped
  #isCurrent;
  #chart;
  #controls;
  #completeness;
  #links;
  #elements = {};

  constructor(main, view, found, { socket, go, onMove, isCurrent }) {
    this.#view = { ...view };
    this.#onMove = onMove;
    this.#socket = socket;
    this.#isCurrent = isCurrent;
    setZone(view.zone);
    this.#build(main, go);
    this.#applyData(found);
    document.title = `${view.ticker} · Tickgraph`;
  }

  #build(main, go) {
    const elements = this.#elements;
    elements.price = make("p", { class: "price big" });
    elements.change = make("p", { class: "change" });
    elements.age = make("p", { class: "age" });
    elements.range = make("p", { class: "dayrange" });
    elements.chart = make("div", { class: "chart", tabindex: "0", role: "group", "aria-label": `Candles of ${this.#view.ticker}`, "aria-describedby": "keys" });
    elements.legend = make("p", { class: "legend", role: "status", "aria-live": "off" });
    this.#controls = createControls(this.#view, {
      interval: (name) => this.#setInterval(name),
      range: (name) => this.#setRange(name),
      window: (from, to) => this.#setWindow(from, to),
      zone: (name) => this.#setZone(name),
      now: () => this.#goToNow(),
    });
    this.#completeness = createCompleteness();
    this.#links = createLinks(this.#view.ticker);
    main.replaceChildren(
      make("nav", { class: "back", "aria-label": "Back" }, make("a", { href: "./", text: "← All tickers", onclick: go })),
      make("section", { class: "head", "aria-labelledby": "name" },
        make("h1", { id: "name", text: this.#view.ticker }),
        make("div", { class: "now" }, elements.price, elements.change, elements.age, elements.range)),
      this.#controls.element,
      make("section", { class: "panel", "aria-label": "Chart" },
        elements.legend,
        elements.chart,
        make("p", { class: "keys", id: "keys", text: "Arrow keys scroll, + and − zoom, End shows the newest candle. Shift and an arrow key select a candle." }),
        make("ul", { class: "key" },
          make("li", { class: "missing", text: "missing" }), make("li", { class: "backfilled", text: "backfilled" }), make("li", { class: "imported", text: "imported" }), make("li", { class: "sampled", text: "one sample a minute" }))),
      this.#completeness.element,
      this.#links.element,
    );
  }

  async begin() {
    this.#chart = new Chart(this.#elements.chart, {
      onHover: (time) => this.#showLegend(time),
      onWindow: (from, to, isLive) => this.#windowMoved(from, to, isLive),
      onNow: () => this.#goToNow(),
      onOlder: () => this.#loadMore(-1),
      onNewer: () => this.#loadMore(1),
    });
    // Screen readers announce the legend for the keyboard, not for each mouse move.
    this.#elements.chart.addEventListener("keydown", () => this.#elements.legend.setAttribute("aria-live", "polite"));
    this.#elements.chart.addEventListener("pointermove", () => this.#elements.legend.setAttribute("aria-live", "off"));
    this.#cleanups.push(() => this.#chart.remove());
    await this.#show();
    if (!this.#isCurrent()) return;
    this.#cleanups.push(this.#listen());
    const priceTimer = setInterval(() => this.#showPrice(), 1_000);
    const dayTimer = setInterval(() => this.#reload(), 300_000);
    this.#cleanups.push(() => clearInterval(priceTimer), () => clearInterval(dayTimer), () => clearTimeout(this.#refreshing));
  }

  leave() {
    this.#generation++;
    for (const end of this.#cleanups) end();
    this.#unsubscribeCandles();
    document.title = "Tickgraph";
  }

  #listen() {
    return this.#socket.subscribe(CHANGES, { ticker: this.#view.ticker, after: this.#latest?.id ?? null }, {
      onData: (event) => {
        switch (event.__typename) {
          case "Price":
            if (!this.#latest || event.ts >= this.#latest.ts) this.#latest = event;
            this.#firstPriceTs ??= event.ts;
            this.#showPrice();
            // candleUpdated delivers the last candle; an older price changes another candle.
            // In another zone than UTC, no subscription has its candles.
            if (event.ts < (this.#candles.at(-1)?.ts ?? 0) || (this.#view.zone !== UTC && this.#end === null)) this.#refresh();
            break;
          case "HistoryChanged":
          case "TickerChanged":
            this.#reload();
            break;
          default:
            this.#refresh();
        }
      },
      onReconnect: () => this.#reload(),
    });
  }

  /** Reloads the data that no event delivers: the summary of the last 24 hours and the state of the ticker. */
  async #reload() {
    const generation = this.#generation;
    try {
      const found = await execute(TICKER, { ticker: this.#view.ticker, day: now() - DAY });
      if (generation === this.#generation) this.#applyData(found);
    } catch (error) {
      console.warn(error.message); // the timer retries in five minutes
    }
    this.#refresh();
  }

  #applyData(found) {
    this.#isTracked = found.ticker.tracked;
    if (found.ticker.latest && (!this.#latest || found.ticker.latest.ts >= this.#latest.ts)) this.#latest = found.ticker.latest;
    this.#dayStart = found.summary?.first ?? null;
    this.#firstPriceTs = found.first.nodes[0]?.ts ?? null;
    setText(this.#elements.range, found.summary ? `24 h: ${price(found.summary.low.price)} to ${price(found.summary.high.price)}` : "");
    this.#showPrice();
  }

  /** Subscribes to the open candle if the chart reaches to now. */
  #follow() {
    this.#unsubscribeCandles();
    this.#unsubscribeCandles = () => {};
    if (this.#end !== null || this.#view.zone !== UTC) return;
    const generation = this.#generation;
    this.#unsubscribeCandles = this.#socket.subscribe(UPDATED, { ticker: this.#view.ticker, interval: this.#view.interval }, {
      onData: (candle) => {
        if (generation !== this.#generation) return;
        const last = this.#candles.at(-1);
        if (!last || candle.ts > last.end) return this.#refresh(); // candles in between are missing
        this.#candles = mergeCandles(this.#candles, [candle]);
        if (candle.ts >= last.ts) this.#chart.update(candle);
        else this.#refresh();
      },
      onReconnect: () => this.#refresh(),
    });
  }

  /** Loads and shows the view. Drops responses for the previous view. */
  async #show() {
    const generation = ++this.#generation;
    const { interval } = this.#view;
    const margin = 50 * INTERVALS[interval].seconds;
    if (this.#view.from !== null) this.#view = { ...this.#view, ...fitWindow(this.#view, INTERVALS[interval].seconds, now()) };
    const { from, to } = this.#view;
    this.#controls.showInterval(interval);
    this.#onMove(this.#view);
    const begin = from === null ? now() - PAGE_CANDLES * INTERVALS[interval].seconds : from - margin;
    const end = to === null || to + margin >= now() ? null : to + margin;
    const candles = await this.#read(begin, end);
    if (generation !== this.#generation) return;
    this.#candles = candles;
    this.#shown = this.#view;
    this.#end = end;
    this.#visible = { begin: from ?? candles.at(-100)?.ts ?? candles[0]?.ts ?? now() - DAY, end: to ?? now(), follows: from === null };
    this.#controls.showWindow(this.#visible);
    this.#elements.chart.dataset.interval = interval;
    this.#chart.show(candles, { from, to }, { asLine: interval === "ONE_MINUTE" && candles.every((one) => one.sampled === one.count) });
    this.#follow();
    await this.#readCoverage();
  }

  /** Reads the candles of a window, including empty ones. `to` null means now. */
  async #read(from, to) {
    const seconds = INTERVALS[this.#view.interval].seconds;
    const first = this.#firstPriceTs === null ? now() - DAY : this.#firstPriceTs - seconds;
    const low = Math.max(0, Math.min(Math.max(from, first), now() - MINUTE), (to ?? now()) - MAX_REQUEST_CANDLES * seconds);
    if (to !== null && low >= to) return [];
    const { candles } = await execute(WINDOW, { ticker: this.#view.ticker, interval: this.#view.interval, from: low, to, zone: this.#view.zone });
    return candles;
  }

  /** Loads older (-1) or newer (1) candles. Above the limit, removes candles on the other side. */
  async #loadMore(side) {
    const [first, last] = [this.#candles[0], this.#candles.at(-1)];
    const isAllThere = side < 0 ? this.#firstPriceTs === null || first?.ts <= this.#firstPriceTs : this.#end === null;
    if (this.#isLoading || !first || isAllThere) return;
    const generation = this.#generation;
    const span = PAGE_CANDLES * INTERVALS[this.#view.interval].seconds;
    this.#isLoading = true;
    try {
      const end = side < 0 ? first.ts : last.end + span >= now() ? null : last.end + span;
      const more = await this.#read(side < 0 ? first.ts - span : last.end, end);
      if (generation !== this.#generation) return;
      const all = mergeCandles(this.#candles, more);
      const retained = side < 0 ? all.slice(0, MAX_LOADED_CANDLES) : all.slice(-MAX_LOADED_CANDLES);
      if (side > 0) this.#end = end;
      else if (retained.length < all.length) this.#end = retained.at(-1).end;
      this.#candles = retained;
      this.#chart.put(retained);
      this.#follow();
      await this.#readCoverage();
    } catch (error) {
      console.warn(error.message); // the next scroll retries
    } finally {
      this.#isLoading = false;
    }
  }

  /** Reloads the shown candles, at most once per half second. */
  #refresh() {
    if (this.#refreshing) return;
    this.#refreshing = setTimeout(async () => {
      this.#refreshing = null;
      const generation = this.#generation;
      try {
        const candles = await this.#read(this.#candles[0]?.ts ?? now() - DAY, this.#end);
        if (generation !== this.#generation) return;
        this.#candles = mergeCandles(this.#candles, candles).slice(-MAX_LOADED_CANDLES);
        this.#chart.put(this.#candles);
        await this.#readCoverage();
      } catch (error) {
        console.warn(error.message);
        if (generation === this.#generation) this.#refreshing ??= setTimeout(() => ((this.#refreshing = null), this.#refresh()), 5_000);
      }
    }, 500);
  }

  /** Draws the gaps of the loaded candles, and describes those of the visible window. */
  async #readCoverage() {
    const generation = this.#generation;
    const [first, last] = [this.#candles[0], this.#candles.at(-1)];
    const { begin, end, follows } = this.#visible;
    this.#links.show(this.#view, begin, follows ? null : end);
    if (!first) return this.#completeness.showNothing(this.#firstPriceTs, this.#latest?.ts ?? null, this.#view.zone, () => this.#setRange("All"));
    const pixel = Math.floor((last.end - first.ts) / MINUTE / MAX_PARTS);
    const { loaded, visible } = await execute(COVERAGE, { ticker: this.#view.ticker, from: first.ts, to: last.end, begin, end, pixel });
    if (generation !== this.#generation || this.#visible.begin !== begin || this.#visible.end !== end) return;
    this.#gaps = loaded.gaps.nodes;
    this.#parts = loaded.parts;
    this.#chart.mark(this.#candles, this.#missing(loaded.gaps.pageInfo.hasNextPage), this.#parts);
    this.#completeness.show(visible, { begin, end: Math.min(end, now()) }, this.#view.zone);
  }

  /** Returns the periods to draw as missing. If there are too many gaps to list, returns each incomplete candle. */
  #missing(areTooMany) {
    if (!areTooMany) return this.#gaps.filter((one) => one.state !== "FILLED");
    return this.#candles.filter((one) => one.closed && !one.complete).map((one) => ({ from: one.ts, to: one.end }));
  }

  #showPrice() {
    const elements = this.#elements;
    if (!this.#latest) {
      setText(elements.price, "no price yet");
      return;
    }
    setText(elements.price, price(this.#latest.price));
    const seconds = Date.now() / 1000 - this.#latest.ts;
    setText(elements.age, `${instant(this.#latest.ts)} ${this.#view.zone}, ${duration(seconds)} ago${this.#isTracked ? "" : "; no longer tracked"}`);
    elements.age.classList.toggle("stale", this.#isTracked && seconds > 180);
    if (this.#dayStart === null) return;
    const isWholeDay = this.#dayStart.ts <= now() - DAY + 600;
    const since = isWholeDay ? "in 24 h" : `since ${instantAfter(this.#dayStart.ts, now())}`;
    setText(elements.change, `${change(this.#dayStart.price, this.#latest.price)} ${since}`);
    elements.change.dataset.direction = direction(this.#dayStart.price, this.#latest.price);
  }

  #showLegend(time) {
    const candle = time === null ? this.#candles.at(-1) : this.#candles.find((one) => one.ts === time);
    if (!candle) return setText(this.#elements.legend, "");
    setText(this.#elements.legend, describeCandle(candle, this.#gaps, this.#parts));
    this.#elements.legend.classList.toggle("gap", overlapping(this.#gaps, candle).some((one) => one.state !== "FILLED"));
  }

  #setInterval(interval) {
    this.#view = { ...this.#view, interval };
    this.#showChangedView();
  }

  #setRange(name) {
    const range = RANGES[name];
    const last = range.seconds === Infinity ? (this.#latest?.ts ?? now()) + MINUTE : now();
    const seconds = range.seconds === Infinity ? last - (this.#firstPriceTs ?? last - DAY) : range.seconds;
    const interval = range.seconds !== Infinity ? range.interval : intervalFor(seconds, PAGE_CANDLES);
    this.#view = { ...this.#view, interval, from: last - seconds, to: last };
    this.#showChangedView(name);
  }

  #setWindow(from, to) {
    const count = (to - from) / INTERVALS[this.#view.interval].seconds;
    const fits = count >= MIN_CANDLES && count <= PAGE_CANDLES;
    this.#view = { ...this.#view, interval: fits ? this.#view.interval : intervalFor(to - from, PAGE_CANDLES), from, to };
    this.#showChangedView();
  }

  #setZone(zone) {
    setZone(zone);
    this.#view = { ...this.#view, zone };
    this.#showChangedView();
  }

  #goToNow() {
    this.#view = { ...this.#view, from: null, to: null };
    this.#showChangedView();
  }

  #showChangedView(range = null) {
    this.#controls.showRange(range);
    const wanted = this.#view;
    this.#show().catch((error) => {
      // The controls show what the chart shows, until the wanted view is loaded.
      this.#view = this.#shown;
      this.#controls.showInterval(this.#view.interval);
      this.#controls.showRange(null);
      this.#onMove(this.#view);
      this.#completeness.showFailure(error, () => {
        this.#view = wanted;
        this.#showChangedView(range);
      });
    });
  }

  /** Handles a chart that the user moved: its window becomes that of the inputs, the texts, the links and the URL. */
  #windowMoved(from, to, isLive) {
    const follows = isLive && this.#end === null;
    this.#visible = { begin: from, end: to, follows };
    this.#view = { ...this.#view, from: follows ? null : from, to: follows ? null : to };
    this.#controls.showWindow(this.#visible);
    this.#controls.showRange(null);
    this.#onMove(this.#view);
    this.#readCoverage().catch((error) => console.warn(error.message));
  }
}
