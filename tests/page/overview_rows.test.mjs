import assert from "node:assert/strict";
import { test } from "node:test";

import { pairName, quoteOf } from "../../graph/static/live/names.mjs";
import { arrange, groupRows } from "../../graph/static/live/overview_rows.mjs";

const row = (name, price, change) => ({ name, latest: price === null ? null : { price, ts: 60 }, change });
const rows = [row("btc_usd", "9000", 1), row("ada_usdc", "0.5", null), row("eth_usd", "10000", -2), row("new_usd", null, null)];
const names = (view, pinned = []) => arrange(rows, { sort: "name", order: "up", filter: "", ...view }, pinned).map((one) => one.name);

test("prices are sorted as numbers, rows without a value come last in both directions", () => {
  assert.deepEqual(names({ sort: "price" }), ["ada_usdc", "btc_usd", "eth_usd", "new_usd"]);
  assert.deepEqual(names({ sort: "price", order: "down" }), ["eth_usd", "btc_usd", "ada_usdc", "new_usd"]);
  assert.deepEqual(names({ sort: "change", order: "down" }), ["btc_usd", "eth_usd", "ada_usdc", "new_usd"]);
});

test("pinned rows come first in every order", () => {
  for (const order of ["up", "down"]) assert.equal(names({ sort: "price", order }, ["new_usd"])[0], "new_usd");
});

test("the filter finds tickers by their index name and by their full name", () => {
  assert.deepEqual(names({ filter: "USDC" }), ["ada_usdc"]);
  assert.deepEqual(names({ filter: " bitcoin " }), ["btc_usd"]);
  assert.deepEqual(names({ filter: "nothing" }), []);
});

test("groups have the quote currency as title; pinned rows are a group", () => {
  const shape = groupRows(rows, "quote", ["eth_usd"]).map(({ title, rows: found }) => [title, found.map((one) => one.name)]);
  assert.deepEqual(shape, [["USD", ["btc_usd", "new_usd"]], ["USDC", ["ada_usdc"]], ["Pinned", ["eth_usd"]]]);
  assert.deepEqual(groupRows(rows, "none", []).map(({ title }) => title), [""]);
});

test("names say what an index is, and unknown currencies have their code", () => {
  assert.deepEqual(["btc_usd", "xyz_eur", "drbfix-btc_usdc", "btcdvol_usdc", "odd"].map(pairName), ["Bitcoin / US dollar", "XYZ / euro", "Bitcoin / USD Coin", "Bitcoin volatility index / USD Coin", "ODD"]);
  assert.deepEqual(["btc_usd", "odd"].map(quoteOf), ["USD", ""]);
});
