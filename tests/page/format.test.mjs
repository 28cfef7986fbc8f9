import assert from "node:assert/strict";
import { test } from "node:test";

import * as format from "../../graph/static/live/format.mjs";

test("a price has all its digits and thousands separators", () => {
  assert.equal(format.price("68241.5"), "68,241.5");
  assert.equal(format.price("0.000000000000000001"), "0.000000000000000001");
  assert.equal(format.price("999999999999999"), "999,999,999,999,999");
  assert.equal(format.price("100"), "100");
});

test("a change has a sign, and is empty where it cannot be computed", () => {
  assert.equal(format.change("100", "101.5"), "+1.50 %");
  assert.equal(format.change("100", "99"), "−1.00 %");
  assert.equal(format.change("100", "100.001"), "0.00 %");
  assert.equal(format.change("0", "1"), "");
  assert.equal(format.direction("100", "99"), "down");
});

test("a duration has a readable unit", () => {
  const texts = [0, -3, 119.9, 120, 7199, 7200, 172_799, 172_800].map(format.duration);
  assert.deepEqual(texts, ["0 s", "0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 days"]);
});

test("a gap has its times, length, reason and state", () => {
  const gap = { from: 1_705_318_800, to: 1_705_318_860, reason: "TIMEOUT", state: "GIVEN_UP" };
  assert.equal(format.gap(gap), "15 Jan 2024 11:40 to 11:41, 1 minute: Deribit did not respond in time, unrecoverable");
  assert.match(format.gap({ ...gap, to: gap.from + 86_400 }), /11:40 to 16 Jan 2024 11:40, 1,440 minutes/);
  assert.match(format.gap({ ...gap, reason: "NEW_ONE" }), /NEW_ONE/);
});

test("an incomplete window is never called complete", () => {
  const coverage = { expected: 1_000_000, stored: 999_999, missing: 1, backfilled: 0, imported: 0, extra: 0 };
  assert.equal(format.coverage(coverage), "999,999 of 1,000,000 minutes are stored (99.99 %), 1 missing.");
  assert.equal(format.coverage({ ...coverage, stored: 1_000_000, missing: 0 }), "Complete: all 1,000,000 minutes are stored.");
  assert.match(format.coverage({ ...coverage, fromPeers: 3 }), /Of these: 3 minutes filled later from a peer\./);
  assert.match(format.coverage({ ...coverage, backfilled: 2, extra: 1, from: 0, to: 60 * 1_000_061 }), /2 minutes filled later from Deribit's chart data\. 1 minute outside of the collected times is stored, too\. In the rest of this window \(1 h\), nothing was collected\.$/);
  assert.equal(format.coverage({ expected: 0, extra: 0 }), "Nothing was collected in this period.");
  assert.match(format.coverage({ expected: 0, extra: 3 }), /^3 minutes are stored\. Nothing was collected every minute/);
});

test("a length of time has at most two units", () => {
  assert.deepEqual([0, 60, 17_700, 7_200, 90_060, 3 * 86_400 + 59].map(format.span), ["0 min", "1 min", "4 h 55 min", "2 h", "1 d 1 h", "3 d"]);
});

test("a change that is shown as zero has no direction", () => {
  assert.deepEqual([["100", "100.001"], ["100", "101"], ["100", "99"], ["100", "100"]].map((one) => format.direction(...one)), ["even", "up", "down", "even"]);
});

test("a period that the prices do not cover says since when", () => {
  const now = 1_700_000_000;
  assert.equal(format.since(now - 86_400 + 300, now - 86_400, now), "");
  assert.match(format.since(now - 3_600, now - 86_400, now), /^since \d\d:\d\d$/);
});
