// What subscriptions over WebSockets and over HTTP share.

const PERMANENT_CODES = ["UNKNOWN_TICKER", "UNAUTHENTICATED", "FORBIDDEN", "GRAPHQL_VALIDATION_FAILED", "GRAPHQL_PARSE_FAILED", "QUERY_TOO_COMPLEX"];
export const RETRY_DELAYS_MS = [500, 1_000, 2_000, 4_000, 8_000];

/** Returns the delay before a reconnect attempt in milliseconds, with jitter so that clients do not reconnect together. */
export function retryDelay(attempt, random = Math.random()) {
  return RETRY_DELAYS_MS[Math.min(attempt, RETRY_DELAYS_MS.length - 1)] * (0.5 + random / 2);
}

/** Returns the variables of a subscription, with the last received id as `after` if there is one. */
export function resumeVariables(variables, last) {
  return last === null ? variables : { ...variables, after: last };
}

/** Returns the variables to begin or to resume a subscription with. Without an id to resume after, its view reloads. */
export function begin(subscription) {
  const variables = resumeVariables(subscription.variables, subscription.last);
  if (subscription.hasBegun && !variables.after) subscription.onReconnect();
  subscription.hasBegun = true;
  return variables;
}

/** Prepares a subscription for a retry after an error of the API. Returns false if a retry would fail, too. */
export function recover(subscription, error) {
  const code = error.extensions?.code;
  const isResumed = Boolean(resumeVariables(subscription.variables, subscription.last).after);
  if (PERMANENT_CODES.includes(code) || (code === "BAD_USER_INPUT" && !isResumed)) return false;
  if (code === "HISTORY_CHANGED") {
    subscription.last = error.extensions.resumeFrom; // events with a higher id belong to the replaced history
  } else if (code === "RESUME_TOO_OLD" || code === "BAD_USER_INPUT") {
    subscription.last = null; // the view reloads the missed data
    subscription.variables = { ...subscription.variables, after: null };
  }
  return true;
}

/** Passes the event of a response on. */
export function deliver(subscription, data) {
  const [event] = Object.values(data);
  subscription.last = event.id ?? null;
  subscription.failures = 0;
  subscription.onData(event);
}
