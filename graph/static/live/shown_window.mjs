// The window of a ticker's chart: which is wanted, loaded and visible. The URL, the controls and the chart agree on it.

import { batch, signal, untracked } from "../vendor/signals-core-1.14.5.mjs";
import { nowSeconds as now } from "./api.mjs";
import { setZone } from "./format.mjs";
import { PAGE_CANDLES } from "./history.mjs";
import { INTERVALS, RANGES, intervalFor } from "./intervals.mjs";
import { navigate, view } from "./state.mjs";
import { MAX_CANDLES, MIN_CANDLES, fitWindow } from "./windows.mjs";

const MINUTE = 60;
const DAY = 86_400;
const MIN_TYPED_CANDLES = 30; // an hour is shown in candles of a minute
const SHORT_HISTORY_CANDLES = 180; // of a range that is longer than the history

export class ShownWindow {
  shown = signal(null); // the view that is loaded
  visible = signal(null); // what the chart shows: begin, end, and whether it follows the newest candle
  failure = signal(null); // of the last load, with its retry
  #page;
  #events;
  #wanted = null; // the view of the URL: loaded, being loaded, or moved to
  #chosen = { from: null, to: null }; // the window before it was fitted to an interval, so that the next interval is fitted to it, too
  #isReplacing = false; // the URL, by this class
  #hasLeft = false;

  /** `events`: load(view, bounds) loads and returns whether the view is still wanted, onLoaded(bounds), onVisible() after the visible window changed, onFailed() after the chart stayed as it is. */
  constructor(page, events) {
    this.#page = page;
    this.#events = events;
  }

  leave() {
    this.#hasLeft = true;
  }

  setInterval(interval) {
    const { range } = view.peek();
    const count = range ? this.#secondsOf(range) / INTERVALS[interval].seconds : 0;
    navigate({ interval, range: count >= MIN_CANDLES && count <= MAX_CANDLES ? range : null, ...this.#chosen });
  }

  setRange(range) {
    navigate({ interval: this.#intervalOf(range), range, from: null, to: null });
  }

  setWindow(from, to) {
    const { interval } = view.peek();
    const count = (to - from) / INTERVALS[interval].seconds;
    const fits = count >= MIN_TYPED_CANDLES && count <= PAGE_CANDLES;
    navigate({ interval: fits ? interval : intervalFor(to - from, PAGE_CANDLES), range: null, from, to });
  }

  goToNow() {
    navigate({ range: null, from: null, to: null });
  }

  /** Loads the view of the URL, unless it is loaded. On failure the URL returns to what the chart shows. */
  follow(wanted) {
    if (wanted.page !== "ticker" || wanted.ticker !== this.#page.ticker.name || this.#isReplacing) return;
    if (isSameWindow(wanted, this.#wanted)) {
      if (isSameWindow(wanted, this.shown.peek())) this.failure.value = null; // the reader chose what is shown
      return;
    }
    const [fitted, problem] = untracked(() => this.#fit(wanted));
    const problems = problem ? [problem] : wanted.problems;
    this.#chosen = { from: fitted.from === null ? null : wanted.from, to: fitted.from === null ? null : wanted.to };
    if (isSameWindow(fitted, wanted)) this.#wanted = fitted;
    else untracked(() => this.#replace(fitted, problems));
    untracked(() => this.#show(fitted).catch((error) => this.#onFailure(error, fitted)));
  }

  /** Loads the view again that could not be loaded. */
  retry() {
    this.failure.peek()?.retry();
  }

  /** Handles a chart that was moved: its window becomes that of the inputs, the texts, the links and the URL. */
  move(from, to, follows) {
    const shown = this.shown.peek();
    if (!isSameWindow(shown, this.#wanted)) return; // another view is being loaded, which replaces what was moved
    const before = this.visible.peek();
    // A chart that follows new candles moves, too; its width stays.
    const isSameWidth = Math.abs(to - from - (before.end - before.begin)) <= 3 * INTERVALS[shown.interval].seconds;
    const isSameEnd = follows ? before.follows : Math.abs(to - before.end) <= 3 * INTERVALS[shown.interval].seconds;
    const range = shown.range && isSameWidth && isSameEnd ? shown.range : null;
    const isOpenEnded = follows || range;
    const moved = { ...shown, range, from: isOpenEnded ? null : from, to: isOpenEnded ? null : to };
    this.#chosen = { from: moved.from, to: moved.to };
    batch(() => {
      this.failure.value = null;
      this.visible.value = { begin: from, end: follows ? Math.min(to, now()) : to, follows };
      this.shown.value = moved;
      this.#replace(moved);
    });
    this.#events.onVisible().catch((error) => console.warn(error.message));
  }

  async #show(wanted) {
    setZone(wanted.zone);
    const bounds = this.#boundsOf(wanted);
    if (!(await this.#events.load(wanted, bounds))) return;
    const candles = this.#page.history.candles.peek();
    batch(() => {
      this.failure.value = null;
      this.shown.value = wanted;
      this.visible.value = { begin: bounds.from ?? candles.at(-100)?.ts ?? candles[0]?.ts ?? now() - DAY, end: bounds.to ?? now(), follows: bounds.to === null };
    });
    this.#events.onLoaded(bounds);
    this.#events.onVisible().catch((error) => console.warn(error.message)); // the chart is drawn
  }

  /** Returns the wanted start and end. `from` null: as many candles as fit; `to` null: the newest candle. */
  #boundsOf({ interval, range, from, to }) {
    if (from !== null) return { from, to };
    const end = this.#endOf();
    if (!range && end === null) return { from: null, to: null };
    const seconds = range ? this.#secondsOf(range) : SHORT_HISTORY_CANDLES * INTERVALS[interval].seconds;
    return { from: Math.max(0, Math.floor(((end ?? now()) - seconds) / MINUTE) * MINUTE), to: end };
  }

  /** Returns the length of candles for a range: shorter ones if the history is shorter. */
  #intervalOf(range) {
    const seconds = this.#secondsOf(range);
    if (seconds === RANGES[range].seconds) return RANGES[range].interval;
    return intervalFor(seconds, range === "All" ? PAGE_CANDLES : SHORT_HISTORY_CANDLES);
  }

  /** Returns the view with a window that has enough candles to see and few enough to load; and what of it is not as it was wanted, or null. */
  #fit(wanted) {
    const { seconds, short } = INTERVALS[wanted.interval];
    if (wanted.range) return [this.#secondsOf(wanted.range) / seconds <= MAX_CANDLES ? wanted : { ...wanted, interval: this.#intervalOf(wanted.range) }, null];
    if (wanted.from === null) return [wanted, null];
    if (wanted.from >= now()) return [{ ...wanted, from: null, to: null }, "The window is in the future. These are the newest candles."];
    const first = this.#page.firstTs.peek() ?? 0;
    const isTooLong = wanted.to - wanted.from > MAX_CANDLES * seconds;
    const from = isTooLong && wanted.to > first ? Math.max(wanted.from, first) : wanted.from; // before the first price there is nothing to see
    const isNewInterval = wanted.from === this.#chosen.from && wanted.to === this.#chosen.to; // of the window that is shown
    if (isTooLong && !isNewInterval && wanted.to - from > MAX_CANDLES * seconds) {
      const interval = intervalFor(wanted.to - from, PAGE_CANDLES);
      const problem = `The window has too many candles of ${short}. These are candles of ${INTERVALS[interval].short}.`;
      return [{ ...wanted, interval, ...fitWindow({ from, to: wanted.to }, INTERVALS[interval].seconds, now()) }, problem];
    }
    return [{ ...wanted, ...fitWindow({ from, to: wanted.to }, seconds, now()) }, null];
  }

  /** Returns the end of the history if that is long ago; null if it goes on. */
  #endOf() {
    const latest = this.#page.latest.peek();
    return latest && now() - latest.ts > DAY ? latest.ts + MINUTE : null;
  }

  /** Returns the length of a range, at most that of the history. */
  #secondsOf(range) {
    const end = this.#endOf() ?? now();
    return Math.min(RANGES[range].seconds, Math.max(MINUTE, end - (this.#page.firstTs.peek() ?? end - DAY)));
  }

  #onFailure(error, wanted) {
    if (this.#hasLeft || !isSameWindow(this.#wanted, wanted)) return; // another view is wanted meanwhile
    const shown = this.shown.peek();
    this.#chosen = { from: shown?.from ?? null, to: shown?.to ?? null };
    if (shown) {
      this.#replace(shown);
      this.#events.onFailed(); // the chart may have been moved meanwhile
    } else this.#wanted = null;
    this.failure.value = { message: error.message, retry: () => this.#retry(wanted) };
  }

  #retry(wanted) {
    this.#wanted = null;
    navigate(windowOf(wanted));
  }

  /** Changes the URL to a window that is loaded, or being loaded. */
  #replace(next, problems = view.peek().problems) {
    this.#wanted = next;
    setZone(next.zone);
    this.#isReplacing = true;
    navigate({ ...windowOf(next), problems }, { replace: true });
    this.#isReplacing = false;
  }
}

const WINDOW = ["interval", "zone", "range", "from", "to"];
const windowOf = (one) => Object.fromEntries(WINDOW.map((name) => [name, one[name]]));

function isSameWindow(one, other) {
  return other !== null && WINDOW.every((name) => one[name] === other[name]);
}
