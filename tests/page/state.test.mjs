import assert from "node:assert/strict";
import { test } from "node:test";

import { parseView, buildViewUrl } from "../../graph/static/live/state.mjs";
import { retryDelay, resumeVariables } from "../../graph/static/live/socket.mjs";

test("a URL and its view convert into each other", () => {
  for (const address of [
    "/",
    "/?ticker=btc_usd",
    "/?ticker=drbfix-btc_usdc&interval=ONE_DAY",
    "/?ticker=btc_usd&interval=ONE_MINUTE&from=1705318800&to=1705319800",
    "/?ticker=btc_usd&interval=ONE_DAY&zone=Europe%2FBerlin",
  ]) {
    const url = new URL(buildViewUrl(parseView(address.slice(1))), "http://localhost/");
    assert.equal(url.pathname + url.search, address);
  }
});

test("an invalid URL shows the default view", () => {
  const nothing = { ticker: null, interval: "FIVE_MINUTES", zone: "UTC", from: null, to: null };
  assert.deepEqual(parseView("?ticker=<script>&interval=toString&from=x&to=1&zone=Moon"), nothing);
  assert.deepEqual(parseView("?from=20&to=10"), nothing);
});

test("clients reconnect after growing, random delays", () => {
  assert.deepEqual([0, 1, 2, 3, 4, 99].map((attempt) => retryDelay(attempt, 1)), [500, 1_000, 2_000, 4_000, 8_000, 8_000]);
  assert.equal(retryDelay(2, 0), 1_000);
});

test("a subscription resumes after its last received id", () => {
  assert.deepEqual(resumeVariables({ ticker: "a" }, null), { ticker: "a" });
  assert.deepEqual(resumeVariables({ ticker: "a", after: "1" }, "9"), { ticker: "a", after: "9" });
});
