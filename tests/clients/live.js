// Each client subscribes from the first event with its own API. Prints each event as a line {"name", "price"}.
//   node live.js 127.0.0.1:8000 5
import { ApolloClient, HttpLink, InMemoryCache, gql } from '@apollo/client/core';
import { GraphQLWsLink } from '@apollo/client/link/subscriptions';
import { Client as Urql, fetchExchange, subscriptionExchange } from '@urql/core';
import { createClient as createSse } from 'graphql-sse';
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

const [host, count] = [process.argv[2], Number(process.argv[3])];
const http = `http://${host}/graphql`;
const ws = `ws://${host}/graphql`;
const query = 'subscription Prices($after: ID) { priceAdded(tickers: ["btc_usd"], after: $after) { id price } }';
const variables = { after: '0' };
const overSocket = () => createClient({ url: ws, webSocketImpl: WebSocket });

function urql(...exchanges) {
  return (next, fail) => {
    const client = new Urql({ url: http, exchanges: [...exchanges, fetchExchange], fetchSubscriptions: exchanges.length === 0 });
    client.subscription(query, variables).subscribe(({ data, error }) => (error ? fail(error) : next(data)));
  };
}

const socket = overSocket();
const clients = {
  'graphql-ws': (next, fail) => overSocket().subscribe({ query, variables }, { next: ({ data }) => next(data), error: fail, complete() {} }),
  'Apollo Client': (next, fail) => {
    const client = new ApolloClient({ link: new GraphQLWsLink(overSocket()), cache: new InMemoryCache() });
    client.subscribe({ query: gql(query), variables, fetchPolicy: 'no-cache' }).subscribe({ next: ({ data }) => next(data), error: fail });
  },
  'urql over WebSocket': urql(
    subscriptionExchange({ forwardSubscription: (request) => ({ subscribe: (sink) => ({ unsubscribe: socket.subscribe(request, sink) }) }) }),
  ),
  'urql over events': urql(),
  'graphql-sse': (next, fail) => createSse({ url: http }).subscribe({ query, variables }, { next: ({ data }) => next(data), error: fail, complete() {} }),
};

let remaining = Object.keys(clients).length * count;
for (const [name, subscribe] of Object.entries(clients)) {
  subscribe(
    (data) => {
      console.log(JSON.stringify({ name, price: data.priceAdded.price }));
      if (--remaining === 0) process.exit(0);
    },
    (error) => {
      console.error(name, error);
      process.exit(1);
    },
  );
}
