// Other tickers in the chart of a ticker.

import { signal } from "../vendor/signals-core-1.14.5.mjs";
import { execute } from "./api.mjs";
import { change } from "./format.mjs";

const RETRY_MS = 5_000;

export class Comparison {
  others = signal([]); // { ticker, points: [{ time, value }] }
  failure = signal("");
  #timer = null;
  #requested = ""; // what was requested last; responses to other requests are dropped

  /** Loads the closes of other tickers at the times of candles, unless they are loaded. */
  async load(tickers, { interval, zone }, candles) {
    const request = [tickers, interval, zone, candles[0]?.ts, candles.at(-1)?.ts].join();
    if (request === this.#requested) return;
    this.#requested = request;
    clearTimeout(this.#timer);
    if (!tickers.length || !candles.length) {
      this.failure.value = "";
      this.others.value = [];
      return;
    }
    // Points at other times would change the positions of the candles.
    const times = new Set(candles.map((one) => one.ts));
    this.others.value = this.others.peek().map((one) => ({ ...one, points: one.points.filter(({ time }) => times.has(time)) }));
    const declared = tickers.map((_, index) => `$t${index}: String!`).join(", ");
    const fields = tickers.map((_, index) =>
      `c${index}: candles(ticker: $t${index}, interval: $interval, from: $from, to: $to, timeZone: $zone, includeOpen: true) { ts close }`);
    const variables = Object.fromEntries(tickers.map((name, index) => [`t${index}`, name]));
    try {
      const found = await execute(`query (${declared}, $interval: Interval!, $from: UnixTime!, $to: UnixTime!, $zone: String!) { ${fields.join("\n")} }`,
        { ...variables, interval, zone, from: candles[0].ts, to: candles.at(-1).end });
      if (request !== this.#requested) return;
      this.failure.value = "";
      this.others.value = tickers.map((ticker, index) => ({ ticker, points: alignPoints(found[`c${index}`], candles) }));
    } catch (error) {
      if (request !== this.#requested) return;
      this.#timer = setTimeout(() => this.#retry(tickers, { interval, zone }, candles), RETRY_MS);
      this.failure.value = `The compared tickers could not be loaded: ${error.message}`;
    }
  }

  leave() {
    clearTimeout(this.#timer);
    this.#requested = "";
  }

  #retry(...request) {
    this.#requested = "";
    this.load(...request);
  }
}

/** Returns the points with the newest price as the last one. */
export function withLatest(points, latest) {
  const last = points.at(-1);
  return last && latest && latest.ts >= last.time ? [...points.slice(0, -1), { time: last.time, value: Number(latest.price) }] : points;
}

/** Returns the points of another ticker at the times of candles: without a value where it has none, and none in between. */
export function alignPoints(others, candles) {
  const closes = new Map(others.map(({ ts, close }) => [ts, close]));
  return candles.map(({ ts }) => ({ time: ts, ...((closes.get(ts) ?? null) !== null && { value: Number(closes.get(ts)) }) }));
}

/** Returns the change of points from the first value at or after `from` to the last one at or before `to`. */
export function changeWithin(points, from, to) {
  const known = points.filter(({ time, value }) => value !== undefined && time >= from && time <= to);
  return known.length ? change(known[0].value, known.at(-1).value) : "";
}
