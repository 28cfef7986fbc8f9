// Each client sends the same queries with its own API; prints one line of JSON per client.
//   node clients.js http://127.0.0.1:8000/graphql
import { ApolloClient, ApolloLink, HttpLink, InMemoryCache, gql } from '@apollo/client/core';
import { PersistedQueryLink } from '@apollo/client/link/persisted-queries';
import { Client as Urql, fetchExchange } from '@urql/core';
import { GraphQLClient } from 'graphql-request';
import { createHash } from 'node:crypto';

const url = process.argv[2];
const sha256 = (text) => createHash('sha256').update(text).digest('hex');
const LATEST = 'query Latest($ticker: String!) { latest(ticker: $ticker) { id ts price observedAt source } }';
const RANGE = 'query Range($from: UnixTime!, $to: UnixTime) { range(ticker: "btc_usd", from: $from, to: $to) { ts price } }';

// Each client returns { data } or { errors: [{ message, code }] }.
const toErrors = (errors) => ({ errors: errors.map((error) => ({ message: error.message, code: error.extensions?.code })) });

function graphqlRequest() {
  const client = new GraphQLClient(url);
  return async (query, variables) => {
    try {
      return { data: await client.request(query, variables) };
    } catch (error) {
      if (!error.response?.errors) throw error;
      return toErrors(error.response.errors);
    }
  };
}

function urql(preferGetMethod) {
  return () => {
    const client = new Urql({ url, exchanges: [fetchExchange], preferGetMethod });
    return async (query, variables) => {
      const { data, error } = await client.query(query, variables).toPromise();
      if (!error) return { data };
      if (error.networkError && !error.graphQLErrors.length) throw error;
      return toErrors(error.graphQLErrors);
    };
  };
}

function apollo(useGETForQueries, ...links) {
  return () => {
    const link = ApolloLink.from([...links, new HttpLink({ uri: url, useGETForQueries })]);
    const client = new ApolloClient({ link, cache: new InMemoryCache() });
    return async (query, variables) => {
      const { data, error } = await client.query({ query: gql(query), variables, errorPolicy: 'all', fetchPolicy: 'no-cache' });
      if (!error) return { data };
      if (!error.errors) throw error;
      return toErrors(error.errors);
    };
  };
}

const clients = {
  'graphql-request': graphqlRequest,
  urql: urql(false),
  'urql by GET': urql('force'),
  'Apollo Client': apollo(false),
  'Apollo Client by GET': apollo(true),
  'Apollo Client by digest': apollo(true, new PersistedQueryLink({ sha256, useGETForHashedQueries: true })),
};

for (const [name, make] of Object.entries(clients)) {
  const execute = make();
  console.log(
    JSON.stringify({
      name,
      latest: await execute(LATEST, { ticker: 'btc_usd' }),
      nothing: await execute(LATEST, { ticker: 'eth_usd' }),
      window: await execute(RANGE, { from: '2024-01-15T11:40:00Z', to: 1705318920 }),
      openEnd: await execute(RANGE, { from: Math.floor(Date.now() / 1000) - 60, to: null }),
      unknown: await execute(LATEST, { ticker: 'nobody_usd' }),
      missing: await execute(LATEST, {}),
    }),
  );
}
