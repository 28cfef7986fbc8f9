// Lengths of candles, and ranges of time to show.

export const INTERVALS = {
  ONE_MINUTE: { seconds: 60, short: "1m", name: "one minute" },
  FIVE_MINUTES: { seconds: 300, short: "5m", name: "five minutes" },
  FIFTEEN_MINUTES: { seconds: 900, short: "15m", name: "fifteen minutes" },
  THIRTY_MINUTES: { seconds: 1800, short: "30m", name: "thirty minutes" },
  ONE_HOUR: { seconds: 3600, short: "1h", name: "one hour" },
  FOUR_HOURS: { seconds: 14400, short: "4h", name: "four hours" },
  TWELVE_HOURS: { seconds: 43200, short: "12h", name: "twelve hours" },
  ONE_DAY: { seconds: 86400, short: "1D", name: "one day" },
  ONE_WEEK: { seconds: 604800, short: "1W", name: "one week" },
  ONE_MONTH: { seconds: 2629800, short: "1M", name: "one month" },
};

export const RANGES = {
  "1D": { seconds: 86400, interval: "FIVE_MINUTES", name: "one day" },
  "1W": { seconds: 7 * 86400, interval: "ONE_HOUR", name: "one week" },
  "1M": { seconds: 30 * 86400, interval: "FOUR_HOURS", name: "one month" },
  "3M": { seconds: 91 * 86400, interval: "TWELVE_HOURS", name: "three months" },
  "1Y": { seconds: 365 * 86400, interval: "ONE_DAY", name: "one year" },
  "All": { seconds: Infinity, interval: "ONE_DAY", name: "all prices" },
};

/** Returns the shortest interval with at most `maxCandles` candles in the given seconds. */
export function intervalFor(seconds, maxCandles) {
  return Object.keys(INTERVALS).find((name) => INTERVALS[name].seconds * maxCandles >= seconds) ?? "ONE_MONTH";
}
