// Subscriptions over one WebSocket (graphql-transport-ws) that is made again when it is lost, and goes on where it was.

const PROTOCOL = "graphql-transport-ws";
const QUIET_MS = 15_000;
const ANSWERED_WITHIN_MS = 5_000;
const GREETED_WITHIN_MS = 10_000;
const FINAL = ["UNKNOWN_TICKER", "UNAUTHENTICATED", "FORBIDDEN", "GRAPHQL_VALIDATION_FAILED", "GRAPHQL_PARSE_FAILED", "QUERY_TOO_COMPLEX"];
const AGAIN_MS = [500, 1_000, 2_000, 4_000, 8_000];

/** Milliseconds to wait before the attempt, never all clients at once. */
export function patience(attempt, random = Math.random()) {
  return AGAIN_MS[Math.min(attempt, AGAIN_MS.length - 1)] * (0.5 + random / 2);
}

/** The variables with which a subscription goes on after the id it told last, or begins where it was to. */
export function resumed(variables, last) {
  return last === null ? variables : { ...variables, after: last };
}

export class Socket {
  #url;
  #payload;
  #onState;
  #socket = null;
  #attempt = 0;
  #timer = null;
  #heard = 0;
  #subscriptions = new Map();
  #next = 1;
  #isOpen = false;

  /** `onState` is told "connecting", "live", "refused" or "offline"; `payload` gives what a connection begins with. */
  constructor(url, { onState, payload = () => ({}) }) {
    this.#url = url;
    this.#payload = payload;
    this.#onState = onState;
    addEventListener("online", () => this.#connect());
    addEventListener("offline", () => this.#lost());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#look());
    setInterval(() => this.#look(), QUIET_MS);
    this.#connect();
  }

  /** Subscribes; gives the way to end it. `onAgain` is called where it goes on after a cut and cannot be told what it missed. */
  subscribe(query, variables, { onData, onError = () => {}, onAgain = () => {} }) {
    const id = String(this.#next++);
    this.#subscriptions.set(id, { query, variables, onData, onError, onAgain, last: null, hasBegun: false, refusals: 0 });
    if (this.#isOpen) this.#begin(id);
    return () => {
      this.#subscriptions.delete(id);
      if (this.#isOpen) this.#send({ id, type: "complete" });
    };
  }

  #connect() {
    if (this.#socket && this.#socket.readyState <= WebSocket.OPEN) return;
    clearTimeout(this.#timer);
    const socket = (this.#socket = new WebSocket(this.#url, PROTOCOL));
    socket.onopen = () => this.#send({ type: "connection_init", payload: this.#payload() });
    setTimeout(() => socket === this.#socket && !this.#isOpen && this.#lost(), GREETED_WITHIN_MS);
    socket.onmessage = (event) => this.#take(JSON.parse(event.data));
    socket.onclose = () => socket === this.#socket && this.#lost();
  }

  #lost() {
    const socket = this.#socket;
    this.#socket = null;
    this.#isOpen = false;
    socket?.close();
    this.#onState("offline");
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#connect(), patience(this.#attempt++));
  }

  /** After sleep a connection can look open and be dead: whoever is there answers. */
  #look() {
    if (!this.#isOpen || Date.now() - this.#heard < QUIET_MS) return;
    const asked = Date.now();
    this.#send({ type: "ping" });
    setTimeout(() => this.#isOpen && this.#heard < asked && this.#lost(), ANSWERED_WITHIN_MS);
  }

  #begin(id) {
    const one = this.#subscriptions.get(id);
    const variables = resumed(one.variables, one.last);
    this.#send({ id, type: "subscribe", payload: { query: one.query, variables } });
    if (one.hasBegun && !variables.after) one.onAgain();
    one.hasBegun = true;
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #take(message) {
    this.#heard = Date.now();
    const one = this.#subscriptions.get(message.id);
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
        if (one && message.payload.data) {
          const [event] = Object.values(message.payload.data);
          one.last = event.id ?? null;
          if (one.refusals) this.#onState("live");
          one.refusals = 0;
          one.onData(event);
        }
        break;
      case "error":
        if (one) this.#refused(message.id, one, message.payload[0]);
        break;
      case "complete": // the server ended it; a subscription that is still wanted begins anew
        if (one) this.#refused(message.id, one, {});
        break;
    }
  }

  #refused(id, one, error) {
    const code = error.extensions?.code;
    const isResumed = Boolean(resumed(one.variables, one.last).after);
    if (FINAL.includes(code) || (code === "BAD_USER_INPUT" && !isResumed)) {
      this.#subscriptions.delete(id);
      one.onError(error);
      return;
    }
    if (code === "HISTORY_CHANGED") {
      one.last = error.extensions.resumeFrom; // what came after it is lost, and comes anew
    } else if (code === "RESUME_TOO_OLD" || code === "BAD_USER_INPUT") {
      one.last = null; // what was missed is read anew
      one.variables = { ...one.variables, after: null };
    }
    this.#onState("refused");
    const socket = this.#socket;
    setTimeout(() => {
      if (socket !== this.#socket || !this.#subscriptions.has(id)) return;
      this.#begin(id);
      setTimeout(() => socket === this.#socket && this.#isOpen && this.#areWell() && this.#onState("live"), AGAIN_MS[0]);
    }, patience(one.refusals++));
  }

  #areWell() {
    return [...this.#subscriptions.values()].every((one) => one.refusals < 2);
  }
}
