// The chart of a ticker. It draws candles, periods, other tickers and levels, and does not call the API.

import { AreaSeries, CandlestickSeries, LineSeries, PriceScaleMode, createChart, createSeriesMarkers } from "../vendor/lightweight-charts-5.2.1.standalone.production.mjs";
import { extremes, isolated, toChartCandle, toChartLine } from "./chart_data.mjs";
import { fade, readColor } from "./colors.mjs";
import { axis, decimalsOf, instant, price } from "./format.mjs";
import { MAX_LOADED_CANDLES } from "./history.mjs";
import { Periods } from "./periods.mjs";
import { MARGIN, VisibleRange } from "./visible_range.mjs";
import { coordinateAt, positionOf, timeAt } from "./windows.mjs";

const COLORS = ["panel", "muted", "line", "up", "down", "missing", "backfilled", "imported", "accent", "compare-1", "compare-2", "compare-3", "compare-4", "compare-5"];
const MODES = { linear: PriceScaleMode.Normal, log: PriceScaleMode.Logarithmic, percent: PriceScaleMode.Percentage };

export class Chart {
  #element;
  #events;
  #chart;
  #range;
  #candles; // the series of candles; with a line, the minutes without a neighbor
  #line = null; // the series of a line or an area
  #style = "candles";
  #periods = new Periods();
  #marked = [[], []]; // missing periods, and parts
  #compared = []; // a series for each other ticker
  #levels = []; // prices
  #levelLines = []; // { series, line }
  #markers = null;
  #data = [];
  #colors = {};
  #decimals = 2;
  #hasRanges = false;
  #isRemoved = false;
  #isLive = true; // the newest loaded candle is the newest one
  #isLastShown = true; // the newest candle is in view, and its price is marked
  #selected = null; // start of the candle under the crosshair of the keyboard
  #preferences = ["(prefers-color-scheme: dark)", "(prefers-contrast: more)"].map((query) => matchMedia(query));

  /** `events`: those of `VisibleRange`, onHover(ts or null), onEdge(ts) with the first visible candle, onDoubleClick(price). */
  constructor(element, events) {
    this.#element = element;
    this.#events = events;
    this.#chart = createChart(element, {
      autoSize: true,
      layout: { attributionLogo: false, fontFamily: getComputedStyle(element).fontFamily, fontSize: 12 },
      timeScale: {
        timeVisible: true, secondsVisible: false, rightOffset: 4, minBarSpacing: Math.max(0.1, element.clientWidth / MAX_LOADED_CANDLES), tickMarkFormatter: axis,
        lockVisibleTimeRangeOnResize: true, // also when the labels of the price scale get wider
      },
      rightPriceScale: { borderVisible: false },
      localization: { locale: "en", timeFormatter: instant, priceFormatter: (value) => price(value.toFixed(this.#decimals)) },
      crosshair: { mode: 0 },
    });
    this.#candles = this.#chart.addSeries(CandlestickSeries, { borderVisible: false });
    this.#chart.panes()[0].attachPrimitive(this.#periods);
    this.#range = new VisibleRange(this.#chart.timeScale(), {
      ...events,
      onMove: () => {
        if (this.#isNewestVisible !== this.#isLastShown) this.#markLast();
        events.onMove();
      },
      onSettled: () => this.#markExtremes(),
      onWindow: (...window) => {
        this.#markExtremes();
        events.onWindow(...window);
      },
    });
    this.paint();
    for (const one of this.#preferences) one.addEventListener("change", this.paint);
    this.#chart.subscribeCrosshairMove((at) => events.onHover(at.time ?? null));
    this.#chart.subscribeClick((at) => at.time !== undefined && this.#select(this.#data.findIndex((one) => one.ts === at.time)));
    this.#chart.subscribeDblClick((at) => at.point && events.onDoubleClick(this.#main.coordinateToPrice(at.point.y)?.toFixed(this.#decimals)));
  }

  remove() {
    this.#isRemoved = true;
    this.#range.remove();
    for (const one of this.#preferences) one.removeEventListener("change", this.paint);
    this.#chart.remove();
  }

  /** Replaces the candles and the visible range. `from` null: as many candles as fit; `to` null: up to the newest, also of those to come. */
  show(candles, { from, to }, isLive) {
    this.#selected = null;
    this.#isLive = isLive;
    this.#events.onHover(null);
    const count = candles.length;
    const shown = Math.min(count, this.#capacity); // on the first day, the few candles fill the chart
    const range = { from: from === null ? count - shown - 0.5 : positionOf(candles, from), to: to === null ? count - 0.5 + MARGIN : positionOf(candles, to) };
    this.#range.show(candles, range, () => this.#replace(candles), { follows: to === null });
  }

  /** Replaces the candles and keeps the visible range. */
  put(candles, isLive) {
    this.#isLive = isLive;
    this.#range.keep(candles, () => this.#replace(candles), isLive ? this.#capacity : 0);
    this.#markExtremes();
  }

  /** Appends a candle or updates the last one. */
  update(candle) {
    const last = this.#data.at(-1);
    if (last && candle.ts < last.ts) return;
    this.#data = candle.ts === last?.ts ? [...this.#data.slice(0, -1), candle] : [...this.#data, candle];
    const draw = () => {
      if (this.#line) {
        this.#line.update({ time: candle.ts, ...(candle.close !== null && { value: Number(candle.close) }) });
        this.#drawPoints();
      } else this.#candles.update(toChartCandle(candle, this.#sampledColors()));
    };
    this.#range.append(this.#data, draw, this.#isLive ? this.#capacity : 0);
    this.#element.dataset.last = candle.close ?? "";
    this.mark(...this.#marked);
    this.#markExtremes();
  }

  /** Draws as "candles", "line" or "area", on a "linear", "log" or "percent" scale. */
  draw(style, scale) {
    if (style !== this.#style) {
      this.#removeLevelLines();
      if (this.#line) this.#chart.removeSeries(this.#line);
      this.#line = style === "candles" ? null : this.#chart.addSeries(style === "line" ? LineSeries : AreaSeries, { lineWidth: 2 });
      this.#style = style;
      this.#markers?.detach();
      this.#markers = null;
      this.paint();
    }
    this.#chart.priceScale("right").applyOptions({ mode: MODES[scale] });
    Object.assign(this.#element.dataset, { style, scale });
  }

  /** Draws other tickers as lines: `points` are `{ time, value }` at the times of candles. */
  compare(others) {
    while (this.#compared.length > others.length) this.#chart.removeSeries(this.#compared.pop());
    others.forEach(({ ticker, points }, index) => {
      const color = this.#colors[`compare-${index + 1}`];
      const series = (this.#compared[index] ??= this.#chart.addSeries(LineSeries, { lineWidth: 2, priceLineVisible: false }));
      series.applyOptions({ color, title: ticker });
      series.setData(points);
    });
  }

  /** Draws a line at each price. */
  level(prices) {
    this.#levels = prices;
    this.#removeLevelLines();
    const options = { color: this.#colors.accent, lineStyle: 2, lineWidth: 1, title: "notify" };
    this.#levelLines = prices.map((one) => ({ series: this.#main, line: this.#main.createPriceLine({ ...options, price: Number(one) }) }));
  }

  /** Draws missing periods as bands, and parts from other sources along the lower edge. */
  mark(missing, parts) {
    this.#marked = [missing, parts];
    const { missing: gap, backfilled, imported } = this.#colors;
    this.#periods.show(this.#data, [
      ...missing.map(({ from, to }) => ({ from, to, color: fade(gap, 0.3), isStrip: false })),
      ...parts.map(({ from, to, source }) => ({ from, to, color: source === "IMPORT" ? imported : backfilled, isStrip: true })),
    ]);
    Object.assign(this.#element.dataset, { missing: String(missing.length), parts: String(parts.length) });
  }

  /** Reads the colors of the style sheet again. */
  paint = () => {
    if (this.#isRemoved) return;
    this.#colors = Object.fromEntries(COLORS.map((name) => [name, readColor(name)]));
    const { panel, muted, line, up, down, accent } = this.#colors;
    this.#chart.applyOptions({
      layout: { background: { color: panel }, textColor: muted },
      grid: { vertLines: { color: line }, horzLines: { color: line } },
      timeScale: { borderColor: line },
    });
    this.#candles.applyOptions({ upColor: up, downColor: down, wickUpColor: up, wickDownColor: down });
    this.#line?.applyOptions(this.#style === "line" ? { color: accent } : { lineColor: accent, topColor: fade(accent, 0.35), bottomColor: fade(accent, 0.02) });
    this.#compared.forEach((series, index) => series.applyOptions({ color: this.#colors[`compare-${index + 1}`] }));
    this.#drawCandles();
    this.mark(...this.#marked);
    this.level(this.#levels);
    this.#markExtremes();
  };

  /** Returns a picture of the chart. */
  screenshot() {
    return this.#chart.takeScreenshot(true, false);
  }

  /** Returns the time and the price at a point of the element. */
  pointAt(x, y) {
    const position = this.#chart.timeScale().coordinateToLogical(x);
    return { time: this.#data.length && position !== null ? timeAt(this.#data, position) : null, price: this.#main.coordinateToPrice(y) };
  }

  /** Returns the point of the element at a time and a price. */
  coordinatesOf({ time, price }) {
    return { x: coordinateAt(this.#chart.timeScale(), positionOf(this.#data, time)), y: this.#main.priceToCoordinate(price) };
  }

  /** Turns dragging on or off. */
  setDraggable(isDraggable) {
    this.#chart.applyOptions({ handleScroll: isDraggable, handleScale: isDraggable });
  }

  get range() {
    return this.#range;
  }

  /** How many candles are shown by default. */
  get #capacity() {
    return Math.max(30, Math.min(180, this.#element.clientWidth / 6));
  }

  /** The series that is drawn. */
  get #main() {
    return this.#line ?? this.#candles;
  }

  /** Moves the crosshair by a number of candles. Returns the candle. */
  selectNext(step) {
    const last = this.#data.length - 1;
    const index = this.#selected === null ? -1 : this.#data.findIndex((one) => one.ts === this.#selected);
    return this.#select(Math.max(0, Math.min(last, (index < 0 ? last + 1 : index) + step)));
  }

  #select(index) {
    const candle = this.#data[index];
    if (!candle) return null;
    this.#selected = candle.ts;
    this.#chart.setCrosshairPosition(Number(candle.close ?? 0), candle.ts, this.#main);
    this.#events.onHover(candle.ts);
    return candle;
  }

  #removeLevelLines() {
    for (const { series, line } of this.#levelLines) series.removePriceLine(line);
    this.#levelLines = [];
  }

  #replace(candles) {
    this.#data = candles;
    const sample = candles.find((candle) => candle.close !== null)?.close ?? "1.00";
    this.#decimals = decimalsOf(Number(sample));
    this.#hasRanges = candles.some((candle) => candle.sampled < candle.count);
    this.#drawCandles();
    this.mark(...this.#marked);
    Object.assign(this.#element.dataset, { candles: String(candles.length), last: candles.findLast((one) => one.close !== null)?.close ?? "" });
  }

  #drawCandles() {
    const priceFormat = { type: "price", precision: this.#decimals, minMove: 10 ** -this.#decimals };
    this.#candles.applyOptions({ priceFormat });
    this.#drawPoints();
    this.#line?.applyOptions({ priceFormat });
    this.#markLast();
    this.#line?.setData(toChartLine(this.#data));
  }

  /** Draws candles: all of them, or with a line those of which it shows nothing. */
  #drawPoints() {
    const candles = this.#line ? isolated(this.#data) : this.#data;
    this.#candles.setData(candles.map((candle) => toChartCandle(candle, this.#sampledColors())));
    this.#element.dataset.isolated = String(this.#line ? candles.length : 0);
  }

  get #isNewestVisible() {
    return this.#isLive && (this.#range?.current?.to ?? Infinity) >= this.#data.length - 1;
  }

  /** Marks the newest price while its candle is in view: of another one, the library would draw the line and the label at different prices. */
  #markLast() {
    this.#isLastShown = this.#isNewestVisible;
    const mark = (isMarked) => ({ lastValueVisible: isMarked, priceLineVisible: isMarked });
    this.#candles.applyOptions(mark(this.#isLastShown && !this.#line));
    this.#line?.applyOptions(mark(this.#isLastShown));
    this.#element.dataset.lastShown = String(this.#isLastShown);
  }

  /** Returns the paler colors of candles that are only sampled; null if all shown candles are, so that none stands out. */
  #sampledColors() {
    return this.#hasRanges ? { up: fade(this.#colors.up, 0.4), down: fade(this.#colors.down, 0.4) } : null;
  }

  /** Marks the highest and the lowest price of the visible candles. */
  #markExtremes() {
    const range = this.#range.current;
    if (!range) return;
    this.#markers ??= createSeriesMarkers(this.#main, [], { autoScale: true });
    const visible = this.#data.slice(Math.max(0, Math.ceil(range.from)), Math.max(0, Math.floor(range.to) + 1)); // at least half of each
    this.#events.onEdge(this.#data[Math.max(0, Math.round(range.from))]?.ts ?? null);
    const found = extremes(visible, this.#line !== null);
    const mark = ({ ts, price: value }, isHigh) => ({
      time: ts, color: this.#colors.muted, size: 0.5, position: isHigh ? "aboveBar" : "belowBar", shape: isHigh ? "arrowDown" : "arrowUp", text: `${isHigh ? "High" : "Low"} ${price(value)}`,
    });
    const marks = found ? [mark(found.high, true), mark(found.low, false)].sort((one, other) => one.time - other.time) : [];
    this.#markers.setMarkers(marks);
    this.#element.dataset.high = found?.high.price ?? "";
  }
}
