// Drives a server with the TypeScript client of the 2.x line: `node ts_client.mjs URL PROFILE default|auto`.

import { performance } from 'node:perf_hooks';
import { Client, SSEClientTransport, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { answer, recorder, run } from './shared.mjs';

const [, , url, profile, mode] = process.argv;
const { seen, recording } = recorder();
const events = [];
const options = { capabilities: { elicitation: { form: {}, url: {} } } };
if (mode !== 'default') options.versionNegotiation = { mode };
const client = new Client({ name: 'agw-interop', version: '1.0.0' }, options);
const transport = url.endsWith('/sse')
  ? new SSEClientTransport(new URL(url))
  : new StreamableHTTPClientTransport(new URL(url), { fetch: recording });
client.setRequestHandler('elicitation/create', (request) => answer(request));
client.fallbackNotificationHandler = async (notification) => {
  events.push([performance.now(), notification.method]);
};

const adapter = {
  client,
  connect: () => client.connect(transport),
  close: () => client.close(),
  call: (params, more) => client.callTool(params, more),
  version: () => client.getNegotiatedProtocolVersion(),
  listen: (filter) => client.listen(filter),
  terminate: () => transport.terminateSession(),
};
await run(url, JSON.parse(profile), mode === 'default' ? 'legacy' : mode, adapter, events, seen);
