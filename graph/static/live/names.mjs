// Names of currencies, for readers who do not know the index names of the exchange.

const NAMES = {
  ada: "Cardano", algo: "Algorand", apt: "Aptos", avax: "Avalanche", bch: "Bitcoin Cash", bnb: "BNB", btc: "Bitcoin", doge: "Dogecoin", dot: "Polkadot",
  eth: "Ethereum", eur: "euro", eurr: "StablR Euro", hype: "Hyperliquid", link: "Chainlink", ltc: "Litecoin", matic: "Polygon", near: "NEAR", paxg: "PAX Gold",
  shib: "Shiba Inu", sol: "Solana", steth: "Lido Staked Ether", sui: "Sui", ton: "Toncoin", trump: "Official Trump", trx: "TRON", uni: "Uniswap",
  usd: "US dollar", usdc: "USD Coin", usde: "Ethena USDe", usdt: "Tether", xrp: "XRP", btcdvol: "Bitcoin volatility index", ethdvol: "Ethereum volatility index",
};

/** Returns the name of a ticker: `Bitcoin / US dollar` for `btc_usd`. Unknown currencies have their code. */
export function pairName(ticker) {
  const [base, quote] = split(ticker);
  return [base, quote].filter(Boolean).map((code) => NAMES[code] ?? code.toUpperCase()).join(" / ");
}

/** Returns the code of the currency in which a ticker is quoted: `USD` for `btc_usd`. */
export function quoteOf(ticker) {
  return (split(ticker)[1] ?? "").toUpperCase();
}

function split(ticker) {
  const at = ticker.lastIndexOf("_");
  return at < 0 ? [ticker] : [ticker.slice(0, at).replace(/^[a-z]+-/, ""), ticker.slice(at + 1)];
}
