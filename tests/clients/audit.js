// Runs graphql-http's audits against a URL and prints each as a line of JSON.
import { serverAudits } from 'graphql-http';

const audits = serverAudits({ url: process.argv[2] });
for (const audit of audits) {
  const result = await audit.fn();
  console.log(JSON.stringify({ name: audit.name, status: result.status, reason: result.reason ?? null }));
}
