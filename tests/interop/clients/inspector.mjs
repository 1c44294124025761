// Drives a server with the command line of the MCP Inspector: `node inspector.mjs URL PROFILE legacy|modern`.
// It is a process per request, and shows no progress.

import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const [, , url, text, era] = process.argv;
const profile = JSON.parse(text);
const program = fileURLToPath(import.meta.resolve('@modelcontextprotocol/inspector/package.json')).replace('package.json', 'clients/launcher/build/index.js');

function emit(check, ok, detail = '') {
  console.log(JSON.stringify({ check, ok, detail }));
}

function inspect(...more) {
  const transport = url.endsWith('/sse') ? 'sse' : 'http';
  const command = [program, '--cli', url, '--transport', transport, '--protocol-era', era, '--format', 'json', ...more];
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'pipe'] });
    let out = '';
    let errors = '';
    child.stdout.on('data', (data) => (out += data));
    child.stderr.on('data', (data) => (errors += data));
    const timer = setTimeout(() => child.kill(), 30_000);
    child.on('close', (code) => {
      clearTimeout(timer);
      if (code === 0) resolve(JSON.parse(out));
      else reject(new Error(`exit code ${code}: ${(errors || out).trim().slice(-300)}`));
    });
  });
}

async function called(part) {
  const pairs = Object.entries(part.arguments).flatMap(([key, value]) => ['--tool-arg', `${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`]);
  const answer = await inspect('--method', 'tools/call', '--tool-name', part.tool, ...pairs);
  const result = answer.result ?? answer;
  return result.content.map((content) => content.text ?? '').join('');
}

const checks = {
  async connect() {
    const answer = await inspect('--method', 'tools/list');
    this.tools = (answer.result ?? answer).tools;
    return era;
  },
  async list() {
    // It declares more capabilities than some and fewer than others, and a server may offer its tools by them.
    const least = profile.least ?? profile.tools;
    if (this.tools.length < least || this.tools.length > profile.tools) throw new Error(`${this.tools.length} tools, not ${least} to ${profile.tools}`);
    return `${this.tools.length} tools`;
  },
  async call() {
    for (const part of [profile.echo, profile.add]) {
      const got = await called(part);
      if (part.has ? !got.includes(part.has) : got !== part.text) throw new Error(`${got} instead of ${part.text}`);
    }
  },
};

for (const [name, check] of Object.entries(checks)) {
  try {
    emit(name, true, (await check.call(checks)) ?? '');
  } catch (error) {
    emit(name, false, error.message);
    if (name === 'connect') process.exit(0);
  }
}
emit('progress', null, 'not shown by this client');
emit('cancel', null, 'not offered by this client');
