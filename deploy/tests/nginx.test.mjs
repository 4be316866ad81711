// Every rule of the edge, on a real nginx with the real configuration, between two small slots.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { createServer, request as plainRequest } from 'node:http';
import http2 from 'node:http2';
import https from 'node:https';
import net from 'node:net';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import tls from 'node:tls';
import zlib from 'node:zlib';
import { after, before, test } from 'node:test';

const edge = path.resolve(import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname), '../../nginx');
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'edge-test-'));
fs.chmodSync(folder, 0o755);
const state = path.join(folder, 'state');
const host = 'api.fieldtrack.example';
const planted = 'planted-token-5f3a';
let nginx, log = '', ports, environment, slots;

const freePort = () => new Promise((resolve) => {
  const server = net.createServer().listen(0, '127.0.0.1', () => {
    const { port } = server.address();
    server.close(() => resolve(port));
  });
});

// A slot: says what reached it.
function slot(name, port) {
  const seen = [];
  const server = createServer((request, response) => {
    const url = new URL(request.url, 'http://slot');
    seen.push(`${request.method} ${url.pathname}`);
    let size = 0;
    request.on('data', (part) => { size += part.length; });
    request.on('end', () => {
      const own = { 'content-type': 'application/json; charset=utf-8', 'strict-transport-security': 'max-age=31536000; includeSubDomains', 'x-content-type-options': 'nosniff', 'x-request-id': request.headers['x-request-id'] };
      if (url.pathname === '/admin/events') {
        response.writeHead(200, { ...own, 'content-type': 'text/event-stream' });
        response.write('event: connected\ndata: {}\n\n');
        return;
      }
      if (url.pathname === '/refuses') {
        response.writeHead(503, own).end('{"success":false,"error":"of the API"}');
        return;
      }
      if (url.pathname === '/large') {
        response.writeHead(200, own).end(JSON.stringify({ text: 'x'.repeat(5000) }));
        return;
      }
      if (url.pathname === '/breaks-off') return void request.socket.destroy();
      response.writeHead(200, own).end(JSON.stringify({ slot: name, url: request.url, size, headers: request.headers, port: request.socket.remotePort }));
    });
  });
  server.on('upgrade', (request, socket) => {
    socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n');
    socket.pipe(socket);
  });
  server.keepAliveTimeout = 75_000;
  return new Promise((resolve) => server.listen(port, '127.0.0.1', () => resolve({ server, seen, stop: () => new Promise((done) => { server.close(done); server.closeAllConnections(); }) })));
}

function ask(target, { method = 'GET', headers = {}, body, secure = true, name = host, agent } = {}) {
  return new Promise((resolve, reject) => {
    const options = { host: '127.0.0.1', port: secure ? ports.https : ports.http, path: target, method, headers: { host: name, ...headers }, servername: name, rejectUnauthorized: false, agent: agent ?? false };
    const sent = (secure ? https.request : plainRequest)(options, (response) => {
      const parts = [];
      response.on('data', (part) => parts.push(part));
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, raw: response.rawHeaders, body: Buffer.concat(parts) }));
    });
    sent.on('error', reject);
    sent.end(body);
  });
}

const json = (answer) => JSON.parse(answer.headers['content-encoding'] === 'gzip' ? zlib.gunzipSync(answer.body) : answer.body);
const times = (answer, name) => answer.raw.filter((word, place) => place % 2 === 0 && word.toLowerCase() === name).length;

function isEnvelope(answer, status, code) {
  assert.equal(answer.status, status, answer.body.toString());
  assert.match(answer.headers['content-type'], /^application\/json/);
  const body = json(answer);
  assert.equal(body.success, false);
  assert.equal(body.code, code);
  assert.ok(body.error.length > 0);
  assert.equal(body.requestId, answer.headers['x-request-id']);
  for (const name of ['strict-transport-security', 'x-content-type-options']) assert.equal(times(answer, name), 1, name);
}

const mark = (file, on) => on ? fs.writeFileSync(path.join(state, file), '') : fs.rmSync(path.join(state, file), { force: true });

async function until(what, isSo) {
  for (const deadline = Date.now() + 20_000; Date.now() < deadline && nginx.exitCode === null;) {
    if (await isSo()) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.fail(`not within 20 s: ${what}\n${log}`);
}

async function start(more = {}) {
  environment = {
    ...process.env, API_HOSTNAME: host, APP_ENV: 'test', BODY_LIMIT_BYTES: '10000', REQUEST_TIMEOUT_MS: '1000',
    NGINX_RATE_DEFAULT: '1000r/s', NGINX_RATE_LOGIN: '5r/s', NGINX_RATE_HEALTH: '5r/s',
    EDGE_WORK: path.join(folder, 'work'), EDGE_ACCESS_LOG: path.join(folder, 'access.log'), EDGE_TLS: path.join(folder, 'tls'), EDGE_STATE: state, EDGE_ACME: path.join(folder, 'acme'),
    EDGE_BLUE: `127.0.0.1:${ports.blue}`, EDGE_GREEN: `127.0.0.1:${ports.green}`, EDGE_MONITOR: `127.0.0.1:${ports.blue}`,
    EDGE_HTTP_PORT: `127.0.0.1:${ports.http}`, EDGE_HTTPS_PORT: `127.0.0.1:${ports.https}`, EDGE_STATUS_PORT: `127.0.0.1:${ports.status}`, ...more,
  };
  nginx = spawn(path.join(edge, 'edge.sh'), ['start'], { env: environment, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
  for (const stream of [nginx.stdout, nginx.stderr]) stream.on('data', (part) => { log += part; });
  await until('nginx serves', () => ask('/infra/health').then((answer) => answer.status === 200, () => false));
}

async function stop() {
  if (nginx.exitCode !== null) return;
  const ended = new Promise((resolve) => nginx.on('exit', resolve));
  nginx.kill('SIGTERM');
  await ended;
}

before(async () => {
  ports = { blue: await freePort(), green: await freePort(), http: await freePort(), https: await freePort(), status: await freePort() };
  for (const name of ['state', 'tls', 'acme/.well-known/acme-challenge', 'work']) fs.mkdirSync(path.join(folder, name), { recursive: true, mode: 0o755 });
  fs.writeFileSync(path.join(folder, 'acme/.well-known/acme-challenge/proof'), 'proof');
  slots = { blue: await slot('blue', ports.blue), green: await slot('green', ports.green) };
  await start();
});

after(async () => {
  await stop();
  await slots.blue.stop();
  await slots.green.stop();
  fs.rmSync(folder, { recursive: true });
});

test('plain HTTP serves challenges and its own health, and sends everything else to https', async () => {
  assert.equal((await ask('/.well-known/acme-challenge/proof', { secure: false })).body.toString(), 'proof');
  assert.equal(json(await ask('/infra/health', { secure: false })).status, 'ok');
  const moved = await ask('/auth/login?next=1', { secure: false, method: 'POST' });
  assert.equal(moved.status, 308);
  assert.equal(moved.headers.location, `https://${host}/auth/login?next=1`);
  assert.equal((await ask('/', { secure: false, name: 'elsewhere.example' })).headers.location, `https://${host}/`);
});

test('only TLS 1.2 and 1.3 with a known host name, and HTTP/2', async () => {
  const shake = (options) => new Promise((resolve, reject) => {
    const socket = tls.connect({ host: '127.0.0.1', port: ports.https, rejectUnauthorized: false, ...options }, () => { resolve(socket.getProtocol()); socket.destroy(); });
    socket.on('error', reject);
  });
  assert.equal(await shake({ servername: host }), 'TLSv1.3');
  assert.equal(await shake({ servername: host, maxVersion: 'TLSv1.2' }), 'TLSv1.2');
  await assert.rejects(shake({ servername: host, minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'ALL:@SECLEVEL=0' }));
  await assert.rejects(shake({ servername: 'elsewhere.example' }));
  await assert.rejects(shake({ servername: '' }));
  const client = http2.connect(`https://127.0.0.1:${ports.https}`, { servername: host, rejectUnauthorized: false });
  const status = await new Promise((resolve, reject) => {
    client.on('error', reject);
    client.request({ ':path': '/x', ':authority': host }).on('response', (headers) => resolve(headers[':status'])).resume();
  });
  client.destroy();
  assert.equal(status, 200);
  isEnvelope(await ask('/', { headers: { host: 'elsewhere.example' } }), 421, 'VALIDATION_ERROR');
});

test('the marker file decides for each request, without a reload, on kept connections too', async () => {
  const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
  for (let round = 0; round < 10; round += 1) {
    mark('green.active', round % 2 === 1);
    assert.equal(json(await ask('/who', { agent })).slot, round % 2 === 1 ? 'green' : 'blue');
  }
  mark('green.active', true);
  const health = await ask('/health');
  assert.equal(health.headers['x-slot'], 'green');
  mark('green.active', false);
  assert.equal((await ask('/health')).headers['x-slot'], 'blue');
  agent.destroy();
});

test('the slot learns who called, and nothing that the caller made up', async () => {
  const answer = await ask('/who?a=1', {
    headers: { 'x-forwarded-for': '203.0.113.9', forwarded: 'for=203.0.113.9', 'x-real-ip': '203.0.113.9', 'x-forwarded-proto': 'http', 'x-request-id': 'phone-7', traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01', tracestate: 'v=1', 'accept-encoding': 'gzip', upgrade: 'h2c', connection: 'upgrade' },
  });
  const { headers, url } = json(answer);
  assert.equal(url, '/who?a=1');
  assert.equal(headers['x-forwarded-for'], '127.0.0.1');
  assert.equal(headers['x-real-ip'], '127.0.0.1');
  assert.equal(headers['x-forwarded-proto'], 'https');
  assert.equal(headers.host, host);
  assert.equal(headers['x-request-id'], 'phone-7');
  assert.equal(headers.traceparent, '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01');
  assert.equal(headers.tracestate, 'v=1');
  assert.deepEqual([headers.forwarded, headers.upgrade, headers['accept-encoding']], [undefined, undefined, undefined]);
  assert.equal(answer.headers['x-request-id'], 'phone-7');
  assert.match(json(await ask('/who', { headers: { 'x-request-id': 'not good"' } })).headers['x-request-id'], /^[0-9a-f]{32}$/);
  for (const name of ['strict-transport-security', 'x-content-type-options', 'x-request-id']) assert.equal(times(answer, name), 1, name);
  assert.equal(answer.headers.server, 'nginx');
});

test('connections to a slot are kept', async () => {
  const used = new Set();
  for (let round = 0; round < 5; round += 1) used.add(json(await ask('/who')).port);
  assert.ok(used.size < 5, `${[...used]}`);
});

test('only what operators may see is hidden from the outside', async () => {
  for (const target of ['/metrics', '/ready', '//metrics', '/./ready', '/%6detrics', '/internal/metrics', '/monitor/']) {
    const before = slots.blue.seen.length;
    isEnvelope(await ask(target), 404, 'NOT_FOUND');
    assert.equal(slots.blue.seen.length, before, target);
  }
});

test('bodies above the limit are refused in the envelope, a little above it by the API itself', async () => {
  assert.equal(json(await ask('/who', { method: 'POST', body: Buffer.alloc(10_900) })).size, 10_900);
  isEnvelope(await ask('/who', { method: 'POST', body: Buffer.alloc(11_001) }), 413, 'PAYLOAD_TOO_LARGE');
});

test('a slot that is down or broken is 503 in the envelope, and what the API answers itself passes', async () => {
  isEnvelope(await ask('/breaks-off', { method: 'POST', body: 'x' }), 503, 'SERVICE_UNAVAILABLE');
  assert.equal(json(await ask('/refuses')).error, 'of the API');
  await slots.blue.stop();
  const down = await ask(`/who?token=${planted}`);
  isEnvelope(down, 503, 'SERVICE_UNAVAILABLE');
  assert.equal(down.headers['retry-after'], '5');
  slots.blue = await slot('blue', ports.blue);
  assert.equal((await ask('/who')).status, 200, 'at once, when it is back');
});

test('a request that may have had an effect is never sent twice', async () => {
  // Kept connections that the slot closes: a GET is tried again on another, a POST is not sent twice.
  for (let round = 0; round < 3; round += 1) {
    await ask('/who');
    await slots.blue.stop();
    slots.blue = await slot('blue', ports.blue);
    assert.equal((await ask('/who')).status, 200);
  }
  const count = () => slots.blue.seen.filter((line) => line === 'POST /breaks-off').length;
  await ask('/who');
  const before = count();
  await ask('/breaks-off', { method: 'POST', body: '{}' });
  assert.equal(count(), before + 1);
});

test('event streams are not held back, and no more than 20 of an address', async () => {
  const open = () => new Promise((resolve, reject) => {
    https.get({ host: '127.0.0.1', port: ports.https, path: `/admin/events?token=${planted}`, headers: { host, 'accept-encoding': 'gzip' }, servername: host, rejectUnauthorized: false, agent: false }, (response) => {
      response.once('data', (part) => resolve({ status: response.statusCode, text: part.toString(), encoding: response.headers['content-encoding'], close: () => response.destroy() }));
      response.on('error', () => {});
    }).on('error', reject);
  });
  const streams = [];
  for (let count = 0; count < 20; count += 1) streams.push(await open());
  assert.match(streams[0].text, /event: connected/);
  assert.equal(streams[0].encoding, undefined);
  isEnvelope(await ask('/admin/events'), 429, 'RATE_LIMITED');
  streams.forEach((stream) => stream.close());
  await until('the places are free again', async () => {
    const stream = await open();
    stream.close();
    return stream.status === 200;
  });
});

test('a WebSocket passes, and no more than 50 to follow tables of an address', async () => {
  const open = (path) => new Promise((resolve, reject) => {
    const sent = https.request({ host: '127.0.0.1', port: ports.https, path, headers: { host, connection: 'Upgrade', upgrade: 'websocket' }, servername: host, rejectUnauthorized: false, agent: false });
    sent.on('upgrade', (response, socket) => {
      socket.once('data', (part) => resolve({ status: response.statusCode, text: part.toString(), close: () => socket.destroy() }));
      socket.write('hello');
    });
    sent.on('response', (response) => { response.resume(); resolve({ status: response.statusCode, close: () => {} }); });
    sent.on('error', reject);
    sent.end();
  });
  const other = await open('/socket');
  assert.equal(other.text, 'hello');
  other.close();
  const sockets = [];
  for (let count = 0; count < 50; count += 1) sockets.push(await open(`/realtime/v1/websocket?apikey=${planted}`));
  assert.deepEqual([...new Set(sockets.map(({ status, text }) => `${status} ${text}`))], ['101 hello']);
  assert.equal((await open('/realtime/v1/websocket')).status, 429);
  sockets.forEach((socket) => socket.close());
});

test('JSON is compressed for who asks, once', async () => {
  const small = await ask('/large', { headers: { 'accept-encoding': 'gzip' } });
  assert.equal(small.headers['content-encoding'], 'gzip');
  assert.equal(times(small, 'vary'), 1);
  assert.equal(JSON.parse(zlib.gunzipSync(small.body)).text.length, 5000);
  assert.equal((await ask('/large')).headers['content-encoding'], undefined);
});

test('too many requests are refused with the time to wait, each zone by itself', async () => {
  const burst = async (target, count) => {
    const answers = await Promise.all(Array.from({ length: count }, () => ask(target, { method: 'POST' })));
    return answers.filter((answer) => answer.status === 429);
  };
  await until('the zone is fresh', async () => (await ask('/auth/login', { method: 'POST' })).status === 200);
  const refused = await burst('/auth/login', 120);
  // The burst of 10 passes; how many of the rest do depends on how fast this machine asks.
  assert.ok(refused.length >= 1 && refused.length <= 110, `${refused.length}`);
  isEnvelope(refused[0], 429, 'RATE_LIMITED');
  assert.equal(refused[0].headers['retry-after'], '1');
  assert.equal(json(refused[0]).retryAfter, '1s');
  assert.ok((await burst('/health', 120)).length >= 1);
  assert.equal((await burst('/who', 40)).length, 0);
});

test('maintenance answers for everything but its own health, without a reload', async () => {
  mark('maintenance.on', true);
  const answer = await ask('/who');
  isEnvelope(answer, 503, 'SERVICE_UNAVAILABLE');
  assert.equal(answer.headers['retry-after'], '120');
  isEnvelope(await ask('/admin/events'), 503, 'SERVICE_UNAVAILABLE');
  assert.equal((await ask('/infra/health')).status, 200);
  mark('maintenance.on', false);
  assert.equal((await ask('/who')).status, 200);
});

test('nonsense is refused in the envelope', async () => {
  const raw = await new Promise((resolve, reject) => {
    const socket = tls.connect({ host: '127.0.0.1', port: ports.https, servername: host, rejectUnauthorized: false }, () => socket.write(`GET /%zz HTTP/1.1\r\nHost: ${host}\r\n\r\n`));
    let text = '';
    socket.on('data', (part) => { text += part; });
    socket.on('end', () => resolve(text));
    socket.on('error', reject);
  });
  assert.match(raw, /^HTTP\/1.1 400 /);
  assert.match(raw, /"success":false/);
  isEnvelope(await ask('/who', { headers: { long: 'x'.repeat(40_000) } }), 400, 'VALIDATION_ERROR');
});

test('a configuration that fails its test never gets in force, and a good one does', async () => {
  const run = (word, more) => spawnSync(path.join(edge, 'edge.sh'), [word], { env: { ...environment, ...more }, encoding: 'utf8' });
  assert.equal(run('test', {}).status, 0);
  for (const bad of [{ NGINX_RATE_DEFAULT: 'fast' }, { API_HOSTNAME: 'a;b' }, { EDGE_BLUE: 'no such host:1' }, { APP_ENV: 'production' }]) {
    const refused = run('reload', bad);
    assert.notEqual(refused.status, 0, JSON.stringify(bad));
    assert.equal((await ask('/who')).status, 200);
  }
  const swapped = { EDGE_BLUE: environment.EDGE_GREEN, EDGE_GREEN: environment.EDGE_BLUE };
  assert.equal(run('reload', swapped).status, 0);
  await until('the reload is in force', async () => json(await ask('/who')).slot === 'green');
  assert.equal(run('put-back', {}).status, 0);
  await until('the last good one is back', async () => json(await ask('/who')).slot === 'blue');
});

test('behind a CDN its word is taken, and nobody else’s', async () => {
  const rendered = path.join(environment.EDGE_WORK, 'current/cdn-ranges.conf');
  fs.writeFileSync(rendered, 'set_real_ip_from 127.0.0.1;\n');
  process.kill(nginx.pid, 'SIGHUP');
  const through = (list) => ask('/who', { headers: { 'x-forwarded-for': list } }).then((answer) => json(answer).headers['x-forwarded-for']);
  await until('the reload is in force', async () => (await through('203.0.113.9')) === '203.0.113.9');
  assert.equal(await through('198.51.100.1, 203.0.113.9'), '203.0.113.9', 'what the client wrote itself is not believed');
});

test('log lines are JSON with times, and none holds a query', async () => {
  await ask(`/who?token=${planted}`, { headers: { 'x-request-id': 'last-line', traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01' } });
  const lines = () => fs.readFileSync(path.join(folder, 'access.log'), 'utf8').split('\n').filter((line) => line.startsWith('{'));
  await until('the line is there', () => lines().some((line) => line.includes('last-line')));
  for (const line of lines().slice(0, -1)) JSON.parse(line);
  const last = JSON.parse(lines().find((line) => line.includes('last-line')));
  assert.match(last.ts, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  assert.ok(Math.abs(new Date(last.ts) - Date.now()) < 60_000);
  for (const [name, value] of Object.entries({ level: 'info', service: 'nginx', slot: 'blue', method: 'GET', path: '/who', status: 200, remote_addr: '127.0.0.1', trace_id: '4bf92f3577b34da6a3ce929d0e0e4736', upstream: `127.0.0.1:${ports.blue}` })) assert.equal(last[name], value, name);
  for (const name of ['duration_ms', 'bytes']) assert.equal(typeof last[name], 'number', name);
  log += fs.readFileSync(path.join(folder, 'access.log'), 'utf8');
  assert.match(log, /upstream prematurely closed connection|connect\(\) failed/, 'complaints of nginx were looked at, too');
  assert.ok(!log.includes(planted) && !/\?[a-z]+=/.test(log), log.split('\n').find((line) => /\?[a-z]+=/.test(line)));
});
