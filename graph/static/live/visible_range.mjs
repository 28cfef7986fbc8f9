// The visible range of a chart, in positions of its candles: set by the program, or moved by the user.
// `from` and `to` are the edges of the chart: a candle i spans the positions i − 0.5 to i + 0.5.

import { timeAt } from "./windows.mjs";

const PRELOAD_MARGIN = 40; // candles
export const MARGIN = 3; // empty candles after the newest one
const REPORT_DELAY_MS = 250;

export class VisibleRange {
  #scale;
  #events;
  #candles = [];
  #wanted = null; // as set by the program; null once the user has moved the chart, or while it follows new candles
  #follows = false; // once what is wanted is shown
  #shown = null; // what the chart made of it; another one comes from the user
  #requested = null; // by a key, within this frame
  #isSettled = false;
  #timer = null;

  /** `events`: onWindow(from, to, isLive) after the user has moved the chart, onOlder(), onNewer(), onMove() at once, and onSettled() when what the program set is shown. */
  constructor(scale, events) {
    this.#scale = scale;
    this.#events = events;
    scale.subscribeVisibleLogicalRangeChange(() => this.#onChange(this.current));
  }

  get current() {
    const range = this.#scale.getVisibleLogicalRange(); // the centers of the outermost candles that are whole
    return range && { from: range.from - 0.5, to: range.to + 0.5 };
  }

  remove() {
    clearTimeout(this.#timer);
    this.#wanted = null; // what was set must not be read from a chart that is gone
  }

  /** Shows a range of new candles, which `draw` draws. With `follows`, the chart moves along with new candles. */
  show(candles, range, draw, { follows }) {
    clearTimeout(this.#timer); // its positions are those of other candles
    this.#isSettled = false;
    this.#wanted = null;
    this.#candles = candles;
    draw();
    this.#set(range, follows);
  }

  /** Keeps the visible candles where they are while `draw` draws others, because candles may be added or removed on both sides. `capacity`: see `append`. */
  keep(candles, draw, capacity) {
    const showsAll = !this.#wanted && this.#showsAll();
    const range = this.#wanted ?? (this.#isSettled ? this.current : null);
    const before = this.#candles;
    this.#candles = candles;
    if (this.#wanted) this.#isSettled = false; // what the chart does until the range is set again does not come from the user
    draw();
    if (!range || !before.length) return;
    if (showsAll && candles.length > before.length && candles.length <= capacity) return this.#showAll(candles[0].ts === before[0].ts ? range.from : -0.5);
    const oldIndex = Math.max(0, Math.min(before.length - 1, Math.round((range.from + range.to) / 2)));
    const newIndex = candles.findIndex((one) => one.ts === before[oldIndex].ts);
    const shift = newIndex < 0 ? 0 : newIndex - oldIndex;
    const moved = { from: range.from + shift, to: range.to + shift };
    if (this.#wanted) this.#set(moved, this.#follows);
    else if (shift) this.#apply(moved);
  }

  /** Takes over the candles after `draw` has added or changed the last one. While all are visible, they stay so, up to `capacity`. */
  append(candles, draw, capacity) {
    const isNew = candles.length > this.#candles.length;
    const [showsAll, range] = [this.#showsAll(), this.current];
    this.#candles = candles;
    draw();
    if (isNew && showsAll && candles.length <= capacity) this.#showAll(range.from);
  }

  #showsAll() {
    const range = this.current;
    return range !== null && range.from < 0.5 && range.to > this.#candles.length - 0.5;
  }

  #showAll(from) {
    this.#set({ from: Math.max(from, -0.5), to: this.#end }, true);
  }

  /** The right edge that shows the newest candle. */
  get #end() {
    return this.#candles.length - 0.5 + MARGIN;
  }

  #apply({ from, to }) {
    this.#scale.setVisibleLogicalRange({ from: from + 0.5, to: Math.max(from + 0.5, to - 0.5) }); // at least one candle
  }

  /** Lets the chart move along with new candles. */
  #follow() {
    this.#wanted = null;
    this.#report(this.#shown);
  }

  /** Moves by a part of the width. */
  scroll(part) {
    this.#move(({ from, to }) => ({ from: from + part * (to - from), to: to + part * (to - from) }));
  }

  /** Changes the width; the end stays. */
  zoom(factor) {
    this.#move(({ from, to }) => ({ from: to - factor * (to - from), to }));
  }

  /** Shows the newest candle in the same width. */
  goToEnd() {
    this.#move(({ from, to }) => ({ from: this.#end - (to - from), to: this.#end }));
  }

  /** Shows the oldest loaded candles. */
  goToStart() {
    this.#move(({ from, to }) => ({ from: -0.5, to: to - from - 0.5 }));
  }

  #move(change) {
    const range = this.#requested ?? this.current; // the chart updates its range only once per frame
    if (!range) return;
    this.#requested = change(range);
    this.#apply(this.#requested);
    requestAnimationFrame(() => (this.#requested = null));
  }

  /** Sets the range. What the chart makes of it is known two frames later. */
  #set(range, follows) {
    this.#wanted = range;
    this.#follows = follows;
    this.#isSettled = false;
    this.#apply(range);
    requestAnimationFrame(() => requestAnimationFrame(() => {
      if (this.#wanted !== range) return;
      this.#isSettled = true;
      this.#shown = this.current;
      this.#events.onSettled();
      if (follows) this.#follow();
    }));
  }

  #onChange(range) {
    this.#events.onMove();
    if (!range || !this.#isSettled || isSame(range, this.#shown)) return;
    this.#shown = this.#wanted = null;
    if (range.from < PRELOAD_MARGIN) this.#events.onOlder();
    if (range.to > this.#candles.length - PRELOAD_MARGIN) this.#events.onNewer();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#report(range), REPORT_DELAY_MS);
  }

  /** Reports the range as if the user had moved the chart. */
  report() {
    this.#report(this.current);
  }

  #report(range) {
    const last = this.#candles.length - 1;
    if (!range || last < 0) return;
    const [from, to] = [Math.max(range.from, -0.5), Math.min(range.to, last + 0.5)].map((position) => timeAt(this.#candles, position));
    if (from < to) this.#events.onWindow(from, to, range.to >= last);
  }
}

function isSame(range, other) {
  return other !== null && Math.abs(range.from - other.from) < 0.01 && Math.abs(range.to - other.to) < 0.01;
}
