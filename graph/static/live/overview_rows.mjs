// The rows of the overview: which, in which order, in which groups.

import { pairName, quoteOf } from "./names.mjs";

const VALUES = {
  name: (row) => row.name,
  price: (row) => number(row.latest?.price),
  change: (row) => row.change,
  low: (row) => number(row.low),
  high: (row) => number(row.high),
  age: (row) => (row.latest ? -row.latest.ts : null),
};

function number(text) {
  return text === undefined || text === null ? null : Number(text);
}

/** Returns the rows that match the filter, sorted; pinned ones first, rows without the value last. */
export function arrange(rows, { sort, order, filter }, pinned) {
  const text = filter.trim().toLowerCase();
  const value = VALUES[sort];
  const sign = order === "down" ? -1 : 1;
  return rows
    .filter((row) => !text || row.name.includes(text) || pairName(row.name).toLowerCase().includes(text))
    .sort((one, other) =>
      pinned.includes(other.name) - pinned.includes(one.name) || compare(value(one), value(other), sign) || (one.name < other.name ? -1 : 1));
}

function compare(one, other, sign) {
  if ((one ?? null) === null || (other ?? null) === null) return ((one ?? null) === null) - ((other ?? null) === null);
  return one < other ? -sign : one > other ? sign : 0;
}

/** Returns groups `{ title, rows }`: by quote currency, or one without a title. Pinned rows have a group of their own. */
export function groupRows(rows, group, pinned) {
  if (group !== "quote") return [{ title: "", rows }];
  const groups = new Map();
  for (const row of rows) {
    const title = pinned.includes(row.name) ? "Pinned" : quoteOf(row.name) || "Other";
    groups.set(title, [...(groups.get(title) ?? []), row]);
  }
  return [...groups].map(([title, found]) => ({ title, rows: found }));
}
