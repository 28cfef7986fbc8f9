// Subscriptions over one WebSocket (graphql-transport-ws). Reconnects after a lost connection and resumes the subscriptions.
// Where no WebSocket gets through, they use HTTP until one does.

import { HttpSubscriptions } from "./http_subscriptions.mjs";
import { RETRY_DELAYS_MS, begin, deliver, recover, retryDelay } from "./subscription.mjs";

const PROTOCOL = "graphql-transport-ws";
const FORBIDDEN_CLOSE_CODE = 4403;
const PING_INTERVAL_MS = 15_000;
const PONG_TIMEOUT_MS = 5_000;
const CONNECTION_INIT_TIMEOUT_MS = 10_000;
const MAX_FAILED_SOCKETS = 2; // after so many, HTTP is tried
const RETRY_DURING_HTTP_MS = 60_000;

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
  #isRejected = false; // with the key of this page
  #http;

  /** Calls `onState` with "connecting", "live", "http", "polling", "failing", "rejected" or "offline". `onRejected` if the API rejects the key. `payload` returns the connection_init payload. */
  constructor(url, { onState, onRejected = () => {}, payload = () => ({}) }) {
    this.#url = url;
    this.#payload = payload;
    this.#onState = onState;
    this.#onRejected = onRejected;
    this.#http = new HttpSubscriptions(this.#subscriptions, {
      onState,
      onReachable: () => this.#connect(), // after a restart of the API, WebSockets may get through
      onForbidden: () => this.#onForbidden(),
    });
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
    else if (this.#http.isConnected) this.#http.begin(id);
    return () => {
      const subscription = this.#subscriptions.get(id);
      if (subscription) this.#http.end(subscription);
      this.#subscriptions.delete(id);
      if (this.#isOpen) this.#send({ id, type: "complete" });
    };
  }

  #connect() {
    if (this.#isRejected || (this.#socket && this.#socket.readyState <= WebSocket.OPEN)) return;
    clearTimeout(this.#reconnectTimer);
    const socket = (this.#socket = new WebSocket(this.#url, PROTOCOL));
    socket.onopen = () => this.#send({ type: "connection_init", payload: this.#payload() });
    setTimeout(() => socket === this.#socket && !this.#isOpen && this.#onClose(), CONNECTION_INIT_TIMEOUT_MS);
    socket.onmessage = (event) => this.#receive(JSON.parse(event.data));
    socket.onclose = ({ code }) => {
      if (socket !== this.#socket) return;
      if (code === FORBIDDEN_CLOSE_CODE) this.#onForbidden();
      else this.#onClose();
    };
  }

  #onClose() {
    if (this.#isRejected) return;
    const socket = this.#socket;
    this.#socket = null;
    this.#isOpen = false;
    socket?.close();
    clearTimeout(this.#reconnectTimer);
    if (this.#http.isOn) this.#http.openStreams();
    else if (navigator.onLine && this.#attempt >= MAX_FAILED_SOCKETS) this.#http.start();
    else this.#onState("offline");
    const delay = this.#http.isConnected ? RETRY_DURING_HTTP_MS : retryDelay(this.#attempt++);
    this.#reconnectTimer = setTimeout(() => this.#connect(), delay);
  }

  #onForbidden() {
    this.#isRejected = true;
    this.#http.stop();
    this.#onState("rejected");
    this.#onRejected();
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
    this.#send({ id, type: "subscribe", payload: { query: subscription.query, variables: begin(subscription) } });
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
        this.#http.stop();
        this.#onState("live");
        for (const id of this.#subscriptions.keys()) this.#begin(id);
        break;
      case "ping":
        this.#send({ type: "pong" });
        break;
      case "next":
        if (subscription && message.payload.data) {
          if (subscription.failures) this.#onState("live");
          deliver(subscription, message.payload.data);
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
    if (!recover(subscription, error)) {
      this.#subscriptions.delete(id);
      return subscription.onError(error);
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
