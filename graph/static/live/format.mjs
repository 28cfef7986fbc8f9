// Formats numbers, times, gaps and coverage as text.

import { UTC, wallClock } from "./zones.mjs";

const MINUTE = 60;

let zone = UTC;

/** Sets the time zone of all texts. */
export function setZone(name) {
  zone = name;
}

/** Formats a price with thousands separators. Keeps all digits. */
export function price(text) {
  const [whole, decimals] = text.split(".");
  const grouped = whole.replace(/\B(?=(\d{3})+(?!\d))/g, ",");
  return decimals === undefined ? grouped : `${grouped}.${decimals}`;
}

/** Returns the higher of two prices as text. */
export function higher(one, other) {
  return Number(other) > Number(one) ? other : one;
}

export function lower(one, other) {
  return Number(other) < Number(one) ? other : one;
}

/** Returns how many decimals of a computed price are worth showing: more for small prices. */
export function decimalsOf(value) {
  return Math.max(2, Math.min(8, Math.ceil(3 - Math.log10(Math.abs(value)))));
}

/** Returns the change between two prices in percent, with a sign; "" if it is not a number. */
export function change(from, to) {
  const part = (Number(to) / Number(from) - 1) * 100;
  if (!Number.isFinite(part)) return "";
  const text = Math.abs(part).toFixed(2);
  return `${text === "0.00" ? "" : part > 0 ? "+" : "−"}${text} %`;
}

/** Returns the direction of a change as it is shown: "up", "down" or "even". */
export function direction(from, to) {
  const text = change(from, to);
  return text.startsWith("+") ? "up" : text.startsWith("−") ? "down" : "even";
}

/** Formats seconds in the largest suitable unit. */
export function duration(seconds) {
  if (seconds < 120) return `${Math.max(0, Math.floor(seconds))} s`;
  if (seconds < 2 * 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 2 * 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
}

const UNITS = [["d", 86400], ["h", 3600], ["min", 60]];

/** Formats a length of time in at most two units: `4 h 55 min`. */
export function span(seconds) {
  const parts = [];
  let rest = seconds;
  for (const [unit, length] of UNITS) {
    const count = Math.floor(rest / length);
    rest -= count * length;
    if (count && parts.length < 2) parts.push(`${count} ${unit}`);
  }
  return parts.join(" ") || "0 min";
}

export const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

function day(seconds) {
  const at = new Date(wallClock(seconds, zone));
  return `${at.getUTCDate()} ${MONTHS[at.getUTCMonth()]} ${at.getUTCFullYear()}`;
}

function time(seconds) {
  return new Date(wallClock(seconds, zone)).toISOString().slice(11, 16);
}

/** Formats a time for the axis of a chart: a year, a month, a day or a time of day, as lightweight-charts counts them. */
export function axis(seconds, kind) {
  const at = new Date(wallClock(seconds, zone));
  return [String(at.getUTCFullYear()), MONTHS[at.getUTCMonth()], String(at.getUTCDate())][kind] ?? time(seconds);
}

/** Formats a time: `21 Nov 2026 20:39`. */
export function instant(seconds) {
  return `${day(seconds)} ${time(seconds)}`;
}

/** Formats a time; without the date if it is on the same day as `other`. */
export function instantAfter(seconds, other) {
  return day(seconds) === day(other) ? time(seconds) : instant(seconds);
}

const TOLERANCE_S = 600; // a period that lacks its first minutes counts as whole

/** Returns "since …" if the prices of a period begin later than the period; "" if they cover it. */
export function since(first, start, now) {
  return first <= start + TOLERANCE_S ? "" : `since ${instantAfter(first, now)}`;
}

export function minutes(count) {
  return `${count.toLocaleString("en")} ${count === 1 ? "minute" : "minutes"}`;
}

const REASONS = {
  TIMEOUT: "Deribit did not respond in time",
  REFUSED: "Deribit rejected the request or could not be reached",
  HTTP_5XX: "Deribit returned a server error",
  RATE_LIMITED: "Deribit rate limit reached",
  MALFORMED: "malformed response",
  TESTNET: "response from the testnet",
  MAINTENANCE: "Deribit was under maintenance",
  CLOCK: "the minute was unclear because of a wrong clock",
  STORAGE: "the price could not be stored",
  NOT_COLLECTED: "no worker ran, or no message arrived",
  NOT_IMPORTED: "not part of the import",
};

/** Returns why the newest prices of a ticker are missing, as far as it is known: "" or ": …". */
export function staleReason({ latest, lastGap }) {
  const isNewest = lastGap && lastGap.to > (latest ? latest.ts + MINUTE : 0);
  return isNewest ? `: ${REASONS[lastGap.reason] ?? lastGap.reason}` : "";
}

const STATES = { OPEN: "backfill pending", FILLED: "filled later", GIVEN_UP: "unrecoverable" };

/** Formats a gap: `21 Nov 2026 09:12 to 09:24, 12 minutes: Deribit did not respond in time, filled later`. */
export function gap(one) {
  const window = `${instant(one.from)} to ${instantAfter(one.to, one.from)}`;
  return `${window}, ${minutes((one.to - one.from) / MINUTE)}: ${REASONS[one.reason] ?? one.reason}, ${STATES[one.state]}`;
}

/** Describes the coverage of a window in one to three sentences. */
export function coverage(found) {
  if (!found.expected) {
    if (!found.extra) return "Nothing was collected in this period.";
    return `${minutes(found.extra)} are stored. Nothing was collected every minute in this period, so it is not known what is missing.`;
  }
  const parts = [];
  const rest = found.to - found.from - MINUTE * (found.expected + found.extra);
  if (found.missing) {
    // Rounded down, so that an incomplete window never shows 100 %.
    const part = (Math.floor((found.stored / found.expected) * 10000) / 100).toFixed(2);
    parts.push(`${found.stored.toLocaleString("en")} of ${minutes(found.expected)} are stored (${part} %), ${found.missing.toLocaleString("en")} missing.`);
  } else {
    parts.push(found.expected === 1 ? "Complete: the one expected minute is stored." : `Complete: all ${minutes(found.expected)} are stored.`);
  }
  const sources = [
    found.backfilled && `${minutes(found.backfilled)} filled later from Deribit's chart data`,
    found.fromPeers && `${minutes(found.fromPeers)} filled later from a peer`,
    found.imported && `${minutes(found.imported)} imported`,
  ].filter(Boolean);
  if (sources.length) parts.push(`Of these: ${sources.join(", ")}.`);
  if (found.extra) parts.push(`${minutes(found.extra)} outside of the collected times ${found.extra === 1 ? "is" : "are"} stored, too.`);
  if (rest > 0) parts.push(`In the rest of this window (${span(rest)}), nothing was collected.`);
  return parts.join(" ");
}
