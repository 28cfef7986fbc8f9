import assert from "node:assert/strict";
import { test } from "node:test";

import { fromInput, findZone, toInput, wallClock, zones } from "../../graph/static/live/zones.mjs";

test("a wall-clock time and its instant convert into each other, also around changes of clocks", () => {
  for (const zone of ["UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns"]) {
    // Around the changes of 2024 in Europe; not the hour that clocks repeat.
    for (let at = 1_711_756_800; at < 1_711_756_800 + 3 * 86_400; at += 1_800) assert.equal(fromInput(toInput(at, zone), zone), at, zone);
  }
  assert.equal(toInput(1_711_846_800, "Europe/Berlin"), "2024-03-31 03:00");
  assert.equal(fromInput("2024-03-31", "Europe/Berlin"), 1_711_839_600);
  assert.equal(wallClock(0, "Asia/Kolkata"), 5.5 * 3_600_000);
});

test("a text that is no time is not one", () => {
  for (const text of ["", "yesterday", "2024-13-01", "2024-01-01 25:00", "01/02/2024"]) assert.ok(Number.isNaN(fromInput(text, "UTC")), text);
});

test("zones are those that the browser knows", () => {
  assert.deepEqual(["Europe/Berlin", "europe/berlin", "UTC", "Moon", "", "+05:30"].map(findZone), ["Europe/Berlin", "Europe/Berlin", "UTC", undefined, undefined, undefined]);
  assert.ok(zones("Asia/Tokyo").includes("UTC") && zones("Asia/Tokyo").includes("Asia/Tokyo"));
});
