// Windows of time and positions in a list of candles. Times are UNIX seconds; a candle i spans the positions i − 0.5 to i + 0.5.

export const MIN_CANDLES = 4;
export const MAX_CANDLES = 1_500;

/** Returns the window with the same middle that has enough candles to see and few enough to load. It ends by `now`. */
export function fitWindow({ from, to }, seconds, now) {
  const length = Math.min(Math.max(to - from, MIN_CANDLES * seconds), MAX_CANDLES * seconds);
  if (length === to - from) return { from, to };
  const middle = (from + to) / 2;
  const end = Math.min(Math.round(middle + length / 2), Math.max(to, now));
  return { from: Math.max(0, end - Math.round(length)), to: end };
}

/** Returns the position of a time: within the candles, or beyond them by the length of the outermost one. */
export function positionOf(candles, time) {
  if (!candles.length) return 0;
  const index = indexAt(candles, time);
  const { ts, end } = candles[index];
  return index - 0.5 + (time - ts) / (end - ts);
}

/** Returns the coordinate of a position in a time scale, which knows only those of whole positions. */
export function coordinateAt(scale, position) {
  const whole = Math.floor(position);
  const [left, right] = [scale.logicalToCoordinate(whole), scale.logicalToCoordinate(whole + 1)];
  return left + (position - whole) * (right - left);
}

/** Returns the time at a position, in whole minutes. */
export function timeAt(candles, position) {
  const index = Math.max(0, Math.min(candles.length - 1, Math.floor(position + 0.5)));
  const { ts, end } = candles[index];
  return Math.round((ts + (position + 0.5 - index) * (end - ts)) / 60) * 60;
}

/** Returns the index of the last candle that starts at or before the time; 0 if there is none. */
function indexAt(candles, time) {
  let [low, high] = [0, candles.length - 1];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (candles[middle].ts <= time) low = middle;
    else high = middle - 1;
  }
  return low;
}
