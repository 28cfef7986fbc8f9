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

/** Returns the points of a line or an area with breaks at candles without prices. A point's color applies to the segment after it. */
export function toChartLine(candles) {
  return candles.map((candle, index) => {
    if (candle.close === null) return { time: candle.ts };
    const isLast = candles[index + 1]?.close === null;
    return { time: candle.ts, value: Number(candle.close), ...(isLast && HIDDEN) };
  });
}

const HIDDEN = Object.fromEntries(["color", "lineColor", "topColor", "bottomColor"].map((name) => [name, "transparent"]));

/** Returns the highest and the lowest price of the candles, as `{ ts, price }`; null without prices. `ofCloses`: a line shows only closes. */
export function extremes(candles, ofCloses) {
  const known = candles.filter((one) => one.close !== null);
  if (!known.length) return null;
  const [highOf, lowOf] = ofCloses ? [(one) => one.close, (one) => one.close] : [(one) => one.high, (one) => one.low];
  const high = known.reduce((best, one) => (Number(highOf(one)) > Number(highOf(best)) ? one : best));
  const low = known.reduce((best, one) => (Number(lowOf(one)) < Number(lowOf(best)) ? one : best));
  return { high: { ts: high.ts, price: highOf(high) }, low: { ts: low.ts, price: lowOf(low) } };
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

/** Merges two lists of candles, sorted by time. `added` replaces a known candle of the same time. */
export function mergeCandles(known, added) {
  const all = new Map(known.map((candle) => [candle.ts, candle]));
  for (const candle of added) all.set(candle.ts, candle);
  return [...all.values()].sort((one, other) => one.ts - other.ts);
}

/** Returns an SVG path through `{ ts, price }` that fits the size, with breaks where more than `maxStep` seconds are between two. */
export function spark(points, width, height, maxStep) {
  if (points.length < 2) return "";
  const prices = points.map((one) => Number(one.price));
  const [low, high] = [Math.min(...prices), Math.max(...prices)];
  const [start, end] = [points[0].ts, points.at(-1).ts];
  return points.map(({ ts }, index) => {
    const x = (((ts - start) / (end - start)) * width).toFixed(1);
    const y = (height - 1 - ((prices[index] - low) / (high - low || 1)) * (height - 2)).toFixed(1);
    return `${index && ts - points[index - 1].ts <= maxStep ? "L" : "M"}${x} ${y}`;
  }).join("");
}
