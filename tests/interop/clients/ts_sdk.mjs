// Drives a server with the TypeScript SDK of the 1.x line: `node ts_sdk.mjs URL PROFILE`. Legacy era only.

import { performance } from 'node:perf_hooks';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { ElicitRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import { answer, recorder, run } from './shared.mjs';

const [, , url, profile] = process.argv;
const { seen, recording } = recorder();
const events = [];
const client = new Client({ name: 'agw-interop', version: '1.0.0' }, { capabilities: { elicitation: { form: {}, url: {} } } });
const transport = url.endsWith('/sse')
  ? new SSEClientTransport(new URL(url))
  : new StreamableHTTPClientTransport(new URL(url), { fetch: recording });
client.setRequestHandler(ElicitRequestSchema, (request) => answer(request));
client.fallbackNotificationHandler = async (notification) => {
  events.push([performance.now(), notification.method]);
};

let version;
transport.setProtocolVersion = ((set) => (value) => {
  version = value;
  set.call(transport, value);
})(transport.setProtocolVersion);

const adapter = {
  client,
  connect: () => client.connect(transport),
  close: () => client.close(),
  call: (params, options) => client.callTool(params, undefined, options),
  version: () => version,
  terminate: () => transport.terminateSession(),
};
await run(url, JSON.parse(profile), 'legacy', adapter, events, seen);
