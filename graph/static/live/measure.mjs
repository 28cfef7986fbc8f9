// Measures a difference in the chart: by dragging with Shift, or from the selected candle with the keyboard.

import { html, render } from "../vendor/lit-html-3.3.3/lit-html.js";
import { change, decimalsOf, direction, minutes, span } from "./format.mjs";

const MINUTE = 60;
const HOUR = 3_600;

/** Describes the way from the earlier to the later of two points `{ time, price }`. */
export function describeMeasure(one, other) {
  const [from, to] = one.time <= other.time ? [one, other] : [other, one];
  const difference = to.price - from.price;
  const digits = decimalsOf(from.price);
  const sign = difference > 0 ? "+" : difference < 0 ? "−" : "";
  const number = Math.abs(difference).toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const seconds = to.time - from.time;
  return `${sign}${number}, ${change(from.price, to.price)}, ${minutes(Math.round(seconds / MINUTE))}${seconds >= HOUR ? ` (${span(seconds)})` : ""}`;
}

export class Measure {
  #chart;
  #overlay = document.createElement("div");
  #start = null;
  #end = null;

  constructor(element, chart) {
    this.#chart = chart;
    this.#overlay.className = "measure";
    element.append(this.#overlay);
    element.addEventListener("mousedown", (event) => event.shiftKey && event.preventDefault(), { capture: true }); // selects no text
    element.addEventListener("pointerdown", (event) => event.shiftKey && event.button === 0 && this.#drag(element, event), { capture: true });
  }

  /** Starts at a candle, or ends the measure that is shown. */
  toggle(candle) {
    if (this.#start) return this.clear();
    if (candle?.close) this.#show(pointOf(candle), pointOf(candle));
  }

  /** Ends at a candle that the keyboard selected. */
  moveTo(candle) {
    if (this.#start && candle?.close) this.#show(this.#start, pointOf(candle));
  }

  /** Draws the measure again after the chart has moved. */
  redraw() {
    if (this.#start) this.#show(this.#start, this.#end);
  }

  clear() {
    this.#start = this.#end = null;
    render(html``, this.#overlay);
  }

  #drag(element, event) {
    event.stopPropagation();
    const pointIn = ({ clientX, clientY }) => {
      const { left, top } = element.getBoundingClientRect();
      return this.#chart.pointAt(clientX - left, clientY - top);
    };
    const start = pointIn(event);
    const listeners = new AbortController();
    const end = () => {
      this.#chart.setDraggable(true);
      listeners.abort();
    };
    this.#chart.setDraggable(false);
    addEventListener("pointermove", (moved) => this.#show(start, pointIn(moved)), listeners);
    for (const name of ["pointerup", "pointercancel", "blur"]) addEventListener(name, end, listeners);
  }

  #show(start, end) {
    if (start.time === null || start.price === null || end.time === null || end.price === null) return;
    [this.#start, this.#end] = [start, end];
    const [from, to] = [start, end].map((point) => this.#chart.coordinatesOf(point));
    render(html`<div class="measure-box" data-direction=${start.time <= end.time ? direction(start.price, end.price) : direction(end.price, start.price)}></div><p class="measure-text" role="status">${describeMeasure(start, end)}</p>`, this.#overlay);
    const [box, text] = this.#overlay.children;
    const [left, top] = [Math.min(from.x, to.x), Math.min(from.y, to.y)];
    place(box, { left, top, width: Math.abs(to.x - from.x), height: Math.abs(to.y - from.y) });
    place(text, { left: Math.max(4, Math.min(left, this.#overlay.clientWidth - text.offsetWidth - 4)), top: Math.max(4, top - text.offsetHeight - 4) });
  }
}

function pointOf(candle) {
  return { time: (candle.ts + candle.end) / 2, price: Number(candle.close) };
}

function place(element, sizes) {
  for (const [name, value] of Object.entries(sizes)) element.style[name] = `${value}px`;
}
