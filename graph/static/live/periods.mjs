// Draws periods behind the candles: missing ones as bands, those from other sources as a strip along the lower edge.

import { coordinateAt, positionOf } from "./windows.mjs";

const STRIP_HEIGHT = 6;

/** A primitive of the chart's pane: one rectangle for each period, however many candles it spans. */
export class Periods {
  #chart;
  #candles = [];
  #rectangles = []; // { from, to, color, isStrip }
  #update = () => {};
  #views = [{ zOrder: () => "bottom", renderer: () => ({ draw: (target) => target.useBitmapCoordinateSpace((scope) => this.#draw(scope)) }) }];

  attached({ chart, requestUpdate }) {
    this.#chart = chart;
    this.#update = requestUpdate;
  }

  paneViews() {
    return this.#views;
  }

  show(candles, rectangles) {
    this.#candles = candles;
    this.#rectangles = rectangles;
    this.#update();
  }

  #draw({ context, bitmapSize, horizontalPixelRatio, verticalPixelRatio }) {
    const [first, last] = [this.#candles[0], this.#candles.at(-1)];
    if (!first) return;
    const scale = this.#chart.timeScale();
    const pixel = (time) => coordinateAt(scale, positionOf(this.#candles, Math.max(first.ts, Math.min(last.end, time)))) * horizontalPixelRatio;
    for (const { from, to, color, isStrip } of this.#rectangles) {
      if (to <= first.ts || from >= last.end) continue;
      const [left, right] = [Math.round(pixel(from)), Math.round(pixel(to))];
      const height = isStrip ? Math.round(STRIP_HEIGHT * verticalPixelRatio) : bitmapSize.height;
      context.fillStyle = color;
      context.fillRect(left, bitmapSize.height - height, Math.max(1, right - left), height);
    }
  }
}
