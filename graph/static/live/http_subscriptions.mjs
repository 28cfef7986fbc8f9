// Subscriptions where no WebSocket gets through: over server-sent events, or else the views reload their data at intervals.

import { execute } from "./api.mjs";
import { readEventStream } from "./event_stream.mjs";
import { PERMANENT_CODES, begin, deliver, retryDelay } from "./subscription.mjs";

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

  /** Follows a map of subscriptions. `events`: onState("http", "polling" or "offline"), onReachable() when the API responds again. */
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
    for (const one of this.#subscriptions.values()) this.end(one);
  }

  /** Reloads what no stream updates. Finds out whether the API responds. */
  check() {
    return (this.#checking ??= this.#check().finally(() => (this.#checking = null)));
  }

  async #check() {
    const isReachable = await execute("{ __typename }").then(() => true, (error) => Boolean(error.code));
    if (!this.#isOn) return;
    const wasReachable = this.#isReachable;
    this.#isReachable = isReachable;
    this.#reportState();
    if (!isReachable) return;
    if (wasReachable) for (const one of [...this.#subscriptions.values()].filter((one) => !one.isStreaming)) one.onReconnect();
    else {
      for (const id of this.#subscriptions.keys()) this.begin(id);
      this.#events.onReachable();
    }
  }

  #reportState() {
    const isStreaming = [...this.#subscriptions.values()].some((one) => one.isStreaming);
    this.#events.onState(isStreaming ? "http" : this.#isReachable ? "polling" : "offline");
  }

  /** Opens the stream of a subscription. */
  begin(id) {
    const one = this.#subscriptions.get(id);
    this.end(one);
    this.#stream(id, one, begin(one));
  }

  /** Closes the stream of a subscription. */
  end(one) {
    clearTimeout(one.timer);
    one.stream?.abort();
    one.stream = null;
    one.isStreaming = false;
  }

  async #stream(id, one, variables) {
    const stream = (one.stream = new AbortController());
    let timer = null;
    const limitSilence = (delay) => {
      clearTimeout(timer);
      timer = setTimeout(() => stream.abort(), delay);
    };
    const onBytes = () => {
      limitSilence(SILENCE_TIMEOUT_MS);
      if (one.isStreaming) return;
      one.isStreaming = true;
      this.#reportState();
    };
    const onResponse = ({ data, errors }) => {
      if (data) return deliver(one, data);
      if (PERMANENT_CODES.includes(errors?.[0].extensions?.code)) {
        this.#subscriptions.delete(id);
        this.end(one);
        return one.onError(errors[0]);
      }
      one.last = errors?.[0].extensions?.resumeFrom ?? null;
    };
    const read = () => {
      limitSilence(OPEN_TIMEOUT_MS);
      return readEventStream(one.query, variables, { onBytes, onResponse, signal: stream.signal });
    };
    await withConnection(read).catch((error) => console.warn(error.message));
    clearTimeout(timer);
    if (one.stream !== stream) return; // closed, or begun again
    const delay = one.isStreaming ? retryDelay(one.failures++) : STREAM_RETRY_MS;
    one.isStreaming = false;
    one.timer = setTimeout(() => this.begin(id), delay);
    this.check();
  }
}

let hasStream = false; // in this tab

/** Reads while this tab holds one of the connections of all tabs. Returns at once if none is free. */
async function withConnection(read) {
  if (["h2", "h3"].includes(performance.getEntriesByType("navigation")[0]?.nextHopProtocol)) return read(); // no such limit
  if (navigator.locks) {
    let isFree = false;
    for (let number = 0; number < MAX_STREAMS && !isFree; number++) {
      await navigator.locks.request(`tickgraph.stream.${number}`, { ifAvailable: true }, (lock) => (isFree = lock !== null) && read());
    }
    return;
  }
  if (hasStream) return; // without locks, which need a secure context, tabs do not know of each other
  hasStream = true;
  await read().finally(() => (hasStream = false));
}
