// graphql-ws asks over one connection: a good question, a bad one, and a good one again.
//   node socket.js ws://127.0.0.1:8000/graphql
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

const closed = [];
const client = createClient({ url: process.argv[2], webSocketImpl: WebSocket, lazy: false, on: { closed: (event) => closed.push(event.code) } });

async function ask(query, variables) {
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
    first: await ask(LATEST, { ticker: 'btc_usd' }),
    syntax: await ask('{'),
    unknown: await ask(LATEST, { ticker: 'nobody_usd' }),
    again: await ask(LATEST, { ticker: 'btc_usd' }),
    closed,
  }),
);
await client.dispose();
