// Time zones: the wall-clock time of an instant, and the instant of a wall-clock time. Instants are UNIX seconds.

export const UTC = "UTC";
const OWN = Intl.DateTimeFormat().resolvedOptions().timeZone;

/** Returns the zones to choose from: UTC, that of the browser, and the current one. */
export function zones(current) {
  return [...new Set([UTC, OWN, current])];
}

/** Returns the name of a time zone as the API spells it, whatever the case; undefined if it is none, or an offset. */
export function findZone(name) {
  try {
    const { timeZone } = Intl.DateTimeFormat("en", { timeZone: name }).resolvedOptions();
    if (!/^[a-z]/i.test(name)) return undefined;
    return timeZone.toLowerCase() === name.toLowerCase() ? timeZone : /^[A-Z]/.test(name) ? name : undefined; // an alias
  } catch {
    return undefined;
  }
}

const formats = new Map();

/** Returns the wall-clock time of an instant as the milliseconds of the same time in UTC. */
export function wallClock(seconds, zone) {
  if (zone === UTC) return seconds * 1_000;
  if (!formats.has(zone)) {
    const parts = { year: "numeric", month: "numeric", day: "numeric", hour: "numeric", minute: "numeric", second: "numeric" };
    formats.set(zone, new Intl.DateTimeFormat("en", { ...parts, timeZone: zone, hourCycle: "h23" }));
  }
  const found = Object.fromEntries(formats.get(zone).formatToParts(seconds * 1_000).map(({ type, value }) => [type, Number(value)]));
  return Date.UTC(found.year, found.month - 1, found.day, found.hour, found.minute, found.second);
}

/** Formats an instant for an input: `2026-11-26 18:47`. */
export function toInput(seconds, zone) {
  return new Date(wallClock(seconds, zone)).toISOString().slice(0, 16).replace("T", " ");
}

/** Returns the instant of a text like `2026-11-26 18:47` or `2026-11-26`; NaN if it is not one. */
export function fromInput(text, zone) {
  const found = /^\s*(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d))?\s*$/.exec(text);
  const wall = found ? Date.parse(`${found[1]}T${found[2] ?? "00:00"}Z`) / 1_000 : NaN;
  if (Number.isNaN(wall)) return NaN;
  const offset = (seconds) => wallClock(seconds, zone) / 1_000 - seconds;
  return wall - offset(wall - offset(wall)); // the second step corrects the offset near a change of clocks
}
