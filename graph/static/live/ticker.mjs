// The view of one ticker: its price, its chart, and everything about the visible window.

import { effect, signal, untracked } from "../vendor/signals-core-1.14.5.mjs";
import { execute } from "./api.mjs";
import { Chart } from "./chart.mjs";
import { addChartKeys, viewKeys } from "./chart_keys.mjs";
import { loadChanges } from "./changes.mjs";
import { isSampled } from "./chart_data.mjs";
import { Comparison, withLatest } from "./comparison.mjs";
import { showWindow } from "./controls.mjs";
import { setZone } from "./format.mjs";
import { History } from "./history.mjs";
import { INTERVALS } from "./intervals.mjs";
import { bindKeys } from "./keys.mjs";
import { addLevel } from "./levels.mjs";
import { Measure } from "./measure.mjs";
import { save } from "./share.mjs";
import { ShownWindow } from "./shown_window.mjs";
import { navigate, nowSeconds as now, tickers, view } from "./state.mjs";
import { loadStatistics } from "./statistics_panel.mjs";
import { levels, theme } from "./storage.mjs";
import { tickerTemplate } from "./ticker_template.mjs";
import { UTC } from "./zones.mjs";

const RELOAD_MS = 300_000;
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
  statistics = signal(null);
  isTableOpen = signal(false);
  compared = signal([]); // { ticker, color, points }
  history;
  comparison = new Comparison();
  #socket;
  #chart;
  #measure;
  #cleanups = [];
  #areStatisticsOpen = false;

  constructor(found, socket) {
    this.#socket = socket;
    this.history = new History(found.ticker.name, socket, {
      onPut: (candles) => this.#chart.put(candles),
      onCandle: (candle) => this.#chart.update(candle),
    });
    this.window = new ShownWindow(this, {
      load: (wanted) => this.history.load(wanted),
      onLoaded: ({ from, to }) => {
        this.#measure.clear();
        this.#chart.show(this.history.candles.peek(), { from, to });
      },
      onVisible: () => this.#onVisible(),
    });
    this.#apply(found);
  }

  begin(show) {
    setZone(view.peek().zone);
    const page = show(() => tickerTemplate(this));
    const element = page.querySelector(".chart");
    this.#chart = new Chart(element, {
      onHover: (ts) => (this.hovered.value = ts),
      onWindow: (from, to, isLive) => {
        this.#measure.redraw();
        this.window.move(from, to, isLive && this.history.isLive);
      },
      onOlder: () => this.history.loadMore(-1),
      onNewer: () => this.history.loadMore(1),
      onDoubleClick: (price) => price && addLevel(this.ticker.name, price),
    });
    this.#measure = new Measure(element, this.#chart);
    // Screen readers announce the legend for the keyboard, not for each mouse move.
    const legend = page.querySelector(".legend");
    element.addEventListener("keydown", () => legend.setAttribute("aria-live", "polite"));
    element.addEventListener("pointermove", () => legend.setAttribute("aria-live", "off"));
    const chartKeys = addChartKeys(element, this.#chart, { onNow: () => this.window.goToNow(), onSelect: (candle) => this.#measure.moveTo(candle) });
    const timer = setInterval(() => this.#reload(), RELOAD_MS);
    this.#cleanups.push(
      () => this.#chart.remove(),
      () => clearInterval(timer),
      bindKeys("Chart", [...chartKeys, ...viewKeys(this, page)]),
      this.#socket.subscribe(CHANGES, { ticker: this.ticker.name, after: this.latest.peek()?.id ?? null }, {
        onData: (event) => this.#onChange(event),
        onReconnect: () => this.#reload(),
      }),
      effect(() => this.window.follow(view.value)),
      effect(() => this.#draw(view.value, this.window.shown.value)),
      effect(() => this.window.visible.value && showWindow(page.querySelector(".window"), this.window.visible.value, view.value.zone)),
      effect(() => this.#chart.mark(this.history.missing.value, this.history.parts.value)),
      effect(() => this.#chart.level(levels.value.filter((one) => one.ticker === this.ticker.name).map((one) => one.price))),
      effect(() => theme.value && requestAnimationFrame(() => this.#chart.paint())),
      effect(() => this.#compare(view.value.compare, this.window.shown.value, this.history.candles.value)),
      effect(() => this.#drawCompared(this.comparison.others.value, tickers.value)),
      effect(() => (document.title = this.latest.value ? `${this.latest.value.price} ${this.ticker.name} · Tickgraph` : `${this.ticker.name} · Tickgraph`)),
    );
    this.#loadChanges();
  }

  leave() {
    this.window.leave();
    this.history.leave();
    this.comparison.leave();
    for (const end of this.#cleanups) end();
    document.title = "Tickgraph";
  }

  setCompared(names) {
    navigate({ compare: names.join(","), scale: names.length ? "percent" : "linear" });
  }

  /** How the chart is drawn: the chosen style, or by default candles, and a line where a minute is one sample. */
  get style() {
    const { style } = view.value;
    if (style) return style;
    const candles = this.history.candles.value;
    return this.window.shown.value?.interval === "ONE_MINUTE" && candles.every((one) => !one.closed || !one.count || isSampled(one)) ? "line" : "candles";
  }

  async savePicture() {
    const picture = this.#chart.screenshot();
    picture.toBlob((blob) => save(blob, `${this.ticker.name}-${INTERVALS[view.peek().interval].short}.png`));
  }

  async fullScreen() {
    const panel = document.querySelector(".chart-panel");
    if (document.fullscreenElement) await document.exitFullscreen();
    else await panel.requestFullscreen?.();
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
    const { latest } = found.ticker;
    if (latest && (!this.latest.peek() || latest.ts >= this.latest.peek().ts)) this.latest.value = latest;
    this.firstTs.value = found.first.nodes[0]?.ts ?? null;
    this.history.setFirst(this.firstTs.peek());
  }

  #onChange(event) {
    if (event.__typename === "HistoryChanged" || event.__typename === "TickerChanged") return this.#reload();
    if (event.__typename !== "Price") return this.history.refresh();
    if (!this.latest.peek() || event.ts >= this.latest.peek().ts) this.latest.value = event;
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
    }
  }

  async #loadStatistics() {
    if (!this.window.visible.peek()) return;
    const { begin, end } = this.window.visible.peek();
    const found = await loadStatistics(this.ticker.name, { begin, end: Math.min(end, now()) }, view.peek().zone).catch((error) => console.warn(error.message));
    if (found) this.statistics.value = found;
  }

  async #onVisible() {
    if (this.#areStatisticsOpen) this.#loadStatistics();
    await this.history.readCoverage(this.window.visible.peek());
  }

  #draw({ scale }, shown) {
    if (!shown) return;
    this.#chart.draw(this.style, scale);
    document.querySelector(".chart").dataset.interval = shown.interval;
  }

  #compare(compare, shown, candles) {
    const names = compare ? compare.split(",").filter((name) => name !== this.ticker.name) : [];
    if (shown) untracked(() => this.comparison.load(names, shown, candles));
  }

  #drawCompared(others, newest) {
    const drawn = others.map((one) => ({ ...one, points: this.history.isLive ? withLatest(one.points, newest?.get(one.ticker)?.latest) : one.points }));
    const colors = this.#chart.compare(drawn);
    this.compared.value = drawn.map((one, index) => ({ ...one, color: colors[index] }));
  }
}
