// The text about one candle.

import { isSampled, overlapping } from "./chart_data.mjs";
import { gap, instant, minutes, price } from "./format.mjs";

const SOURCES = { BACKFILL: "backfilled", IMPORT: "imported", PEER: "from a peer" };

/** Describes a candle, with the gaps and the sources of its minutes. */
export function describeCandle(candle, gaps, parts) {
  const texts = [instant(candle.ts)];
  if (candle.open === null) {
    texts.push("no prices");
  } else {
    texts.push(`open ${price(candle.open)}`, `high ${price(candle.high)}`, `low ${price(candle.low)}`, `close ${price(candle.close)}`);
    if (!candle.closed) texts.push("in progress");
    else if (!candle.complete) texts.push(`${candle.count} of ${minutes(candle.expected)}`);
    if (isSampled(candle)) texts.push("one sample a minute");
  }
  texts.push(...overlapping(gaps, candle).slice(0, 2).map(gap));
  const sources = new Set(overlapping(parts, candle).map((one) => SOURCES[one.source]));
  if (sources.size) texts.push([...sources].join(", "));
  return texts.join("  ·  ");
}
