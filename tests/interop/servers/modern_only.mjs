// A server of the modern era only, on the TypeScript SDK of the 2.x line: `node modern_only.mjs PORT`.
// It has the tools of the matrix: echo, add, progress, cancelled (cases.py says what they do).

import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { toNodeHandler } from '@modelcontextprotocol/node';
import { createMcpHandler, McpServer } from '@modelcontextprotocol/server';
import * as z from 'zod';

let cancelled = 0;

const text = (value) => ({ content: [{ type: 'text', text: String(value) }] });

function make() {
  const server = new McpServer({ name: 'agw-modern-only', version: '1.0.0' });
  server.registerTool('echo', { inputSchema: z.object({ text: z.string() }) }, async (args) => text(args.text));
  server.registerTool('add', { inputSchema: z.object({ a: z.number(), b: z.number() }) }, async (args) => text(args.a + args.b));
  server.registerTool('cancelled', { inputSchema: z.object({}) }, async () => text(cancelled));
  const steps = z.object({ steps: z.number(), step_ms: z.number() });
  server.registerTool('progress', { inputSchema: steps }, async (args, ctx) => {
    const progressToken = ctx.mcpReq._meta?.progressToken;
    const { signal } = ctx.mcpReq;
    try {
      for (let step = 1; step <= args.steps; step += 1) {
        await sleep(args.step_ms, undefined, { signal });
        if (progressToken !== undefined) {
          const params = { progressToken, progress: step, total: args.steps };
          await ctx.mcpReq.notify({ method: 'notifications/progress', params });
        }
      }
      await sleep(args.step_ms, undefined, { signal });
    } catch (error) {
      if (signal.aborted) cancelled += 1;
      throw error;
    }
    return text(`${args.steps} steps`);
  });
  return server;
}

createServer(toNodeHandler(createMcpHandler(make, { legacy: 'reject' }))).listen(Number(process.argv[2]), '127.0.0.1');
