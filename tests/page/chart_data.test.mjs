import assert from "node:assert/strict";
import { test } from "node:test";

import { extremes, isSampled, isolated, toChartCandle, toChartLine, mergeCandles, spark, overlapping } from "../../graph/static/live/chart_data.mjs";

const candle = (ts, close, more = {}) => ({ ts, end: ts + 60, open: close, high: close, low: close, close, ...more });
const three = [candle(0, "1"), candle(60, null), candle(120, "3")];

test("a missing candle is an empty slot, not zero", () => {
  assert.deepEqual(three.map(toChartCandle)[1], { time: 60 });
  assert.deepEqual(three.map(toChartCandle)[0], { time: 0, open: 1, high: 1, low: 1, close: 1 });
});

test("a candle of samples alone is paler than one with ticks", () => {
  const colors = { up: "#0f06", down: "#f006" };
  const [ticks, samples, fall] = [
    candle(0, "1", { closed: true, count: 2, sampled: 1 }),
    candle(60, "1", { closed: true, count: 2, sampled: 2 }),
    candle(120, "1", { closed: true, count: 1, sampled: 1, open: "2", high: "2" }),
  ];
  assert.equal(isSampled({ ...samples, closed: false }), false);
  assert.deepEqual([ticks, samples, fall].map(isSampled), [false, true, true]);
  assert.deepEqual([ticks, samples, fall].map((one) => toChartCandle(one, colors).color), [undefined, "#0f06", "#f006"]);
  assert.equal(toChartCandle(samples).color, undefined);
  assert.equal(isSampled(candle(0, null, { closed: true, count: 0, sampled: 0 })), false);
});

const hidden = { color: "transparent", lineColor: "transparent", topColor: "transparent", bottomColor: "transparent" };

test("a line does not bridge a gap", () => {
  assert.deepEqual(toChartLine(three), [{ time: 0, value: 1, ...hidden }, { time: 60 }, { time: 120, value: 3 }]);
});

test("a price between gaps is drawn on its own", () => {
  assert.deepEqual(isolated(three).map((one) => one.ts), [0, 120]);
  assert.deepEqual(isolated([candle(0, "1"), candle(60, "2"), candle(120, null), candle(180, "3"), candle(240, null)]).map((one) => one.ts), [180]);
});

test("a period overlaps a candle if they share an instant", () => {
  const period = { from: 59, to: 61 };
  assert.deepEqual(three.map((one) => overlapping([period], one).length), [1, 1, 0]);
  assert.deepEqual(overlapping([{ from: 60, to: 120 }], three[2]), []);
});

test("the highest and the lowest price are compared as numbers, and the first of equal ones counts", () => {
  const candles = [candle(0, "9"), candle(60, "10"), candle(120, null), candle(180, "10", { high: "12", low: "8" })];
  assert.deepEqual(extremes(candles, false), { high: { ts: 180, price: "12" }, low: { ts: 180, price: "8" } });
  assert.deepEqual(extremes(candles, true), { high: { ts: 60, price: "10" }, low: { ts: 0, price: "9" } });
  assert.equal(extremes([candle(0, null)], false), null);
});

test("the newer version of a candle replaces the older one", () => {
  const merged = mergeCandles([candle(60, "2"), candle(120, "3")], [candle(120, "4"), candle(0, "1")]);
  assert.deepEqual(merged.map((one) => one.close), ["1", "2", "4"]);
});

test("a sparkline needs two prices, fills the width, breaks at gaps, and a flat one is visible", () => {
  const points = (...prices) => prices.map((price, index) => ({ ts: 60 * index, price: String(price) })).filter(({ price }) => price !== "null");
  assert.equal(spark(points(1), 100, 20, 60), "");
  assert.equal(spark(points(5, 5), 100, 20, 60), "M0.0 19.0L100.0 19.0");
  assert.equal(spark(points(1, 3, 2), 100, 22, 60), "M0.0 21.0L50.0 1.0L100.0 11.0");
  assert.equal(spark(points(1, null, 3), 100, 22, 60), "M0.0 21.0M100.0 1.0");
});
