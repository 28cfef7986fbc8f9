import assert from "node:assert/strict";
import { test } from "node:test";

import { buildViewUrl, parseView } from "../../graph/static/live/address.mjs";
import { intervalFor } from "../../graph/static/live/intervals.mjs";

test("a URL and its view convert into each other", () => {
  for (const address of [
    "/",
    "/?ticker=btc_usd",
    "/?ticker=drbfix-btc_usdc&interval=ONE_DAY",
    "/?ticker=btc_usd&interval=ONE_MINUTE&from=1705318800&to=1705319800",
    "/?ticker=btc_usd&interval=ONE_DAY&zone=Europe%2FBerlin",
    "/?ticker=btc_usd&interval=ONE_HOUR&range=1W",
    "/?ticker=btc_usd&style=area&scale=log&compare=eth_usd%2Csol_usd",
    "/?sort=change&order=down&filter=usdc&group=quote",
    "/?view=health",
    "/?view=alerts",
  ]) {
    const view = parseView(address.slice(1));
    assert.deepEqual(view.problems, []);
    const url = new URL(buildViewUrl(view), "http://localhost/");
    assert.equal(url.pathname + url.search, address);
  }
});

test("a parameter that is wrong is ignored, and a sentence says what would be right", () => {
  for (const [search, problem] of [
    ["?ticker=<script>", "ticker=<script> is unknown and ignored. Use a name like btc_usd."],
    ["?ticker=a&interval=toString", /^interval=toString is unknown and ignored. Use ONE_MINUTE, /],
    ["?ticker=a&zone=Moon", /IANA time zone like Europe\/Berlin/],
    ["?ticker=a&scale=wide", /Use linear, log, percent/],
    ["?ticker=a&compare=a,b,c,d,e,f", /up to 5 tickers/],
    ["?ticker=a&from=x&to=1", /both must be UNIX seconds/],
    ["?ticker=a&from=20&to=10", /from must be before to/],
    ["?view=moon", /Use health, alerts/],
    ["?sort=toString", /Use name, price/],
  ]) {
    const { problems, ...view } = parseView(search);
    assert.equal(problems.length, 1, search);
    assert.match(problems[0], problem instanceof RegExp ? problem : new RegExp(problem.replaceAll(/[<>.=]/g, ".")));
    const { problems: _, ...initial } = parseView(search.startsWith("?ticker=a") ? "?ticker=a" : "");
    assert.deepEqual(view, initial);
  }
});

test("a ticker in capitals is found", () => {
  assert.equal(parseView("?ticker=%20BTC_USD").ticker, "btc_usd");
});

test("a range is shown with the shortest candles that fit", () => {
  assert.deepEqual([60, 86_400, 366 * 86_400, 100 * 366 * 86_400].map((seconds) => intervalFor(seconds, 500)), ["ONE_MINUTE", "FIVE_MINUTES", "ONE_DAY", "ONE_MONTH"]);
});
