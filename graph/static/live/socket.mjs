// Subscriptions over one WebSocket (graphql-transport-ws). Reconnects after a lost connection and resumes the subscriptions.
// Where no WebSocket gets through: over server-sent events, or else the views reload their data at intervals.

import { readEventStream } from "./event_stream.mjs";

const PROTOCOL = "graphql-transport-ws";
const FORBIDDEN_CLOSE_CODE = 4403;
const PING_INTERVAL_MS = 15_000;
const PONG_TIMEOUT_MS = 5_000;
const CONNECTION_INIT_TIMEOUT_MS = 10_000;
const PERMANENT_CODES = ["UNKNOWN_TICKER", "UNAUTHENTICATED", "FORBIDDEN", "GRAPHQL_VALIDATION_FAILED", "GRAPHQL_PARSE_FAILED", "QUERY_TOO_COMPLEX"];
const MAX_FAILED_SOCKETS = 2; // after so many, HTTP is tried
const STREAM_TIMEOUT_MS = 5_000; // a proxy that holds back a stream
const POLL_INTERVAL_MS = 15_000;
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
  #onRejected;
  #socket = null;
  #attempt = 0;
  #reconnectTimer = null;
  #lastMessageAt = 0;
  #subscriptions = new Map();
  #nextId = 1;
  #isOpen = false;
  #hasOpened = false; // once, so that WebSockets get through
  #isHttp = false;
  #pollTimer = null;

  /** Calls `onState` with "connecting", "live", "http", "polling", "failing" or "offline". `onRejected` if the API rejects the key. `payload` returns the connection_init payload. */
  constructor(url, { onState, onRejected = () => {}, payload = () => ({}) }) {
    this.#url = url;
    this.#payload = payload;
    this.#onState = onState;
    this.#onRejected = onRejected;
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
    if (this.#isHttp) this.#beginStream(id);
    return () => {
      this.#subscriptions.get(id)?.stream?.abort();
      this.#subscriptions.delete(id);
      if (this.#isOpen) this.#send({ id, type: "complete" });
    };
  }

  #connect() {
    if (this.#isHttp || (this.#socket && this.#socket.readyState <= WebSocket.OPEN)) return;
    clearTimeout(this.#reconnectTimer);
    const socket = (this.#socket = new WebSocket(this.#url, PROTOCOL));
    socket.onopen = () => this.#send({ type: "connection_init", payload: this.#payload() });
    setTimeout(() => socket === this.#socket && !this.#isOpen && this.#onClose(), CONNECTION_INIT_TIMEOUT_MS);
    socket.onmessage = (event) => this.#receive(JSON.parse(event.data));
    socket.onclose = ({ code }) => {
      if (code === FORBIDDEN_CLOSE_CODE) this.#onRejected();
      if (socket === this.#socket) this.#onClose();
    };
  }

  #onClose() {
    const socket = this.#socket;
    this.#socket = null;
    this.#isOpen = false;
    socket?.close();
    clearTimeout(this.#reconnectTimer);
    if (!this.#hasOpened && navigator.onLine && this.#attempt >= MAX_FAILED_SOCKETS) return this.#startHttp();
    this.#onState("offline");
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
        this.#isOpen = this.#hasOpened = true;
        this.#attempt = 0;
        this.#onState("live");
        for (const id of this.#subscriptions.keys()) this.#begin(id);
        break;
      case "ping":
        this.#send({ type: "pong" });
        break;
      case "next":
        if (subscription && message.payload.data) {
          if (subscription.failures) this.#onState("live");
          this.#deliver(subscription, message.payload.data);
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

  #deliver(subscription, data) {
    const [event] = Object.values(data);
    subscription.last = event.id ?? null;
    subscription.failures = 0;
    subscription.onData(event);
  }

  /** Uses HTTP, until that fails, too. */
  #startHttp() {
    this.#isHttp = true;
    for (const id of this.#subscriptions.keys()) this.#beginStream(id);
  }

  #beginStream(id) {
    const subscription = this.#subscriptions.get(id);
    const stream = (subscription.stream = new AbortController());
    const timer = setTimeout(() => this.#startPolling(), STREAM_TIMEOUT_MS);
    const onOpen = () => {
      clearTimeout(timer);
      if (!this.#pollTimer) this.#onState("http");
    };
    const onResponse = ({ data, errors }) => {
      if (data) this.#deliver(subscription, data);
      else if (PERMANENT_CODES.includes(errors?.[0].extensions?.code)) subscription.onError(errors[0]);
      else subscription.last = errors?.[0].extensions?.resumeFrom ?? null;
    };
    const variables = resumeVariables(subscription.variables, subscription.last);
    if (subscription.hasBegun && !variables.after) subscription.onReconnect();
    subscription.hasBegun = true;
    readEventStream(subscription.query, variables, { onOpen, onResponse, signal: stream.signal }).catch((error) => {
      clearTimeout(timer);
      if (stream.signal.aborted || this.#subscriptions.get(id) !== subscription) return;
      if (error instanceof TypeError) return this.#stopHttp(); // the network failed
      if (error.message.startsWith("HTTP")) return this.#startPolling();
      setTimeout(() => this.#isHttp && this.#subscriptions.has(id) && this.#beginStream(id), retryDelay(subscription.failures++));
    });
  }

  /** Without streams, the views reload their data at intervals. */
  #startPolling() {
    for (const { stream } of this.#subscriptions.values()) stream?.abort();
    this.#onState("polling");
    this.#pollTimer ??= setInterval(() => this.#subscriptions.forEach((one) => one.onReconnect()), POLL_INTERVAL_MS);
  }

  #stopHttp() {
    if (!this.#isHttp) return;
    this.#isHttp = false;
    clearInterval(this.#pollTimer);
    this.#pollTimer = null;
    for (const { stream } of this.#subscriptions.values()) stream?.abort();
    this.#onState("offline");
    this.#reconnectTimer = setTimeout(() => this.#connect(), retryDelay(this.#attempt));
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
