import assert from "node:assert/strict";
import { test } from "node:test";

import { resumeVariables, retryDelay } from "../../graph/static/live/subscription.mjs";

test("clients reconnect after growing, random delays", () => {
  assert.deepEqual([0, 1, 2, 3, 4, 99].map((attempt) => retryDelay(attempt, 1)), [500, 1_000, 2_000, 4_000, 8_000, 8_000]);
  assert.equal(retryDelay(2, 0), 1_000);
});

test("a subscription resumes after its last received id", () => {
  assert.deepEqual(resumeVariables({ ticker: "a" }, null), { ticker: "a" });
  assert.deepEqual(resumeVariables({ ticker: "a", after: "1" }, "9"), { ticker: "a", after: "9" });
});
