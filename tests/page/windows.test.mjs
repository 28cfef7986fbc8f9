import assert from "node:assert/strict";
import { test } from "node:test";

import { INTERVALS } from "../../graph/static/live/intervals.mjs";
import { MAX_CANDLES, MIN_CANDLES, coordinateAt, fitWindow, positionOf, timeAt } from "../../graph/static/live/windows.mjs";

const MAY = 1_525_132_800;
const NOW = MAY + 3 * 365 * 86_400;
const candles = [0, 1, 2, 3].map((n) => ({ ts: MAY + n * 3_600, end: MAY + (n + 1) * 3_600 }));

test("each change of the interval keeps the middle of a past window", () => {
  for (const first of Object.values(INTERVALS)) {
    for (const second of Object.values(INTERVALS)) {
      const before = fitWindow({ from: MAY, to: MAY + 200 * first.seconds }, first.seconds, NOW + 10 ** 9);
      const after = fitWindow(before, second.seconds, NOW + 10 ** 9);
      const middles = [before, after].map(({ from, to }) => (from + to) / 2);
      assert.ok(Math.abs(middles[0] - middles[1]) <= 1 || after.from === 0, `${first.name}, then ${second.name}`);
      const count = (after.to - after.from) / second.seconds;
      assert.ok(count >= MIN_CANDLES - 0.1 && count <= MAX_CANDLES + 0.1);
    }
  }
});

test("a window that fits is not changed, and none ends after now", () => {
  const day = { from: MAY, to: MAY + 86_400 };
  assert.deepEqual(fitWindow(day, 3_600, NOW), day);
  assert.deepEqual(fitWindow({ from: NOW - 86_400, to: NOW }, 86_400, NOW), { from: NOW - MIN_CANDLES * 86_400, to: NOW });
});

test("a time and its position convert into each other, also within and outside of candles", () => {
  for (const time of [MAY, MAY + 60, MAY + 1_800, MAY + 3_600, MAY + 4 * 3_600, MAY - 7_200, MAY + 9 * 3_600]) {
    assert.equal(timeAt(candles, positionOf(candles, time)), time);
  }
  assert.equal(positionOf(candles, MAY), -0.5);
  assert.equal(positionOf(candles, MAY + 1.5 * 3_600), 1);
  assert.equal(positionOf([], MAY), 0);
});

test("a position between two candles has a coordinate between theirs", () => {
  const scale = { logicalToCoordinate: (whole) => (Number.isInteger(whole) ? 100 + 8 * whole : 0) }; // as lightweight-charts does
  assert.deepEqual([-0.5, 0, 0.5, 2.25].map((position) => coordinateAt(scale, position)), [96, 100, 104, 118]);
});
