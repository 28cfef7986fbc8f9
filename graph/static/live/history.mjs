// The loaded candles of a ticker with their gaps and sources, as signals. It follows changes, and does not draw.

import { batch, signal } from "../vendor/signals-core-1.14.5.mjs";
import { execute, nowSeconds as now } from "./api.mjs";
import { mergeCandles, overlapping } from "./chart_data.mjs";
import { INTERVALS } from "./intervals.mjs";
import { UTC } from "./zones.mjs";

export const PAGE_CANDLES = 500;
export const MAX_LOADED_CANDLES = 5_000;
const MAX_REQUEST_CANDLES = 9_000; // per request; the limit of the API is 10,000
const MAX_PARTS = 300; // of each source: a screen shows no more
const MINUTE = 60;
const DAY = 86_400;
const REFRESH_DELAY_MS = 500;
const RETRY_MS = 5_000;
const CANDLE = "ts end open high low close count expected closed complete watched sampled twap";
const WINDOW = `query ($ticker: String!, $interval: Interval!, $from: UnixTime!, $to: UnixTime, $zone: String!) {
  candles(ticker: $ticker, interval: $interval, from: $from, to: $to, timeZone: $zone, includeOpen: true, includeEmpty: true) { ${CANDLE} }
}`;
const COVERAGE = `query ($ticker: String!, $from: UnixTime!, $to: UnixTime, $begin: UnixTime!, $end: UnixTime!, $pixel: Int!) {
  loaded: coverage(ticker: $ticker, from: $from, to: $to) {
    gaps(first: 1000) { nodes { from to reason state } pageInfo { hasNextPage } }
    parts(first: 1000, mergeWithin: $pixel) { from to source }
  }
  visible: coverage(ticker: $ticker, from: $begin, to: $end) {
    from to expected stored missing live backfilled imported fromPeers extra
    gaps(first: 1000) { nodes { from to reason state } pageInfo { hasNextPage } }
  }
}`;
const DAYS = "query ($ticker: String!, $from: UnixTime!, $to: UnixTime) { coverage(ticker: $ticker, from: $from, to: $to) { days { day expected stored } } }";
const UPDATED = `subscription ($ticker: String!, $interval: Interval!) { candleUpdated(ticker: $ticker, interval: $interval) { ${CANDLE} } }`;

export class History {
  view = signal(null); // of the loaded candles
  candles = signal([]);
  gaps = signal([]);
  parts = signal([]);
  missing = signal([]); // the periods to draw as missing
  coverage = signal(null); // of the visible window: `{ counts, begin, end, window }`, or `{ failure, retry }`; null while that of another window is loaded
  #ticker;
  #socket;
  #events;
  #visible = null;
  #firstTs = null;
  #end = null; // end of the loaded candles; null: they reach to now and are updated live
  #isLoading = false;
  #hasLeft = false;
  #refreshTimer = null;
  #generation = 0; // incremented for each view; responses for another view are dropped
  #unsubscribe = () => {};

  /** `events`: onPut(candles) after candles were added or changed, onCandle(candle) for the open one. */
  constructor(ticker, socket, events) {
    this.#ticker = ticker;
    this.#socket = socket;
    this.#events = events;
  }

  get isLive() {
    return this.#end === null;
  }

  /** Sets the minute of the oldest stored price; null if there is none. */
  setFirst(ts) {
    this.#firstTs = ts;
  }

  leave() {
    this.#hasLeft = true;
    this.#generation++;
    this.#unsubscribe();
    clearTimeout(this.#refreshTimer);
  }

  /** Loads the candles of a view within its bounds, and some around them. Returns whether they are still wanted. */
  async load(view, { from, to }) {
    const generation = ++this.#generation;
    const { seconds } = INTERVALS[view.interval];
    const margin = 50 * seconds;
    this.#isLoading = false;
    const begin = from === null ? now() - PAGE_CANDLES * seconds : from - margin;
    const end = to === null || to + margin >= now() ? null : to + margin;
    const candles = await this.#read(view, begin, end);
    if (generation !== this.#generation) return false;
    this.#end = end;
    batch(() => {
      this.view.value = view;
      this.candles.value = candles;
    });
    this.#follow();
    return true;
  }

  /** Loads older (-1) or newer (1) candles. Above the limit, removes candles on the other side. */
  async loadMore(side) {
    const [first, last] = [this.candles.peek()[0], this.candles.peek().at(-1)];
    const isAllThere = side < 0 ? this.#firstTs === null || first?.ts <= this.#firstTs : this.isLive;
    if (this.#isLoading || !first || isAllThere) return;
    const view = this.view.peek();
    const length = PAGE_CANDLES * INTERVALS[view.interval].seconds;
    this.#isLoading = true;
    try {
      const end = side < 0 ? first.ts : last.end + length >= now() ? null : last.end + length;
      const more = await this.#read(view, side < 0 ? first.ts - length : last.end, end);
      if (!this.#isLoaded(view)) return;
      const all = mergeCandles(this.candles.peek(), more);
      const retained = side < 0 ? all.slice(0, MAX_LOADED_CANDLES) : all.slice(-MAX_LOADED_CANDLES);
      if (side > 0) this.#end = end;
      else if (retained.length < all.length) this.#end = retained.at(-1).end;
      this.#put(retained);
      this.#follow();
      await this.readCoverage();
    } catch (error) {
      console.warn(error.message); // the next scroll retries
    } finally {
      this.#isLoading = false;
    }
  }

  /** Reloads the loaded candles, at most once per half second. */
  refresh() {
    if (!this.view.peek() || this.#hasLeft) return;
    this.#refreshTimer ??= setTimeout(() => this.#reload(), REFRESH_DELAY_MS);
  }

  /** Reads the gaps of the loaded candles, and the coverage of the visible window, which `visible` changes. */
  async readCoverage(visible = this.#visible) {
    this.#visible = visible;
    const generation = this.#generation;
    const [first, last] = [this.candles.peek()[0], this.candles.peek().at(-1)];
    if (!first || !visible) return void (this.coverage.value = null);
    const { begin, end } = visible;
    const shown = this.coverage.peek()?.window;
    if (shown !== visible && !(shown?.follows && visible.follows)) this.coverage.value = null;
    const pixel = Math.floor((last.end - first.ts) / MINUTE / MAX_PARTS);
    const isWanted = () => generation === this.#generation && this.#visible === visible;
    try {
      const loaded = { ticker: this.#ticker, from: first.ts, to: last.end };
      const found = await execute(COVERAGE, { ...loaded, begin, end, pixel });
      const { nodes, pageInfo } = found.loaded.gaps;
      const missing = pageInfo.hasNextPage ? await this.#findIncomplete(loaded) : nodes.filter((one) => one.state !== "FILLED");
      if (!isWanted()) return;
      this.gaps.value = nodes;
      this.parts.value = found.loaded.parts;
      this.missing.value = missing;
      this.coverage.value = { counts: found.visible, begin, end: Math.min(end, now()), window: visible };
    } catch (error) {
      if (isWanted()) this.coverage.value = { failure: error.message, retry: () => this.readCoverage() };
    }
  }

  /** Reads the candles of a window, including empty ones. `to` null means now. */
  async #read({ interval, zone }, from, to) {
    const { seconds } = INTERVALS[interval];
    const first = this.#firstTs === null ? now() - DAY : this.#firstTs - seconds;
    const low = Math.max(0, Math.min(Math.max(from, first), now() - MINUTE), (to ?? now()) - MAX_REQUEST_CANDLES * seconds);
    if (to !== null && low >= to) return [];
    const { candles } = await execute(WINDOW, { ticker: this.#ticker, interval, from: low, to, zone });
    return this.#firstTs === null ? candles : candles.filter(({ end }) => end > this.#firstTs);
  }

  /** Returns whether a view is still the loaded one: candles of another one must not be mixed with it. */
  #isLoaded(view) {
    return view === this.view.peek() && !this.#hasLeft;
  }

  #put(candles) {
    this.candles.value = candles;
    this.#events.onPut(candles);
  }

  /** Subscribes to the open candle if the candles reach to now. In another zone than UTC, no subscription has them. */
  #follow() {
    this.#unsubscribe();
    this.#unsubscribe = () => {};
    if (!this.isLive || this.view.peek().zone !== UTC) return;
    const view = this.view.peek();
    this.#unsubscribe = this.#socket.subscribe(UPDATED, { ticker: this.#ticker, interval: view.interval }, {
      onData: (candle) => this.#isLoaded(view) && this.#onCandle(candle),
      onReconnect: () => this.refresh(),
    });
  }

  #onCandle(candle) {
    const last = this.candles.peek().at(-1);
    if (!last || candle.ts > last.end || candle.ts < last.ts) return this.refresh(); // candles in between are missing, or an older one changed
    this.candles.value = mergeCandles(this.candles.peek(), [candle]);
    this.#events.onCandle(candle);
  }

  async #reload() {
    this.#refreshTimer = null;
    const view = this.view.peek();
    try {
      const found = await this.#read(view, this.candles.peek()[0]?.ts ?? now() - DAY, this.#end);
      if (!this.#isLoaded(view)) return;
      this.#put(mergeCandles(this.candles.peek(), found).slice(-MAX_LOADED_CANDLES));
      await this.readCoverage();
    } catch (error) {
      console.warn(error.message);
      if (this.#isLoaded(view)) this.#refreshTimer ??= setTimeout(() => this.#reload(), RETRY_MS);
    }
  }

  /** Returns the candles that lack minutes on days when some were expected: for a window with more gaps than can be listed. */
  async #findIncomplete(loaded) {
    const { coverage } = await execute(DAYS, loaded);
    const days = coverage.days.filter((one) => one.stored < one.expected).map(({ day }) => ({ from: day, to: day + DAY }));
    const isMissing = (candle) => candle.closed && !candle.complete && overlapping(days, candle).length > 0;
    return this.candles.peek().filter(isMissing).map(({ ts, end }) => ({ from: ts, to: end }));
  }
}
