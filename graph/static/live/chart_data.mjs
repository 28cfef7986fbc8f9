// Converts candles and periods (gaps, backfills, imports) to the data of the chart.

/** Returns whether a closed candle is known by its minute prices alone. The open one moves with ticks that are not stored yet. */
export function isSampled(candle) {
  return candle.closed && candle.count > 0 && candle.sampled === candle.count;
}

/** Returns the chart data of a candle; only its time if the candle has no prices. `colors` are those of sampled candles, if any. */
export function toChartCandle(candle, colors = null) {
  const time = candle.ts;
  if (candle.open === null) return { time };
  const prices = { open: Number(candle.open), high: Number(candle.high), low: Number(candle.low), close: Number(candle.close) };
  if (!colors || !isSampled(candle)) return { time, ...prices };
  const color = prices.close >= prices.open ? colors.up : colors.down;
  return { time, ...prices, color, wickColor: color };
}

/** Returns the points of a line with breaks at candles without prices. A point's color applies to the segment after it. */
export function toChartLine(candles) {
  return candles.map((candle, index) => {
    if (candle.close === null) return { time: candle.ts };
    const isLast = candles[index + 1]?.close === null;
    return { time: candle.ts, value: Number(candle.close), ...(isLast && { color: "transparent" }) };
  });
}

/** Returns the candles without a neighbor, of which a line shows nothing. */
export function isolated(candles) {
  const isEmpty = (index) => (candles[index]?.close ?? null) === null;
  return candles.filter((_, index) => !isEmpty(index) && isEmpty(index - 1) && isEmpty(index + 1));
}

/** Returns the periods that overlap the candle. */
export function overlapping(periods, candle) {
  return periods.filter((one) => one.from < candle.end && one.to > candle.ts);
}

/** Returns a band for each candle that overlaps a period. */
export function bands(candles, periods, colorOf) {
  const found = [];
  for (const candle of candles) {
    const period = overlapping(periods, candle)[0];
    if (period) found.push({ time: candle.ts, value: 1, color: colorOf(period) });
  }
  return found;
}

/** Merges two lists of candles, sorted by time. `added` replaces a known candle of the same time. */
export function mergeCandles(known, added) {
  const all = new Map(known.map((candle) => [candle.ts, candle]));
  for (const candle of added) all.set(candle.ts, candle);
  return [...all.values()].sort((one, other) => one.ts - other.ts);
}

/** Returns an SVG path through the closes that fits the size, with breaks at null. */
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
