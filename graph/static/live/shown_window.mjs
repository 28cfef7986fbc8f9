// The window of a ticker's chart: which is wanted, loaded and visible. The URL, the controls and the chart agree on it.

import { batch, signal, untracked } from "../vendor/signals-core-1.14.5.mjs";
import { setZone } from "./format.mjs";
import { PAGE_CANDLES } from "./history.mjs";
import { INTERVALS, RANGES, intervalFor } from "./intervals.mjs";
import { navigate, nowSeconds as now, view } from "./state.mjs";
import { MIN_CANDLES, fitWindow } from "./windows.mjs";

const MINUTE = 60;
const DAY = 86_400;

export class ShownWindow {
  shown = signal(null); // the view that is loaded
  visible = signal(null); // what the chart shows: begin, end, and whether it follows the newest candle
  range = signal(null); // the name of the chosen range
  failure = signal(null); // of the last load, with its retry
  #page;
  #events;
  #wanted = null; // the view that is loaded, or is being loaded
  #hasLeft = false;

  /** `events`: load(view) loads and returns whether the view is still wanted, onLoaded(view), onVisible() after the visible window changed. */
  constructor(page, events) {
    this.#page = page;
    this.#events = events;
  }

  leave() {
    this.#hasLeft = true;
  }

  setInterval(interval) {
    this.range.value = null;
    navigate({ interval });
  }

  setRange(name) {
    const range = RANGES[name];
    const last = range.seconds === Infinity ? (this.#page.latest.peek()?.ts ?? now()) + MINUTE : now();
    const seconds = range.seconds === Infinity ? last - (this.#page.firstTs.peek() ?? last - DAY) : range.seconds;
    const interval = range.seconds === Infinity ? intervalFor(seconds, PAGE_CANDLES) : range.interval;
    this.range.value = name;
    navigate({ interval, from: last - seconds, to: last });
  }

  setWindow(from, to) {
    const { interval } = view.peek();
    const count = (to - from) / INTERVALS[interval].seconds;
    const fits = count >= MIN_CANDLES && count <= PAGE_CANDLES;
    this.range.value = null;
    navigate({ interval: fits ? interval : intervalFor(to - from, PAGE_CANDLES), from, to });
  }

  goToNow() {
    this.range.value = null;
    navigate({ from: null, to: null });
  }

  /** Loads the view of the URL, unless it is loaded. On failure the URL returns to what the chart shows. */
  follow(wanted) {
    if (wanted.page !== "ticker" || isSameWindow(wanted, this.#wanted)) return;
    this.#wanted = wanted;
    untracked(() => this.#show(wanted).catch((error) => this.#onFailure(error, wanted)));
  }

  /** Handles a chart that the user moved: its window becomes that of the inputs, the texts, the links and the URL. */
  move(from, to, follows) {
    const moved = { ...this.shown.peek(), from: follows ? null : from, to: follows ? null : to };
    batch(() => {
      this.visible.value = { begin: from, end: to, follows };
      this.shown.value = moved;
      if (!isSameWindow(moved, this.#wanted)) this.range.value = null;
      this.#replace(moved);
    });
    this.#events.onVisible().catch((error) => console.warn(error.message));
  }

  async #show(wanted) {
    setZone(wanted.zone);
    const fitted = wanted.from === null ? wanted : { ...wanted, ...fitWindow(wanted, INTERVALS[wanted.interval].seconds, now()) };
    if (!isSameWindow(fitted, wanted)) this.#replace(fitted);
    if (!(await this.#events.load(fitted))) return;
    const { from, to } = fitted;
    const candles = this.#page.history.candles.peek();
    batch(() => {
      this.failure.value = null;
      this.shown.value = fitted;
      this.visible.value = { begin: from ?? candles.at(-100)?.ts ?? candles[0]?.ts ?? now() - DAY, end: to ?? now(), follows: from === null };
    });
    this.#events.onLoaded(fitted);
    await this.#events.onVisible();
  }

  #onFailure(error, wanted) {
    if (this.#hasLeft || !isSameWindow(this.#wanted, wanted)) return; // another view is wanted meanwhile
    this.failure.value = { message: error.message, retry: () => this.#retry(wanted) };
    this.range.value = null;
    if (this.shown.peek()) this.#replace(this.shown.peek());
    else this.#wanted = null;
  }

  #retry(wanted) {
    this.#wanted = null;
    navigate(windowOf(wanted));
    this.follow(view.peek());
  }

  /** Changes the URL to a window that is loaded, or being loaded. */
  #replace(next) {
    this.#wanted = next;
    setZone(next.zone);
    navigate(windowOf(next), { replace: true });
  }
}

const windowOf = ({ interval, zone, from, to }) => ({ interval, zone, from, to });

function isSameWindow(one, other) {
  return other !== null && ["interval", "zone", "from", "to"].every((name) => one[name] === other[name]);
}
