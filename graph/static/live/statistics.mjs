// Statistics of candles. Prices are strings in candles and numbers in the results; changes are in percent.

import { wallClock } from "./zones.mjs";

/** Describes candles, oldest first; null without prices. Changes are those between a candle and the next one, with no gap between them. */
export function describe(candles) {
  const known = candles.filter((one) => one.close !== null);
  if (!known.length) return null;
  const closes = known.map((one) => Number(one.close));
  const minutes = known.reduce((sum, one) => sum + one.count, 0);
  const moves = changesOf(known);
  const byChange = [...moves].sort((one, other) => one.change - other.change);
  return {
    count: known.length,
    mean: mean(closes),
    twap: known.reduce((sum, one) => sum + Number(one.twap) * one.count, 0) / minutes,
    volatility: deviation(moves.map((one) => one.change)),
    rise: byChange.at(-1)?.change > 0 ? byChange.at(-1) : null,
    fall: byChange[0]?.change < 0 ? byChange[0] : null,
    drawdown: drawdown(known),
  };
}

/** Returns for each hour of the day how much an hour's price changes: the standard deviation; null with fewer than two changes. */
export function volatilityByHour(hours, zone) {
  const byHour = Array.from({ length: 24 }, () => []);
  for (const { ts, change } of changesOf(hours.filter((one) => one.close !== null))) byHour[new Date(wallClock(ts, zone)).getUTCHours()].push(change);
  return byHour.map(deviation);
}

function changesOf(known) {
  const found = [];
  for (let index = 1; index < known.length; index++) {
    const [one, next] = [known[index - 1], known[index]];
    if (one.end === next.ts) found.push({ ts: next.ts, change: (Number(next.close) / Number(one.close) - 1) * 100 });
  }
  return found;
}

/** Returns the deepest fall from a high to a later low, as `{ change, from, to }`; null if no price fell. */
function drawdown(known) {
  let peak = known[0];
  let deepest = null;
  for (const candle of known) {
    const change = (Number(candle.low) / Number(peak.high) - 1) * 100;
    if (candle !== peak && change < (deepest?.change ?? 0)) deepest = { change, from: peak.ts, to: candle.ts };
    if (Number(candle.high) > Number(peak.high)) peak = candle;
  }
  return deepest;
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Returns the standard deviation of a sample; null with fewer than two values. */
function deviation(values) {
  if (values.length < 2) return null;
  const middle = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1));
}
