// Subscriptions over one WebSocket (graphql-transport-ws). Reconnects after a lost connection and resumes the subscriptions.

const PROTOCOL = "graphql-transport-ws";
const PING_INTERVAL_MS = 15_000;
const PONG_TIMEOUT_MS = 5_000;
const CONNECTION_INIT_TIMEOUT_MS = 10_000;
const PERMANENT_CODES = ["UNKNOWN_TICKER", "UNAUTHENTICATED", "FORBIDDEN", "GRAPHQL_VALIDATION_FAILED", "GRAPHQL_PARSE_FAILED", "QUERY_TOO_COMPLEX"];
const RETRY_DELAYS_MS = [500, 1_000, 2_000, 4_000, 8_000];

/** Returns the delay before a reconnect attempt in milliseconds, with jitter so that clients do not reconnect together. */
export function retryDelay(attempt, random = Math.random()) {
  return RETRY_DELAYS_MS[Math.min(attempt, RETRY_DELAYS_MS.length - 1)] * (0.5 + random / 2);
}

/** Returns the variables of a subscription, with the last received id as `after` if there is one. */
export function resumeVariables(variables, last) {
  return last === null ? variables : { ...variables, after: last };
}

export class Socket {
  #url;
  #payload;
  #onState;
  #socket = null;
  #attempt = 0;
  #reconnectTimer = null;
  #lastMessageAt = 0;
  #subscriptions = new Map();
  #nextId = 1;
  #isOpen = false;

  /** Calls `onState` with "connecting", "live", "failing" or "offline". `payload` returns the connection_init payload. */
  constructor(url, { onState, payload = () => ({}) }) {
    this.#url = url;
    this.#payload = payload;
    this.#onState = onState;
    addEventListener("online", () => this.#connect());
    addEventListener("offline", () => this.#onClose());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#checkConnection());
    setInterval(() => this.#checkConnection(), PING_INTERVAL_MS);
    this.#connect();
  }

  /** Subscribes. Returns a function that unsubscribes. Calls `onReconnect` if the subscription cannot resume without a gap. */
  subscribe(query, variables, { onData, onError = () => {}, onReconnect = () => {} }) {
    const id = String(this.#nextId++);
    this.#subscriptions.set(id, { query, variables, onData, onError, onReconnect, last: null, hasBegun: false, failures: 0 });
    if (this.#isOpen) this.#begin(id);
    return () => {
      this.#subscriptions.delete(id);
      if (this.#isOpen) this.#send({ id, type: "complete" });
    };
  }

  #connect() {
    if (this.#socket && this.#socket.readyState <= WebSocket.OPEN) return;
    clearTimeout(this.#reconnectTimer);
    const socket = (this.#socket = new WebSocket(this.#url, PROTOCOL));
    socket.onopen = () => this.#send({ type: "connection_init", payload: this.#payload() });
    setTimeout(() => socket === this.#socket && !this.#isOpen && this.#onClose(), CONNECTION_INIT_TIMEOUT_MS);
    socket.onmessage = (event) => this.#receive(JSON.parse(event.data));
    socket.onclose = () => socket === this.#socket && this.#onClose();
  }

  #onClose() {
    const socket = this.#socket;
    this.#socket = null;
    this.#isOpen = false;
    socket?.close();
    this.#onState("offline");
    clearTimeout(this.#reconnectTimer);
    this.#reconnectTimer = setTimeout(() => this.#connect(), retryDelay(this.#attempt++));
  }

  /** Pings the server if it was silent: after standby, a dead connection can still seem open. */
  #checkConnection() {
    if (!this.#isOpen || Date.now() - this.#lastMessageAt < PING_INTERVAL_MS) return;
    const pingedAt = Date.now();
    this.#send({ type: "ping" });
    setTimeout(() => this.#isOpen && this.#lastMessageAt < pingedAt && this.#onClose(), PONG_TIMEOUT_MS);
  }

  #begin(id) {
    const subscription = this.#subscriptions.get(id);
    const variables = resumeVariables(subscription.variables, subscription.last);
    this.#send({ id, type: "subscribe", payload: { query: subscription.query, variables } });
    if (subscription.hasBegun && !variables.after) subscription.onReconnect();
    subscription.hasBegun = true;
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #receive(message) {
    this.#lastMessageAt = Date.now();
    const subscription = this.#subscriptions.get(message.id);
    switch (message.type) {
      case "connection_ack":
        this.#isOpen = true;
        this.#attempt = 0;
        this.#onState("live");
        for (const id of this.#subscriptions.keys()) this.#begin(id);
        break;
      case "ping":
        this.#send({ type: "pong" });
        break;
      case "next":
        if (subscription && message.payload.data) {
          const [event] = Object.values(message.payload.data);
          subscription.last = event.id ?? null;
          if (subscription.failures) this.#onState("live");
          subscription.failures = 0;
          subscription.onData(event);
        }
        break;
      case "error":
        if (subscription) this.#onError(message.id, subscription, message.payload[0]);
        break;
      case "complete": // the server ended the subscription; subscribe again
        if (subscription) this.#onError(message.id, subscription, {});
        break;
    }
  }

  #onError(id, subscription, error) {
    const code = error.extensions?.code;
    const isResumed = Boolean(resumeVariables(subscription.variables, subscription.last).after);
    if (PERMANENT_CODES.includes(code) || (code === "BAD_USER_INPUT" && !isResumed)) {
      this.#subscriptions.delete(id);
      subscription.onError(error);
      return;
    }
    if (code === "HISTORY_CHANGED") {
      subscription.last = error.extensions.resumeFrom; // events with a higher id belong to the replaced history
    } else if (code === "RESUME_TOO_OLD" || code === "BAD_USER_INPUT") {
      subscription.last = null; // the view reloads the missed data
      subscription.variables = { ...subscription.variables, after: null };
    }
    this.#onState("failing");
    const socket = this.#socket;
    setTimeout(() => {
      if (socket !== this.#socket || !this.#subscriptions.has(id)) return;
      this.#begin(id);
      setTimeout(() => socket === this.#socket && this.#isOpen && this.#areAllHealthy() && this.#onState("live"), RETRY_DELAYS_MS[0]);
    }, retryDelay(subscription.failures++));
  }

  #areAllHealthy() {
    return [...this.#subscriptions.values()].every((subscription) => subscription.failures < 2);
  }
}
