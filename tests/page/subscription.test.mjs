import assert from "node:assert/strict";
import { test } from "node:test";

import { begin, recover, resumeVariables, retryDelay } from "../../graph/static/live/subscription.mjs";

test("clients reconnect after growing, random delays", () => {
  assert.deepEqual([0, 1, 2, 3, 4, 99].map((attempt) => retryDelay(attempt, 1)), [500, 1_000, 2_000, 4_000, 8_000, 8_000]);
  assert.equal(retryDelay(2, 0), 1_000);
});

test("a subscription resumes after its last received id", () => {
  assert.deepEqual(resumeVariables({ ticker: "a" }, null), { ticker: "a" });
  assert.deepEqual(resumeVariables({ ticker: "a", after: "1" }, "9"), { ticker: "a", after: "9" });
});

const error = (code, resumeFrom) => ({ extensions: { code, resumeFrom } });
const subscription = (last) => ({ variables: { ticker: "a", after: "1" }, last, hasBegun: true, reloads: 0, onReconnect() { this.reloads++; } });

test("after an error, a subscription resumes where it can, or its view reloads", () => {
  const changed = subscription("9");
  assert.ok(recover(changed, error("HISTORY_CHANGED", "5")));
  assert.deepEqual([begin(changed), changed.reloads], [{ ticker: "a", after: "5" }, 0]);
  const late = subscription("9");
  assert.ok(recover(late, error("RESUME_TOO_OLD", "5")));
  assert.deepEqual([begin(late), late.reloads], [{ ticker: "a", after: null }, 1]);
  assert.ok(recover(subscription("9"), error("BAD_USER_INPUT")), "the id may be the problem");
  assert.ok(!recover({ ...subscription(null), variables: {} }, error("BAD_USER_INPUT")));
  assert.ok(!recover(subscription("9"), error("UNKNOWN_TICKER")));
  assert.ok(recover(subscription("9"), {}), "the server ended the subscription");
});
