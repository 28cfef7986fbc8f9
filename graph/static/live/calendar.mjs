// The coverage of a ticker as a calendar: a column for each week, a row for each day of the week.

import { MONTHS, minutes } from "./format.mjs";
import { html, svg } from "./template.mjs";

const DAY = 86_400;
const WEEKDAYS = ["Mon", "", "Wed", "", "Fri", "", ""];
const SIZE = 11;
const STEP = 13;
const LEFT = 28;
const TOP = 14;
const ALMOST = 0.99;

const LEVELS = { complete: "complete", almost: "99 % or more", partial: "less than 99 %", none: "no minute stored", unexpected: "nothing was collected" };

/** Returns the level of a day: a key of LEVELS. */
export function levelOf(day) {
  if (!day?.expected) return "unexpected";
  if (day.stored === 0) return "none";
  if (day.stored === day.expected) return "complete";
  return day.stored / day.expected >= ALMOST ? "almost" : "partial";
}

/** Places each UTC day up to that of `now`: `{ day, week, weekday }`, weeks from 0, weekdays from Monday as 0. */
export function placeDays(now, weeks) {
  const today = Math.floor(now / DAY) * DAY;
  const weekday = (new Date(today * 1_000).getUTCDay() + 6) % 7;
  const first = today - weekday * DAY - (weeks - 1) * 7 * DAY;
  return Array.from({ length: (today - first) / DAY + 1 }, (_, index) => ({ day: first + index * DAY, week: Math.floor(index / 7), weekday: index % 7 }));
}

/** Describes a day: `2026-11-27: 1,440 of 1,440 minutes`. */
export function describeDay(day, found) {
  const date = new Date(day * 1_000).toISOString().slice(0, 10);
  if (!found?.expected) return `${date}: ${LEVELS.unexpected}`;
  return `${date}: ${found.stored.toLocaleString("en")} of ${minutes(found.expected)}`;
}

/** Draws the calendar of the last weeks. `days` are `{ day, expected, stored }` of the API. */
export function calendar(ticker, days, now, weeks) {
  const found = new Map(days.map((one) => [one.day, one]));
  const places = placeDays(now, weeks);
  const firsts = places.filter(({ day, weekday }) => weekday === 0 && new Date(day * 1_000).getUTCDate() <= 7);
  const missing = days.reduce((sum, one) => sum + one.expected - one.stored, 0);
  return html`<svg class="calendar" width=${LEFT + weeks * STEP} viewBox="0 0 ${LEFT + weeks * STEP} ${TOP + 7 * STEP}" role="img" aria-label="Days of ${ticker}: ${days.length} days, ${minutes(missing)} missing">
    ${firsts.map(({ day, week }) => svg`<text x=${LEFT + week * STEP} y="9">${MONTHS[new Date(day * 1_000).getUTCMonth()]}</text>`)}
    ${WEEKDAYS.map((name, row) => svg`<text x="0" y=${TOP + row * STEP + 9}>${name}</text>`)}
    ${places.map(({ day, week, weekday }) => svg`<rect class=${levelOf(found.get(day))} x=${LEFT + week * STEP} y=${TOP + weekday * STEP} width=${SIZE} height=${SIZE} rx="2"><title>${describeDay(day, found.get(day))}</title></rect>`)}
  </svg>`;
}

export const calendarKey = () => html`<ul class="key scale-key">${Object.entries(LEVELS).map(([name, text]) => html`<li class=${name}>${text}</li>`)}</ul>`;
