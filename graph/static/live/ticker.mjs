// The view of one ticker: its price, its chart, and everything about the visible window.

import { effect, signal, untracked } from "../vendor/signals-core-1.14.5.mjs";
import { execute, nowSeconds as now } from "./api.mjs";
import { Chart } from "./chart.mjs";
import { addChartKeys, viewKeys } from "./chart_keys.mjs";
import { loadChanges } from "./changes.mjs";
import { isSampled } from "./chart_data.mjs";
import { Comparison, withLatest } from "./comparison.mjs";
import { showWindow } from "./controls.mjs";
import { instant, price, setZone } from "./format.mjs";
import { History } from "./history.mjs";
import { INTERVALS } from "./intervals.mjs";
import { bindKeys } from "./keys.mjs";
import { addLevel } from "./levels.mjs";
import { Measure } from "./measure.mjs";
import { withTitle } from "./picture.mjs";
import { newer } from "./prices.mjs";
import { save } from "./share.mjs";
import { ShownWindow } from "./shown_window.mjs";
import { CONNECTED, clock, connection, isStale, navigate, tickers, view } from "./state.mjs";
import { loadStatistics } from "./statistics_panel.mjs";
import { levels, theme } from "./storage.mjs";
import { tickerTemplate } from "./ticker_template.mjs";
import { UTC } from "./zones.mjs";

const RELOAD_MS = 300_000;
const RETRY_MS = 5_000;
const TICKER = `query ($ticker: String!) {
  ticker(name: $ticker) { name tracked since latest { id ts price } }
  first: prices(ticker: $ticker, order: OLDEST_FIRST, first: 1) { nodes { ts } }
}`;
const CHANGES = `subscription ($ticker: String!, $after: ID) {
  changes(tickers: [$ticker], after: $after) {
    __typename
    ... on Price { id ts price }
    ... on HistoryChanged { id }
    ... on GapOpened { id }
    ... on GapClosed { id }
    ... on TickerChanged { id }
  }
}`;

/** Opens the view of the URL. `show` shows a template. Returns a function that ends its updates. */
export async function open(show, { socket, isCurrent }) {
  const { ticker } = view.peek();
  const found = await execute(TICKER, { ticker });
  if (!isCurrent()) return () => {};
  if (!found.ticker) throw Object.assign(new Error(`Unknown ticker: ${ticker}.`), { code: "UNKNOWN_TICKER" });
  const page = new TickerPage(found, socket);
  page.begin(show);
  return () => page.leave();
}

class TickerPage {
  ticker; // as the API lists it
  latest = signal(null);
  firstTs = signal(null);
  window; // which window is loaded and shown
  hovered = signal(null); // the start of the candle under the crosshair
  periods = signal(null); // changes over usual periods
  statistics = signal(null); // of the visible window; an error if they could not be loaded
  edge = signal(null); // the start of the first visible candle
  isFullScreen = signal(false);
  isTableOpen = signal(false);
  compared = signal([]); // { ticker, points } as they are drawn
  history;
  comparison = new Comparison();
  #socket;
  #chart;
  #measure;
  #cleanups = [];
  #areStatisticsOpen = false;
  #hasLeft = false;
  #retryTimer = null; // of the changes

  constructor(found, socket) {
    this.#socket = socket;
    this.history = new History(found.ticker.name, socket, {
      onPut: (candles) => this.#change(() => this.#chart.put(candles, this.history.isLive)),
      onCandle: (candle) => this.#change(() => this.#chart.update(candle)),
    });
    this.window = new ShownWindow(this, {
      load: (wanted, bounds) => this.history.load(wanted, bounds),
      onLoaded: (bounds) => {
        this.#measure.clear();
        this.#chart.show(this.history.candles.peek(), bounds, this.history.isLive);
      },
      onVisible: () => this.#onVisible(),
      onFailed: () => this.#chart.range.report(),
    });
    this.#apply(found);
  }

  begin(show) {
    setZone(view.peek().zone);
    const page = show(() => tickerTemplate(this));
    const element = page.querySelector(".chart");
    this.#chart = new Chart(element, {
      onHover: (ts) => (this.hovered.value = ts),
      onEdge: (ts) => (this.edge.value = ts),
      onMove: () => this.#measure?.redraw(),
      onWindow: (from, to, isLive) => this.window.move(from, to, isLive && this.history.isLive),
      onOlder: () => this.history.loadMore(-1),
      onNewer: () => this.history.loadMore(1),
      onDoubleClick: (price) => price && addLevel(this.ticker.name, price),
    });
    this.#measure = new Measure(element, this.#chart);
    // Screen readers announce the legend for the keyboard, not for each mouse move.
    const legend = page.querySelector(".legend");
    element.addEventListener("keydown", () => legend.setAttribute("aria-live", "polite"));
    element.addEventListener("pointermove", () => legend.setAttribute("aria-live", "off"));
    const chartKeys = addChartKeys(element, this.#chart, { onNow: () => this.goToNow(), onSelect: (candle) => this.#measure.moveTo(candle) });
    const timer = setInterval(() => this.#reload(), RELOAD_MS);
    this.#cleanups.push(
      () => this.#chart.remove(),
      () => clearInterval(timer),
      () => clearTimeout(this.#retryTimer),
      bindKeys("Chart", [...chartKeys, ...viewKeys(this, page)]),
      this.#socket.subscribe(CHANGES, { ticker: this.ticker.name, after: this.latest.peek()?.id ?? null }, {
        onData: (event) => this.#onChange(event),
        onReconnect: () => this.#reload(),
      }),
      effect(() => CONNECTED.includes(connection.value) && untracked(() => this.window.retry())),
      effect(() => this.window.follow(view.value)),
      effect(() => this.#draw(view.value, this.window.shown.value)),
      effect(() => this.window.visible.value && showWindow(page.querySelector(".window"), this.window.visible.value, view.value.zone)),
      effect(() => this.#chart.mark(this.history.missing.value, this.history.parts.value)),
      effect(() => this.#chart.level(levels.value.filter((one) => one.ticker === this.ticker.name).map((one) => one.price))),
      effect(() => theme.value && requestAnimationFrame(() => this.#chart.paint())),
      effect(() => this.#compare(this.comparedNames, this.history.view.value, this.history.candles.value)),
      effect(() => this.#drawCompared(this.comparison.others.value, tickers.value)),
      effect(() => (document.title = `${this.#mark}${this.latest.value ? `${price(this.latest.value.price)} ` : ""}${this.ticker.name} · Tickgraph`)),
      listen(document, "fullscreenchange", () => (this.isFullScreen.value = document.fullscreenElement !== null)),
    );
    this.#loadChanges();
  }

  leave() {
    this.#hasLeft = true;
    this.window.leave();
    this.history.leave();
    this.comparison.leave();
    for (const end of this.#cleanups) end();
    document.title = "Tickgraph";
    setZone(UTC);
  }

  /** Shows the newest candle: in the same width, if it is loaded. */
  goToNow() {
    if (this.history.isLive && this.window.shown.peek()) this.#chart.range.goToEnd();
    else this.window.goToNow();
  }

  setCompared(names) {
    navigate({ compare: names.join(",") });
  }

  /** What the title says before the price, for a reader who sees only that. */
  get #mark() {
    if (connection.value === "offline") return "Offline: ";
    return isStale({ ...this.ticker, latest: this.latest.value }, clock.value) ? "Stale: " : "";
  }

  /** The names of the compared tickers that are known. */
  get comparedNames() {
    const { compare } = view.value;
    const names = compare ? compare.split(",") : [];
    return names.filter((name) => name !== this.ticker.name && (tickers.value?.has(name) ?? true));
  }

  /** The names in the URL that cannot be compared. */
  get unknownNames() {
    const { compare } = view.value;
    return compare ? compare.split(",").filter((name) => name !== this.ticker.name && !this.comparedNames.includes(name)) : [];
  }

  /** How the chart is drawn: the chosen style, or by default candles, and a line where a minute is one sample. */
  get style() {
    const { style } = view.value;
    if (style) return style;
    const candles = this.history.candles.value;
    return this.history.view.value?.interval === "ONE_MINUTE" && candles.every((one) => !one.closed || !one.count || isSampled(one)) ? "line" : "candles";
  }

  savePicture() {
    const { interval, zone } = view.peek();
    const { begin, end } = this.window.visible.peek();
    const { short } = INTERVALS[interval];
    const title = `${this.ticker.name}, ${short}, ${instant(begin)} to ${instant(end)} ${zone} · Tickgraph, Deribit index prices`;
    const day = new Date(end * 1_000).toISOString().slice(0, 10);
    withTitle(this.#chart.screenshot(), title).toBlob((blob) => save(blob, `${this.ticker.name}-${short}-${day}.png`));
  }

  async fullScreen() {
    if (document.fullscreenElement) await document.exitFullscreen();
    else await document.querySelector(".stage").requestFullscreen?.();
  }

  clearMeasure() {
    this.#measure.clear();
  }

  /** Starts a measure at the selected candle, or ends the one that is shown. */
  toggleMeasure() {
    const candles = this.history.candles.peek();
    this.#measure.toggle(candles.find((one) => one.ts === this.hovered.peek()) ?? candles.findLast((one) => one.close));
  }

  /** Loads the statistics when their panel is opened, and while it is open for each visible window. */
  toggleStatistics(isOpen) {
    this.#areStatisticsOpen = isOpen;
    if (isOpen) this.#loadStatistics();
  }

  #apply(found) {
    this.ticker = found.ticker;
    this.latest.value = newer(this.latest.peek(), found.ticker.latest);
    this.firstTs.value = found.first.nodes[0]?.ts ?? null;
    this.history.setFirst(this.firstTs.peek());
  }

  #onChange(event) {
    if (event.__typename === "HistoryChanged" || event.__typename === "TickerChanged") return this.#reload();
    if (event.__typename !== "Price") return this.history.refresh();
    this.latest.value = newer(this.latest.peek(), event);
    if (this.firstTs.peek() === null) {
      this.firstTs.value = event.ts;
      this.history.setFirst(event.ts);
    }
    // candleUpdated delivers the last candle; an older price changes another candle. It has no candles of other zones than UTC.
    const last = this.history.candles.peek().at(-1);
    if (event.ts < (last?.ts ?? 0) || (this.window.shown.peek()?.zone !== UTC && this.history.isLive)) this.history.refresh();
  }

  /** Reloads the data that no event delivers. */
  async #reload() {
    try {
      this.#apply(await execute(TICKER, { ticker: this.ticker.name }));
      await this.#loadChanges();
    } catch (error) {
      console.warn(error.message); // the timer retries in five minutes
    }
    this.history.refresh();
  }

  async #loadChanges() {
    try {
      this.periods.value = await loadChanges(this.ticker.name, now());
    } catch (error) {
      console.warn(error.message);
      clearTimeout(this.#retryTimer);
      if (!this.#hasLeft) this.#retryTimer = setTimeout(() => this.#loadChanges(), RETRY_MS);
    }
  }

  async #loadStatistics() {
    const visible = this.window.visible.peek();
    if (!visible) return;
    const window = { begin: visible.begin, end: Math.min(visible.end, now()) };
    const found = await loadStatistics(this.ticker.name, window, view.peek().zone).catch((error) => error);
    if (visible === this.window.visible.peek()) this.statistics.value = found; // otherwise another window is being loaded
  }

  async #onVisible() {
    if (this.#areStatisticsOpen) this.#loadStatistics();
    await this.history.readCoverage(this.window.visible.peek());
  }

  #draw({ scale }, shown) {
    if (!shown) return;
    this.#change(() => this.#chart.draw(this.style, this.comparedNames.length ? "percent" : scale));
    document.querySelector(".chart").dataset.interval = shown.interval;
  }

  /** Changes the chart, and draws the measure again on its new scale. */
  #change(action) {
    action();
    requestAnimationFrame(() => this.#measure.redraw());
  }

  #compare(names, loaded, candles) {
    if (loaded) untracked(() => this.comparison.load(names, loaded, candles));
  }

  #drawCompared(others, newest) {
    const drawn = others.map((one) => ({ ...one, points: this.history.isLive ? withLatest(one.points, newest?.get(one.ticker)?.latest) : one.points }));
    this.#chart.compare(drawn);
    this.compared.value = drawn;
  }
}

function listen(target, name, listener) {
  target.addEventListener(name, listener);
  return () => target.removeEventListener(name, listener);
}
