// Candles and the periods beside them as what the chart draws.

/** A candle, or an empty place where nothing is stored. */
export function drawn(candle) {
  const time = candle.ts;
  if (candle.open === null) return { time };
  return { time, open: Number(candle.open), high: Number(candle.high), low: Number(candle.low), close: Number(candle.close) };
}

/** Points of a line that is broken where nothing is stored: a point's colour is that of the way to the next. */
export function line(candles) {
  return candles.map((candle, index) => {
    if (candle.close === null) return { time: candle.ts };
    const isLast = candles[index + 1]?.close === null;
    return { time: candle.ts, value: Number(candle.close), ...(isLast && { color: "transparent" }) };
  });
}

/** The periods that touch the candle. */
export function touching(periods, candle) {
  return periods.filter((one) => one.from < candle.end && one.to > candle.ts);
}

/** Bands: of each candle that a period touches, at the place of the candle. */
export function bands(candles, periods, colour) {
  const found = [];
  for (const candle of candles) {
    const one = touching(periods, candle)[0];
    if (one) found.push({ time: candle.ts, value: 1, color: colour(one) });
  }
  return found;
}

/** Two lists of candles as one, in order; of the same one the newer. */
export function merged(known, added) {
  const all = new Map(known.map((candle) => [candle.ts, candle]));
  for (const candle of added) all.set(candle.ts, candle);
  return [...all.values()].sort((one, other) => one.ts - other.ts);
}

/** A line through the closes, as an SVG path within the size; broken where one is null. */
export function spark(closes, width, height) {
  const known = closes.filter((close) => close !== null);
  if (known.length < 2) return "";
  const low = Math.min(...known);
  const span = Math.max(...known) - low || 1;
  const parts = closes.map((close, index) => {
    if (close === null) return "";
    const x = ((index / (closes.length - 1)) * width).toFixed(1);
    const y = (height - 1 - ((close - low) / span) * (height - 2)).toFixed(1);
    return `${closes[index - 1] === undefined || closes[index - 1] === null ? "M" : "L"}${x} ${y}`;
  });
  return parts.join("");
}
