// Subscriptions where no WebSocket gets through: over server-sent events, or else the views reload their data at intervals.

import { execute } from "./api.mjs";
import { readEventStream } from "./event_stream.mjs";
import { begin, deliver, recover, retryDelay } from "./subscription.mjs";

const MAX_STREAMS = 4; // of all tabs: over HTTP/1.1 a browser opens six connections to a host, and queries need some
const OPEN_TIMEOUT_MS = 5_000; // a proxy that holds back a stream
const SILENCE_TIMEOUT_MS = 30_000; // the API sends something every 12 seconds
const POLL_INTERVAL_MS = 15_000;
const STREAM_RETRY_MS = 60_000; // after a stream that did not open

export class HttpSubscriptions {
  #subscriptions;
  #events;
  #isOn = false;
  #isReachable = false;
  #checking = null;
  #pollTimer = null;

  /** Follows a map of subscriptions. `events`: onState("http", "polling" or "offline"), onForbidden() if the API rejects the key, onReachable() when the API responds again: streams are opened only after the next WebSocket has failed. */
  constructor(subscriptions, events) {
    this.#subscriptions = subscriptions;
    this.#events = events;
  }

  get isOn() {
    return this.#isOn;
  }

  get isConnected() {
    return this.#isOn && this.#isReachable;
  }

  start() {
    if (this.#isOn) return;
    this.#isOn = true;
    this.#isReachable = false;
    this.#pollTimer = setInterval(() => this.check(), POLL_INTERVAL_MS);
    this.check();
  }

  stop() {
    this.#isOn = false;
    clearInterval(this.#pollTimer);
    for (const subscription of this.#subscriptions.values()) this.end(subscription);
  }

  /** Reloads what no stream updates. Finds out whether the API responds. */
  check() {
    return (this.#checking ??= this.#check().finally(() => (this.#checking = null)));
  }

  async #check() {
    const code = await execute("{ __typename }").then(() => "NONE", (error) => error.code);
    if (!this.#isOn) return;
    if (code === "UNAUTHENTICATED") return this.#events.onForbidden();
    const wasReachable = this.#isReachable;
    this.#isReachable = Boolean(code);
    if (this.#isReachable && !wasReachable) return this.#events.onReachable();
    this.#reportState();
    if (!this.#isReachable) return;
    for (const subscription of [...this.#subscriptions.values()].filter((one) => !one.isStreaming)) subscription.onReconnect();
  }

  /** Opens a stream for each subscription that has none, if the API responds. */
  openStreams() {
    if (!this.#isReachable) return this.check();
    this.#reportState();
    for (const [id, subscription] of this.#subscriptions) if (!subscription.stream) this.begin(id);
  }

  #reportState() {
    const isStreaming = [...this.#subscriptions.values()].some((one) => one.isStreaming);
    this.#events.onState(isStreaming ? "http" : this.#isReachable ? "polling" : "offline");
  }

  /** Opens the stream of a subscription. */
  begin(id) {
    const subscription = this.#subscriptions.get(id);
    this.end(subscription);
    this.#stream(id, subscription, begin(subscription));
  }

  /** Closes the stream of a subscription. */
  end(subscription) {
    clearTimeout(subscription.timer);
    subscription.stream?.abort();
    Object.assign(subscription, { timer: null, stream: null, isStreaming: false });
  }

  async #stream(id, subscription, variables) {
    const stream = (subscription.stream = new AbortController());
    let hasResponded = false;
    let timer = null;
    const limitSilence = (delay) => {
      clearTimeout(timer);
      timer = setTimeout(() => stream.abort(), delay);
    };
    const onBytes = () => {
      limitSilence(SILENCE_TIMEOUT_MS);
      if (subscription.isStreaming) return;
      subscription.isStreaming = true;
      this.#reportState();
    };
    const onResponse = ({ data, errors }) => {
      hasResponded = true;
      if (data) return deliver(subscription, data);
      if (recover(subscription, errors[0])) return;
      this.#subscriptions.delete(id);
      this.end(subscription);
      subscription.onError(errors[0]);
    };
    const read = () => {
      limitSilence(OPEN_TIMEOUT_MS);
      return readEventStream(subscription.query, variables, { onBytes, onResponse, signal: stream.signal });
    };
    await withConnection(read).catch((error) => console.warn(error.message));
    clearTimeout(timer);
    if (subscription.stream !== stream) return; // closed, or begun again
    const delay = subscription.isStreaming || hasResponded ? retryDelay(subscription.failures++) : STREAM_RETRY_MS;
    Object.assign(subscription, { stream: null, isStreaming: false, timer: setTimeout(() => this.begin(id), delay) });
    this.check();
  }
}

/** Reads while this tab holds one of the connections that all tabs share. Returns at once if none is free. */
async function withConnection(read) {
  if (["h2", "h3"].includes(performance.getEntriesByType("navigation")[0]?.nextHopProtocol)) return read(); // no such limit
  let isFree = false;
  for (let number = 0; number < MAX_STREAMS && !isFree; number++) {
    // Without a secure context there are no locks: tabs do not know of each other, and all of them poll.
    await navigator.locks?.request(`tickgraph.stream.${number}`, { ifAvailable: true }, (lock) => (isFree = lock !== null) && read());
  }
}
