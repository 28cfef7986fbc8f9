import assert from "node:assert/strict";
import { test } from "node:test";

import { alignPoints, changeWithin, withLatest } from "../../graph/static/live/comparison.mjs";
import { describe, volatilityByHour } from "../../graph/static/live/statistics.mjs";

const HOUR = 3_600;
const candle = (ts, close, more = {}) => ({ ts, end: ts + HOUR, high: close, low: close, close, count: close === null ? 0 : 60, twap: close, ...more });

test("statistics of known prices", () => {
  const found = describe([candle(0, "100"), candle(HOUR, "110"), candle(2 * HOUR, "99"), candle(3 * HOUR, "99", { count: 30, twap: "90" })]);
  assert.equal(found.count, 4);
  assert.equal(found.mean, 102);
  assert.equal(found.twap, (100 * 60 + 110 * 60 + 99 * 60 + 90 * 30) / 210);
  assert.ok(Math.abs(found.volatility - 10) < 1e-9); // of +10, −10 and 0 percent
  assert.deepEqual([found.rise.ts, found.fall.ts], [HOUR, 2 * HOUR]);
  assert.deepEqual([found.drawdown.from, found.drawdown.to, Math.round(found.drawdown.change)], [HOUR, 2 * HOUR, -10]);
});

test("no change is computed across a gap, and few prices have few statistics", () => {
  const found = describe([candle(0, "100"), candle(HOUR, null), candle(2 * HOUR, "200")]);
  assert.deepEqual([found.volatility, found.rise, found.fall, found.drawdown], [null, null, null, null]);
  assert.equal(describe([candle(0, null)]), null);
});

test("volatility by hour of the day is in the chosen zone", () => {
  const hours = Array.from({ length: 73 }, (_, index) => candle(index * HOUR, index % 24 === 5 ? String(100 + index) : "100"));
  const inUtc = volatilityByHour(hours, "UTC");
  assert.deepEqual(inUtc.map((value) => value > 0).flatMap((is, hour) => (is ? [hour] : [])), [5, 6]);
  const inKolkata = volatilityByHour(hours, "Asia/Kolkata");
  assert.deepEqual(inKolkata.map((value) => value > 0).flatMap((is, hour) => (is ? [hour] : [])), [10, 11]);
});

test("another ticker has points at the times of the candles only", () => {
  const candles = [0, 60, 120].map((ts) => ({ ts }));
  const points = alignPoints([{ ts: 0, close: "1" }, { ts: 30, close: "5" }, { ts: 120, close: "2" }], candles);
  assert.deepEqual(points, [{ time: 0, value: 1 }, { time: 60 }, { time: 120, value: 2 }]);
  assert.equal(changeWithin(points, 0, 120), "+100.00 %");
  assert.equal(changeWithin(points, 60, 60), "");
  assert.deepEqual(withLatest(points, { ts: 180, price: "4" }).at(-1), { time: 120, value: 4 });
  assert.deepEqual(withLatest(points, { ts: 60, price: "4" }), points);
  assert.deepEqual(withLatest([], null), []);
});
