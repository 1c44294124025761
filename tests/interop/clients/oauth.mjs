// The TypeScript SDKs' OAuth client: `node oauth.mjs URL PROFILE sdk|default|auto`. sdk: the 1.x line; else @modelcontextprotocol/client.
// The user agrees to everything: the redirects of the authorization endpoint are followed up to our own address, which nobody serves.

import { setTimeout as sleep } from 'node:timers/promises';

const [, , url, text, mode] = process.argv;
const profile = JSON.parse(text);
const REDIRECT = 'http://127.0.0.1:1/callback';
const sdk = mode === 'sdk' ? await oldLine() : await import('@modelcontextprotocol/client');

async function oldLine() {
  const { Client } = await import('@modelcontextprotocol/sdk/client/index.js');
  return { Client, ...(await import('@modelcontextprotocol/sdk/client/streamableHttp.js')), ...(await import('@modelcontextprotocol/sdk/client/auth.js')) };
}

function emit(check, ok, detail = '') {
  console.log(JSON.stringify({ check, ok, detail }));
}

function expect(got, wanted, what) {
  if (JSON.stringify(got) !== JSON.stringify(wanted)) throw new Error(`${what}: ${JSON.stringify(got)} instead of ${JSON.stringify(wanted)}`);
}

async function browse(where) {
  for (let hops = 0; hops < 5; hops += 1) {
    if (String(where).startsWith(REDIRECT)) return new URL(where).searchParams;
    const answer = await fetch(where, { redirect: 'manual' });
    where = answer.headers.get('location');
    if (!where) throw new Error(`no way on: ${answer.status} ${await answer.text()}`);
  }
  throw new Error(`no way back from ${where}`);
}

/** Everything in memory; remembers what came to our address. */
class Provider {
  redirectUrl = REDIRECT;
  clientMetadata = { client_name: 'agw-interop', redirect_uris: [REDIRECT], token_endpoint_auth_method: 'none', grant_types: ['authorization_code', 'refresh_token'], response_types: ['code'] };
  back = null;
  #kept = {};
  state() { return 'a-state'; }
  clientInformation() { return this.#kept.client; }
  saveClientInformation(client) { this.#kept.client = client; }
  tokens() { return this.#kept.tokens; }
  saveTokens(tokens) {
    // The 1.x line answers a step-up with a refresh whenever it can, and gets the scopes it had: its users must forget the refresh token.
    const { refresh_token: refresh, ...rest } = tokens;
    this.#kept.tokens = mode === 'sdk' && profile.scoped ? rest : { ...rest, ...(refresh ? { refresh_token: refresh } : {}) };
  }
  codeVerifier() { return this.#kept.verifier; }
  saveCodeVerifier(verifier) { this.#kept.verifier = verifier; }
  async redirectToAuthorization(where) {
    this.back = await browse(where);
    expect(this.back.get('state'), 'a-state', 'state');
  }
}

const provider = new Provider();
let client;
let transport;

function make() {
  const options = mode === 'auto' ? { versionNegotiation: { mode: 'auto' } } : {};
  client = new sdk.Client({ name: 'agw-interop', version: '1.0.0' }, { capabilities: {}, ...options });
  transport = new sdk.StreamableHTTPClientTransport(new URL(url), { authProvider: provider });
}

/** Does something; when it takes the user, goes on with what came back and does it again. */
async function withUser(work, again = work) {
  try {
    return await work();
  } catch (error) {
    if (provider.back === null) throw error;
    const back = provider.back;
    provider.back = null;
    if (mode === 'sdk') await transport.finishAuth(back.get('code'));
    else await transport.finishAuth(back);
    return again();
  }
}

async function call(part) {
  const result = await client.callTool({ name: part.tool, arguments: part.arguments });
  expect(result.content.map((content) => content.text ?? '').join(''), part.text, part.tool);
}

const checks = {
  async connect() {
    make();
    await withUser(
      () => client.connect(transport),
      () => {
        make();
        return client.connect(transport);
      },
    );
    return client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion;
  },
  async list() {
    const { tools } = await client.listTools();
    expect(tools.some((tool) => tool.name === profile.echo.tool), true, 'listed');
    return `${tools.length} tools`;
  },
  call: () => call(profile.echo),
  async step_up() {
    if (!profile.scoped) return null;
    const before = provider.tokens().scope;
    await withUser(() => call(profile.scoped));
    return `${before} -> ${provider.tokens().scope}`;
  },
  async refresh() {
    if (!profile.refresh) return null;
    const before = provider.tokens().access_token;
    await sleep(1000 * profile.refresh.wait_s);
    await call(profile.echo);
    expect(provider.tokens().access_token !== before, true, 'another token');
    return '';
  },
};

for (const [name, check] of Object.entries(checks)) {
  try {
    const detail = await check();
    emit(name, detail === null ? null : true, detail ?? 'not offered');
  } catch (error) {
    emit(name, false, `${error?.name}: ${error?.message ?? error} (${String(error?.stack).split('\n')[1]?.trim()})`);
    if (name === 'connect') break;
  }
}
process.exit(0);
