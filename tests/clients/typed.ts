// Uses of the generated types that `tsc --strict` must accept, and, marked with @ts-expect-error, must reject.
import type { CoverageQuery, CoverageQueryVariables, LatestQuery, PageQuery, TickersQuery } from './generated/graphql.js';

export function shown(latest: LatestQuery, page: PageQuery, coverage: CoverageQuery, tickers: TickersQuery): string[] {
  // @ts-expect-error a ticker without a price yet
  const unsafe: string = latest.latest.price;
  // @ts-expect-error observedAt is null where only the minute is known
  const instant: string = page.prices.nodes[0]!.observedAt;
  // @ts-expect-error ratio is null where no minute was expected
  const ratio: number = coverage.coverage.ratio;
  // @ts-expect-error a ticker that was never tracked
  const since: number = tickers.tickers[0]!.since;
  const safe: string | undefined = latest.latest?.price;
  const cursors: string[] = page.prices.edges.map((edge) => edge.cursor);
  const minutes: number[] = page.prices.nodes.map((price) => price.ts);
  const reasons: string[] = coverage.coverage.gaps.nodes.map((gap) => gap.reason);
  return [unsafe, instant, String(ratio), String(since), safe ?? '-', ...cursors, ...minutes.map(String), ...reasons];
}

export const variables: CoverageQueryVariables = { ticker: 'btc_usd', from: 1705318800 };
// @ts-expect-error `from` is required
export const incomplete: CoverageQueryVariables = { ticker: 'btc_usd' };
