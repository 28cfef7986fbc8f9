import assert from "node:assert/strict";
import { test } from "node:test";

import { parseBlock } from "../../graph/static/live/event_stream.mjs";

test("an event has its name and its data; comments and other fields are ignored", () => {
  assert.deepEqual(parseBlock('event: next\nid: 7\ndata: {"data":{}}'), { event: "next", data: '{"data":{}}' });
  assert.deepEqual(parseBlock(": keep-alive"), {});
  assert.deepEqual(parseBlock("event: complete\ndata:"), { event: "complete", data: "" });
});
