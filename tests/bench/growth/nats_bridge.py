"""A bridge of the change feed into NATS JetStream: every event of `changes`, once and in order, also across kills.

uv pip install --target build/nats nats-py            # not a dependency of the project
PYTHONPATH=build/nats python -m tests.bench.growth.nats_bridge http://127.0.0.1:8000 nats://127.0.0.1:4222

The stream is the only memory of the bridge: it resumes after the id in the last message of the stream, which NATS stored
together with the event. Each message carries `Nats-Expected-Last-Sequence`. NATS rejects it unless the stream ends with the
message of the preceding event. So a repeated, late or overtaking message is never stored, however old it is. The guarantee
does not depend on the duplicate window of `Nats-Msg-Id`, and it holds if two bridges run. The stream must retain its last
message.
`python -m tests.bench.growth.nats_trial` kills the bridge and NATS, and compares the stream with the database.
"""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import aiohttp
import nats  # type: ignore[import-not-found]  # see above

STREAM = "tickgraph"
MAX_BATCH = 500
"""Messages that are published before their acknowledgments are read."""
ACK_TIMEOUT_S = 5
IDLE_TIMEOUT_S = 30
"""An idle event stream sends a comment at least every 12 seconds."""
CHANGES = """
subscription ($after: ID) {
  changes(after: $after) {
    __typename
    ... on Price { id ticker ts price source }
    ... on HistoryChanged { id ticker from to count }
    ... on GapOpened { id ticker from to count }
    ... on GapClosed { id ticker from to count filled }
    ... on TickerChanged { id ticker from }
  }
}
"""


async def forward_changes(api: str, server: str, after: str, duplicate_window_s: float) -> None:
    """Forwards changes until a connection fails. Raises OSError, aiohttp.ClientError, TimeoutError or nats.errors.Error."""
    async with await nats.connect(server, allow_reconnect=False) as client:
        stream = client.jetstream()
        await stream.add_stream(name=STREAM, subjects=[f"{STREAM}.>"], storage="file", duplicate_window=duplicate_window_s)
        state = (await stream.stream_info(STREAM)).state
        sequence, position = state.last_seq, after
        if sequence:
            position = (await stream.get_msg(STREAM, sequence)).headers["Nats-Msg-Id"]
        print(f"resumes after id {position}, message {sequence}", flush=True)
        inbox = client.new_inbox()
        acks = await client.subscribe(inbox)
        async for changes in read_batches(api, position):
            for number, change in enumerate(changes):
                headers = {"Nats-Msg-Id": change["id"], "Nats-Expected-Last-Sequence": str(sequence + number)}
                subject = f"{STREAM}.{change['__typename']}.{change['ticker']}"
                await client.publish(subject, json.dumps(change).encode(), reply=inbox, headers=headers)
            for _ in changes:
                ack = json.loads((await acks.next_msg(ACK_TIMEOUT_S)).data)
                sequence += 1
                if ack.get("seq") != sequence or ack.get("duplicate"):
                    raise ConnectionError(f"message {sequence} was not stored: {ack}")


async def read_batches(api: str, after: str) -> AsyncIterator[list[dict[str, Any]]]:
    """Yields the changes after an id, in lists of at most MAX_BATCH that the API has already sent."""
    timeout = aiohttp.ClientTimeout(total=None, sock_read=IDLE_TIMEOUT_S)
    body = {"query": CHANGES, "variables": {"after": after}}
    headers = {"Accept": "text/event-stream"}
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(f"{api}/graphql", json=body, headers=headers) as response,
    ):
        if response.status == HTTPStatus.BAD_REQUEST:  # the subscription cannot start
            raise_error((await response.json())["errors"])
        pending = b""
        while chunk := await response.content.readany():
            *lines, pending = (pending + chunk).split(b"\n")
            results = [json.loads(line[len(b"data: ") :]) for line in lines if line.startswith(b"data: {")]
            failed = next((result["errors"] for result in results if "errors" in result), None)
            changes = [result["data"]["changes"] for result in results if "errors" not in result]
            for start in range(0, len(changes), MAX_BATCH):
                yield changes[start : start + MAX_BATCH]
            if failed:
                raise_error(failed)
        raise ConnectionError(f"the event stream ended with status {response.status}: {pending[:200]!r}")


def raise_error(errors: list[dict[str, Any]]) -> None:
    """Ends the bridge if an operator must decide how to continue. Otherwise raises ConnectionError."""
    if errors[0]["extensions"]["code"] in ("RESUME_TOO_OLD", "HISTORY_CHANGED"):
        raise SystemExit(f"the stream {STREAM} cannot be continued: {errors[0]}")
    raise ConnectionError(str(errors[0]))


async def main() -> None:
    """Forwards changes, and starts again a second after an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("api")
    parser.add_argument("nats")
    parser.add_argument("--after", default="0", help="an empty stream begins after this id (default: %(default)s)")
    parser.add_argument("--duplicate-window", type=float, default=120, metavar="SECONDS")
    options = parser.parse_args()
    while True:
        try:
            await forward_changes(options.api, options.nats, options.after, options.duplicate_window)
        except (OSError, aiohttp.ClientError, TimeoutError, nats.errors.Error) as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        await asyncio.sleep(1)


if __name__ == "__main__":
    asyncio.run(main())
