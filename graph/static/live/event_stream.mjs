// A subscription over server-sent events, for networks that let no WebSocket through.

import { headers } from "./api.mjs";

/** Reads the responses to a subscription. Calls `onBytes` for all bytes, also those of an empty comment. Throws when the stream ends, or is none: then `onResponse` gets the errors of the API, if it sent some. */
export async function readEventStream(query, variables, { onBytes, onResponse, signal }) {
  const response = await fetch("graphql", {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "text/event-stream", ...headers() },
    body: JSON.stringify({ query, variables }),
    signal,
  });
  const type = response.headers.get("Content-Type") ?? "";
  if (!type.startsWith("text/event-stream")) {
    if (type.includes("json")) onResponse(await response.json());
    throw new Error(`HTTP ${response.status} instead of a stream`);
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the stream ended");
    onBytes();
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const { event, data } of blocks.map(parseBlock)) {
      if (event === "complete") throw new Error("the subscription ended");
      if (event === "next") onResponse(JSON.parse(data));
    }
  }
}

/** Parses the lines of an event. */
export function parseBlock(block) {
  const fields = block.split("\n").map((line) => /^(event|data): ?(.*)$/.exec(line)).filter(Boolean);
  return Object.fromEntries(fields.map(([, name, value]) => [name, value]));
}
