// The candle chart. It draws candles and periods and does not call the API.

import { CandlestickSeries, HistogramSeries, LineSeries, createChart } from "../vendor/lightweight-charts-5.2.1.standalone.production.mjs";
import { bands, isolated, toChartCandle, toChartLine } from "./chart_data.mjs";
import { axis, instant, price } from "./format.mjs";
import { positionOf, timeAt } from "./windows.mjs";

const COLORS = ["panel", "text", "muted", "line", "up", "down", "missing", "backfilled", "imported", "accent"];
const PRELOAD_MARGIN = 40;

export class Chart {
  #element;
  #chart;
  #candles;
  #missing;
  #parts;
  #times = [];
  #candleData = [];
  #reportTimer = null;
  #scheme = matchMedia("(prefers-color-scheme: dark)");
  #periods = [[], [], []];
  #colors = {};
  #events;
  #isSettled = false;
  #shownRange = null; // as set by the program; another one comes from the user
  #asLine = false;
  #hasRanges = false;
  #isPast = false; // the newest loaded price is not the newest one
  #decimals = 2;
  #requestedRange = null;
  #selectedIndex = null;
  #line;

  constructor(element, events) {
    this.#element = element;
    this.#events = events;
    this.#chart = createChart(element, {
      autoSize: true,
      layout: { attributionLogo: false, fontFamily: getComputedStyle(element).fontFamily, fontSize: 12 },
      timeScale: { timeVisible: true, secondsVisible: false, rightOffset: 4, minBarSpacing: 0.3, tickMarkFormatter: axis },
      rightPriceScale: { borderVisible: false },
      localization: { locale: "en", timeFormatter: instant, priceFormatter: (value) => price(value.toFixed(this.#decimals)) },
      crosshair: { mode: 0 },
    });
    const band = { priceScaleId: "", priceLineVisible: false, lastValueVisible: false, autoscaleInfoProvider: () => ({ priceRange: { minValue: 0, maxValue: 1 } }) };
    this.#missing = this.#chart.addSeries(HistogramSeries, { ...band, priceScaleId: "missing" });
    this.#parts = this.#chart.addSeries(HistogramSeries, { ...band, priceScaleId: "parts" });
    this.#candles = this.#chart.addSeries(CandlestickSeries, { borderVisible: false });
    this.#line = this.#chart.addSeries(LineSeries, { lineWidth: 2, visible: false });
    this.#missing.priceScale().applyOptions({ scaleMargins: { top: 0, bottom: 0 } });
    this.#parts.priceScale().applyOptions({ scaleMargins: { top: 0.975, bottom: 0 } });
    this.#paint();
    this.#scheme.addEventListener("change", this.#paint);
    this.#chart.subscribeCrosshairMove((at) => events.onHover(at.time ?? null));
    this.#chart.timeScale().subscribeVisibleLogicalRangeChange((range) => this.#onRangeChange(range));
    element.addEventListener("keydown", (event) => this.#onKey(event));
  }

  remove() {
    clearTimeout(this.#reportTimer);
    this.#scheme.removeEventListener("change", this.#paint);
    this.#chart.remove();
  }

  /** Replaces the candles and the visible range: a window, or the newest candles. `asLine` draws the closes as a line. */
  show(candles, { from, to }, { asLine }) {
    this.#isSettled = false;
    this.#selectedIndex = null;
    this.#asLine = asLine;
    this.#isPast = from !== null;
    this.#line.applyOptions({ visible: asLine });
    this.put(candles);
    const scale = this.#chart.timeScale();
    const count = this.#times.length;
    // On the first day, the few candles fill the chart.
    const shown = Math.min(count, Math.max(30, Math.min(180, this.#element.clientWidth / 6)));
    scale.setVisibleLogicalRange(from === null ? { from: count - shown, to: count + 3 } : { from: positionOf(candles, from), to: positionOf(candles, to) });
    this.#events.onHover(null);
    requestAnimationFrame(() => {
      this.#isSettled = true;
      this.#shownRange = scale.getVisibleLogicalRange();
      if (from === null) this.#reportWindow(this.#shownRange);
    });
  }

  /** Replaces the candles and keeps the visible range. */
  put(candles) {
    const scale = this.#chart.timeScale();
    const range = this.#isSettled ? scale.getVisibleLogicalRange() : null;
    const previousTimes = this.#times;
    this.#times = candles.map((candle) => candle.ts);
    this.#candleData = candles;
    const samplePrice = candles.find((candle) => candle.close !== null)?.close ?? "1.00";
    this.#decimals = Math.max(2, Math.min(8, Math.ceil(3 - Math.log10(Number(samplePrice)))));
    for (const series of [this.#candles, this.#line]) {
      series.applyOptions({ priceFormat: { type: "price", precision: this.#decimals, minMove: 10 ** -this.#decimals } });
    }
    this.#hasRanges = candles.some((candle) => candle.sampled < candle.count);
    const drawn = this.#asLine ? isolated(candles) : candles;
    this.#candles.setData(drawn.map((candle) => toChartCandle(candle, this.#sampledColors())));
    for (const [series, isShown] of [[this.#candles, !this.#asLine], [this.#line, this.#asLine]]) {
      series.applyOptions({ lastValueVisible: isShown && !this.#isPast, priceLineVisible: isShown && !this.#isPast });
    }
    this.#element.dataset.isolated = String(this.#asLine ? drawn.length : 0);
    this.#line.setData(this.#asLine ? toChartLine(candles) : []);
    this.#element.dataset.candles = String(candles.length);
    if (range && previousTimes.length) {
      // Aligns by a visible candle, because candles may have been added or removed on both sides.
      const oldIndex = Math.max(0, Math.min(previousTimes.length - 1, Math.round((range.from + range.to) / 2)));
      const newIndex = this.#times.indexOf(previousTimes[oldIndex]);
      const shift = newIndex - oldIndex;
      if (newIndex >= 0 && shift !== 0) scale.setVisibleLogicalRange({ from: range.from + shift, to: range.to + shift });
    }
  }

  /** Appends a candle or updates the last one. */
  update(candle) {
    if (this.#times.length && candle.ts < this.#times.at(-1)) return;
    if (candle.ts !== this.#times.at(-1)) {
      this.#times.push(candle.ts);
      this.#candleData = [...this.#candleData, candle];
    }
    if (this.#asLine) this.#line.update({ time: candle.ts, value: Number(candle.close) });
    else this.#candles.update(toChartCandle(candle, this.#sampledColors()));
    this.#element.dataset.last = candle.close ?? "";
    this.#events.onHover(null);
  }

  /** Draws missing periods as bands, backfilled and imported periods along the lower edge. */
  mark(candles, missing, parts) {
    this.#periods = [candles, missing, parts];
    const { missing: gap, backfilled, imported } = this.#colors;
    const found = bands(candles, missing, () => `${gap}55`);
    this.#missing.setData(found);
    this.#parts.setData(bands(candles, parts, (one) => (one.source === "IMPORT" ? imported : backfilled)));
    this.#element.dataset.missing = String(found.length);
  }

  #paint = () => {
    const style = getComputedStyle(document.documentElement);
    this.#colors = Object.fromEntries(COLORS.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    const { panel, muted, line, up, down } = this.#colors;
    this.#chart.applyOptions({
      layout: { background: { color: panel }, textColor: muted },
      grid: { vertLines: { color: line }, horzLines: { color: line } },
      timeScale: { borderColor: line },
    });
    this.#line.applyOptions({ color: this.#colors.accent });
    this.#candles.applyOptions({ upColor: up, downColor: down, wickUpColor: up, wickDownColor: down });
    this.mark(...this.#periods);
  };

  /** Returns the paler colors of candles that are only sampled; null if all shown candles are, so that none stands out. */
  #sampledColors() {
    return this.#hasRanges ? { up: `${this.#colors.up}66`, down: `${this.#colors.down}66` } : null;
  }

  #onRangeChange(range) {
    if (!range || !this.#isSettled || isSame(range, this.#shownRange)) return;
    this.#shownRange = null;
    if (range.from < PRELOAD_MARGIN) this.#events.onOlder();
    if (range.to > this.#times.length - PRELOAD_MARGIN) this.#events.onNewer();
    clearTimeout(this.#reportTimer);
    this.#reportTimer = setTimeout(() => this.#reportWindow(range), 250);
  }

  #reportWindow(range) {
    const last = this.#times.length - 1;
    if (!range || last < 0) return;
    const [from, to] = [Math.max(range.from, -0.5), Math.min(range.to, last + 0.5)].map((position) => timeAt(this.#candleData, position));
    if (from < to) this.#events.onWindow(from, to, range.to >= last);
  }

  #onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return; // shortcuts of the browser
    if (event.shiftKey && event.key.startsWith("Arrow")) return this.#moveCrosshair(event);
    if (event.key === "End") {
      event.preventDefault();
      return this.#events.onNow();
    }
    const scale = this.#chart.timeScale();
    const range = this.#requestedRange ?? scale.getVisibleLogicalRange(); // the chart updates its range only once per frame
    if (!range) return;
    const width = range.to - range.from;
    const step = Math.max(1, width / 10);
    const moveRange = {
      ArrowLeft: () => ({ from: range.from - step, to: range.to - step }),
      ArrowRight: () => ({ from: range.from + step, to: range.to + step }),
      "+": () => ({ from: range.from + width / 4, to: range.to }),
      "=": () => ({ from: range.from + width / 4, to: range.to }),
      "-": () => ({ from: range.from - width / 3, to: range.to }),
      Home: () => ({ from: 0, to: width }),
    }[event.key];
    if (!moveRange) return;
    event.preventDefault();
    this.#requestedRange = moveRange();
    scale.setVisibleLogicalRange(this.#requestedRange);
    requestAnimationFrame(() => (this.#requestedRange = null));
  }

  /** Moves the crosshair to the previous or next candle. */
  #moveCrosshair(event) {
    event.preventDefault();
    const last = this.#times.length - 1;
    const step = event.key === "ArrowLeft" ? -1 : event.key === "ArrowRight" ? 1 : 0;
    this.#selectedIndex = Math.max(0, Math.min(last, (this.#selectedIndex ?? last + 1) + step));
    const candle = this.#candleData[this.#selectedIndex];
    if (!candle) return;
    this.#chart.setCrosshairPosition(Number(candle.close ?? 0), candle.ts, this.#asLine ? this.#line : this.#candles);
    this.#events.onHover(candle.ts);
  }
}

function isSame(range, other) {
  return other !== null && Math.abs(range.from - other.from) < 0.01 && Math.abs(range.to - other.to) < 0.01;
}
