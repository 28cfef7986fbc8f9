// Numbers, times and coverage as words. Nothing here knows of the page.

const MINUTE = 60;

/** A price as it came, with its thousands apart: digits are neither lost nor added. */
export function price(text) {
  const [whole, decimals] = text.split(".");
  const grouped = whole.replace(/\B(?=(\d{3})+(?!\d))/g, ",");
  return decimals === undefined ? grouped : `${grouped}.${decimals}`;
}

/** How much `to` is above `from`, in percent with a sign; "" where it cannot be told. */
export function change(from, to) {
  const part = (Number(to) / Number(from) - 1) * 100;
  if (!Number.isFinite(part)) return "";
  const text = Math.abs(part).toFixed(2);
  return `${text === "0.00" ? "" : part > 0 ? "+" : "−"}${text} %`;
}

/** Which way a change went: "up", "down" or "even". */
export function direction(from, to) {
  const difference = Number(to) - Number(from);
  return difference > 0 ? "up" : difference < 0 ? "down" : "even";
}

/** Seconds as a person says them. */
export function duration(seconds) {
  if (seconds < 120) return `${Math.max(0, Math.floor(seconds))} s`;
  if (seconds < 2 * 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 2 * 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
}

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

function day(seconds) {
  const at = new Date(seconds * 1000);
  return `${at.getUTCDate()} ${MONTHS[at.getUTCMonth()]} ${at.getUTCFullYear()}`;
}

function time(seconds) {
  return new Date(seconds * 1000).toISOString().slice(11, 16);
}

/** `21 Nov 2026 20:39`, UTC. */
export function instant(seconds) {
  return `${day(seconds)} ${time(seconds)}`;
}

/** The time alone where the day is the same as that of `other`. */
export function instantBeside(seconds, other) {
  return day(seconds) === day(other) ? time(seconds) : instant(seconds);
}

export function minutes(count) {
  return `${count.toLocaleString("en")} ${count === 1 ? "minute" : "minutes"}`;
}

const REASONS = {
  TIMEOUT: "Deribit did not answer in time",
  REFUSED: "Deribit refused, or could not be reached",
  HTTP_5XX: "Deribit had an error",
  RATE_LIMITED: "Deribit wanted fewer calls",
  MALFORMED: "the answer made no sense",
  TESTNET: "the answer was of the testnet",
  MAINTENANCE: "Deribit was under maintenance",
  CLOCK: "its minute could not be told",
  STORAGE: "it could not be kept",
  NOT_COLLECTED: "nobody asked",
};

const STATES = { OPEN: "still looked for", FILLED: "filled since", GIVEN_UP: "given up" };

/** A period of gaps: `21 Nov 2026 09:12 to 09:24, 12 minutes: Deribit did not answer in time, filled since`. */
export function gap(one) {
  const window = `${instant(one.from)} to ${instantBeside(one.to, one.from)}`;
  return `${window}, ${minutes((one.to - one.from) / MINUTE)}: ${REASONS[one.reason] ?? one.reason}, ${STATES[one.state]}`;
}

/** How complete a window is, in a sentence or two. */
export function coverage(found) {
  if (!found.expected) return found.extra ? `${minutes(found.extra)} stored; nothing was expected here.` : "Nothing was expected here.";
  const parts = [];
  if (found.missing) {
    // Never rounded up to the whole.
    const part = (Math.floor((found.stored / found.expected) * 10000) / 100).toFixed(2);
    parts.push(`${found.stored.toLocaleString("en")} of ${minutes(found.expected)} are stored (${part} %), ${found.missing.toLocaleString("en")} missing.`);
  } else {
    parts.push(`Complete: all ${minutes(found.expected)} are stored.`);
  }
  const others = [
    found.backfilled && `${minutes(found.backfilled)} backfilled from Deribit's own chart`,
    found.imported && `${minutes(found.imported)} imported`,
    found.extra && `${minutes(found.extra)} beyond what was expected`,
  ].filter(Boolean);
  if (others.length) parts.push(`Besides what came in its own minute: ${others.join(", ")}.`);
  return parts.join(" ");
}
