// What the TypeScript clients share: all checks, written against an adapter that hides the two SDKs' differences, and
// a fetch that remembers what went over the wire. Output is one line of JSON per check, as in report.py.

import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';

export const MODERN = '2026-07-28';
export const QUESTIONS = [];

class Skip extends Error {}

function emit(check, ok, detail = '') {
  console.log(JSON.stringify({ check, ok, detail }));
}

function expect(got, wanted, what) {
  if (JSON.stringify(got) !== JSON.stringify(wanted)) {
    throw new Error(`${what}: ${JSON.stringify(got)} instead of ${JSON.stringify(wanted)}`);
  }
}

function need(part) {
  if (part == null) throw new Skip('not offered');
  return part;
}

async function until(condition, limit = 15_000) {
  for (const end = performance.now() + limit; performance.now() < end; await sleep(20)) {
    if (await condition()) return;
  }
  throw new Error(`nothing within ${limit} ms`);
}

/** A fetch that counts. */
export function recorder() {
  const seen = { sessions: new Set(), deleted: [], streams: [], lists: 0 };
  const recording = async (url, init) => {
    const method = init?.method ?? 'GET';
    if (method === 'POST' && String(init.body).includes('"tools/list"')) seen.lists += 1;
    const response = await fetch(url, init);
    const session = response.headers.get('mcp-session-id');
    if (session) seen.sessions.add(session);
    if (method === 'DELETE') seen.deleted.push(response.status);
    if (method === 'GET') seen.streams.push(response.status);
    return response;
  };
  return { seen, recording };
}

/** What the client answers when it is asked. */
export function answer(request) {
  QUESTIONS.push(request.params.message);
  const names = Object.keys(request.params.requestedSchema.properties);
  return { action: 'accept', content: Object.fromEntries(names.map((name) => [name, `my ${name}`])) };
}

/**
 * Runs all checks. `adapter`: connect(), close(), call(params, options), version(), listen(filter) (modern era),
 * terminate(), and client (the SDK's); `events` is where it puts [time, method] of notifications, `seen` the recorder's.
 */
export async function run(url, profile, wanted, adapter, events, seen) {
  const call = async (part, options) => {
    const result = await adapter.call({ name: part.tool, arguments: part.arguments, ...(part._meta ? { _meta: part._meta } : {}) }, options);
    expect(result.isError ?? false, false, 'isError');
    return result.content.map((content) => content.text ?? '').join('');
  };
  const progress = async () => {
    const { steps, step_ms: step } = need(profile.progress);
    const times = [];
    const values = [];
    await call(profile.progress, {
      onprogress: (progress) => {
        times.push(performance.now());
        values.push(progress.progress);
      },
    });
    const now = performance.now();
    const all = Array.from({ length: steps }, (_, index) => index + 1);
    // Over HTTP+SSE these SDKs drop the last one when it is read together with the result, whoever the server is.
    const lostLast = url.endsWith('/sse') && values.length === steps - 1;
    expect(values, lostLast ? all.slice(0, -1) : all, 'progress values');
    const spread = times.at(-1) - times[0];
    if (spread < 0.5 * (steps - 1) * step) throw new Error(`${steps} notifications within ${spread.toFixed(0)} ms were not passed on one by one`);
    if (now - times[0] < step) throw new Error(`the first notification came ${(now - times[0]).toFixed(0)} ms before the result`);
    return `${steps} in ${spread.toFixed(0)} ms, first ${(now - times[0]).toFixed(0)} ms before the result`;
  };
  const after = (method, at) => events.find(([time, name]) => name === method && time > at);
  let version = '';
  let modern = false;

  const checks = {
    async connect() {
      await adapter.connect();
      version = adapter.version() ?? '';
      modern = version >= MODERN;
      expect(version, wanted === 'auto' && profile.modern ? MODERN : '2025-11-25', 'version');
      return version;
    },
    async list() {
      const names = [];
      let cursor;
      do {
        const page = await adapter.client.listTools(cursor === undefined ? undefined : { cursor });
        names.push(...page.tools.map((tool) => tool.name));
        cursor = page.nextCursor;
      } while (cursor !== undefined);
      expect([names.length, new Set(names).size], [profile.tools, profile.tools], 'tools');
      if (!url.endsWith('/sse')) expect(seen.lists, profile.pages, 'pages');
      return `${names.length} tools on ${seen.lists} pages`;
    },
    async call() {
      for (const part of [profile.echo, profile.add]) {
        const got = await call(part);
        if (part.has) expect(got.includes(part.has), true, `${part.has} in ${got}`);
        else expect(got, part.text, part.tool);
      }
    },
    async big() {
      expect((await call(need(profile.big))).length, profile.big.bytes, 'length');
    },
    async error() {
      const part = need(profile.error);
      expect((await adapter.call({ name: part.tool, arguments: part.arguments })).isError, true, 'isError');
      const unknown = await adapter.call({ name: 'no-such-tool', arguments: {} }).catch((error) => error);
      expect(unknown instanceof Error ? unknown.code : unknown.isError, unknown instanceof Error ? -32602 : true, 'unknown tool');
    },
    progress,
    async parallel() {
      return (await Promise.all(Array.from({ length: 6 }, progress)))[0];
    },
    async log() {
      const part = { ...need(profile.log) };
      if (modern) part._meta = { 'io.modelcontextprotocol/logLevel': 'info' };
      const before = events.length;
      await call(part);
      const now = performance.now();
      const times = events.slice(before).filter(([, name]) => name === 'notifications/message').map(([time]) => time);
      expect(times.length, part.messages, 'messages');
      if (now - times[0] < part.spread_ms / 2) throw new Error(`the first message came ${(now - times[0]).toFixed(0)} ms before the result`);
      return `first ${(now - times[0]).toFixed(0)} ms before the result`;
    },
    async idle() {
      const part = need(profile.idle);
      const subscription = modern ? await adapter.listen({ toolsListChanged: true }) : undefined;
      await call(part);
      const result = performance.now();
      const method = modern ? 'notifications/tools/list_changed' : 'notifications/message';
      await until(() => after(method, result + 200));
      await subscription?.close();
      return `${((after(method, result + 200)[0] - result) / 1000).toFixed(1)} s after the result`;
    },
    async subscribe() {
      const part = need(profile.subscribe);
      const subscription = modern ? await adapter.listen({ resourceSubscriptions: [part.uri] }) : undefined;
      if (!modern) await adapter.client.subscribeResource({ uri: part.uri });
      await call(part);
      await until(() => after('notifications/resources/updated', 0));
      await subscription?.close();
      return modern ? 'listen' : 'GET stream';
    },
    async resource() {
      const part = need(profile.resource);
      const listed = [];
      let cursor;
      do {
        const page = await adapter.client.listResources(cursor === undefined ? undefined : { cursor });
        listed.push(...page.resources.map((resource) => resource.uri));
        cursor = page.nextCursor;
      } while (cursor !== undefined);
      expect(listed.includes(part.uri), true, `${part.uri} listed`);
      const read = await adapter.client.readResource({ uri: part.uri });
      expect(read.contents[0].text.includes(part.text), true, 'text');
      const unknown = await adapter.client.readResource({ uri: 'test://nowhere' }).catch((error) => error);
      expect(unknown instanceof Error, true, 'an unknown resource fails');
    },
    async prompt() {
      const part = need(profile.prompt);
      const { prompts } = await adapter.client.listPrompts();
      expect(prompts.some((prompt) => prompt.name === part.name), true, 'listed');
      const got = await adapter.client.getPrompt({ name: part.name, arguments: part.arguments });
      expect(got.messages[0].content.text, part.text, 'text');
    },
    async complete() {
      const part = need(profile.complete);
      const ref = { type: 'ref/prompt', name: part.prompt };
      const got = await adapter.client.complete({ ref, argument: { name: part.argument, value: part.value } });
      expect(got.completion.values, part.values, 'values');
    },
    async elicit() {
      const part = need(profile.elicit)[modern ? 'modern' : 'legacy'];
      const before = QUESTIONS.length;
      expect((await call(part)).includes(part.text), true, 'answer in result');
      expect(QUESTIONS.length - before, 1, 'questions');
    },
    async cancel() {
      const part = need(profile.cancel);
      const count = { tool: part.count_tool, arguments: {} };
      const before = Number(await call(count));
      const given = await call(part, { signal: AbortSignal.timeout(400) }).catch((error) => error);
      expect(given instanceof Error, true, 'given up');
      await until(async () => Number(await call(count)) === before + 1, 5000);
    },
    async session() {
      expect(seen.sessions.size, modern ? 0 : 1, 'session ids');
      if (!modern) expect(seen.streams.slice(0, 1), [200], 'GET stream');
      return modern ? 'none' : 'one, with GET stream';
    },
    async delete() {
      if (modern) throw new Skip('no session');
      await adapter.terminate();
      expect(seen.deleted.map((status) => Math.floor(status / 100)), [2], 'DELETE');
      const response = await fetch(url, {
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          accept: 'application/json, text/event-stream',
          'mcp-session-id': [...seen.sessions][0],
          'mcp-protocol-version': version,
        },
        body: JSON.stringify({ jsonrpc: '2.0', id: 99, method: 'tools/list', params: {} }),
      });
      await response.arrayBuffer();
      expect(response.status, profile.gone, 'status after DELETE');
      return `then ${profile.gone}`;
    },
  };

  for (const [name, check] of Object.entries(checks)) {
    if (profile.checks && !profile.checks.includes(name)) continue;
    let timer;
    const limit = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error('no answer within 20 s')), 20_000);
    });
    try {
      emit(name, true, (await Promise.race([check(), limit])) ?? '');
    } catch (error) {
      if (error instanceof Skip) emit(name, null, error.message);
      else emit(name, false, `${error.name}: ${error.message}`);
      if (name === 'connect') break;
    } finally {
      clearTimeout(timer);
    }
  }
  await adapter.close().catch(() => undefined);
  process.exit(0);
}
