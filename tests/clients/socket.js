// graphql-ws sends a valid query, an invalid one and a valid one over one connection.
//   node socket.js ws://127.0.0.1:8000/graphql
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

const closed = [];
const client = createClient({ url: process.argv[2], webSocketImpl: WebSocket, lazy: false, on: { closed: (event) => closed.push(event.code) } });

async function execute(query, variables) {
  try {
    for await (const result of client.iterate({ query, variables })) return result;
    return null;
  } catch (errors) {
    return { refused: errors.map((error) => error.extensions?.code) };
  }
}

const LATEST = 'query ($ticker: String!) { latest(ticker: $ticker) { price } }';
console.log(
  JSON.stringify({
    first: await execute(LATEST, { ticker: 'btc_usd' }),
    syntax: await execute('{'),
    unknown: await execute(LATEST, { ticker: 'nobody_usd' }),
    afterError: await execute(LATEST, { ticker: 'btc_usd' }),
    closed,
  }),
);
await client.dispose();
