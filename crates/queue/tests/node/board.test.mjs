// Bull Board, unmodified, on a queue that our worker serves: its pages are right and its buttons work.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { createBullBoard } from '@bull-board/api';
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';

import { eventually, on } from './support.mjs';

/** A server adapter that answers calls instead of requests. */
class Board {
  setQueues(queues) { this.queues = queues; return this; }
  setViewsPath() { return this; }
  setStaticPath() { return this; }
  setUIConfig(config) { this.uiConfig = config; return this; }
  setEntryRoute() { return this; }
  setErrorHandler(handler) { this.failed = handler; return this; }
  setApiRoutes(routes) { this.routes = routes; return this; }

  async call(method, path, { query = {}, body } = {}) {
    for (const route of this.routes) {
      const methods = [route.method].flat();
      for (const pattern of [route.route].flat()) {
        const found = methods.includes(method)
          && new RegExp(`^${pattern.replace(/:(\w+)/g, '(?<$1>[^/]+)')}$`).exec(path);
        if (found) {
          const request = { queues: this.queues, params: { ...found.groups }, query, body, headers: {}, uiConfig: this.uiConfig };
          const answer = await route.handler(request).catch((error) => this.failed(error));
          assert.ok((answer.status ?? 200) < 300, `${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
          return answer.body;
        }
      }
    }
    throw new Error(`no route ${method} ${path}`);
  }
}

test('Bull Board: lists, job page, retry, promote, clean, pause, add, retry all', on(async (field) => {
  const board = new Board();
  createBullBoard({ queues: [new BullMQAdapter(field.queue)], serverAdapter: board, options: { uiBasePath: '.', uiConfig: {} } });
  const page = async (activePage = 'latest') => {
    const body = await board.call('get', '/api/queues', { query: { activeQueue: field.name, status: activePage, page: '1', jobsPerPage: '20' } });
    return body.queues.find(({ name }) => name === field.name);
  };
  const base = `/api/queues/${field.name}`;

  assert.deepEqual((await board.call('get', `${base}/workers`)).workers.length, 0);
  await field.worker({ slots: 2 });
  assert.deepEqual((await board.call('get', `${base}/workers`)).workers.length, 1);
  assert.equal((await page()).hasWorkers, true);

  const added = await board.call('post', `${base}/add`, { body: { name: 'by hand', data: { result: 'ok' }, options: {} } });
  const id = added.job.id;
  await field.state(id, 'completed');
  const job = await board.call('get', `${base}/${id}`);
  assert.equal(job.status, 'completed');
  assert.equal(job.job.returnValue, 'ok');
  assert.deepEqual((await page('completed')).jobs.map((entry) => entry.id), [id]);

  const broken = await field.queue.addBulk([1, 2, 3].map((n) => ({ name: `broken-${n}`, data: { fail: 'once', failTimes: 1 } })));
  for (const one of broken) await field.state(one.id, 'failed');
  const failed = await page('failed');
  assert.equal(failed.counts.failed, 3);
  assert.ok(failed.jobs.every(({ failedReason, isFailed }) => failedReason === 'once' && isFailed));
  await board.call('put', `${base}/${broken[0].id}/retry`, { query: {} }).catch(async () => {
    await board.call('put', `${base}/${broken[0].id}/retry/failed`);
  });
  await field.state(broken[0].id, 'completed');
  await board.call('put', `${base}/retry/failed`);
  for (const one of broken) await field.state(one.id, 'completed');

  const later = await field.queue.add('later', {}, { delay: 600_000 });
  assert.equal((await page('delayed')).counts.delayed, 1);
  await board.call('put', `${base}/${later.id}/promote`);
  await field.state(later.id, 'completed');
  const all = await field.queue.addBulk([1, 2].map((n) => ({ name: `later-${n}`, data: {}, opts: { delay: 600_000 } })));
  await board.call('put', `${base}/promote`);
  for (const one of all) await field.state(one.id, 'completed');

  await board.call('put', `${base}/pause`);
  assert.equal((await page()).isPaused, true);
  const held = await field.queue.add('held', {});
  const dropped = await field.queue.add('dropped', {});
  await board.call('patch', `${base}/${held.id}/update-data`, { body: { jobData: { result: 'changed' } } });
  await board.call('put', `${base}/${dropped.id}/clean`);
  await board.call('put', `${base}/resume`);
  await field.state(held.id, 'completed');
  assert.equal((await field.queue.getJob(held.id)).returnvalue, 'changed');
  assert.equal(await field.queue.getJob(dropped.id), undefined);
  assert.ok(!(await field.order()).includes('dropped'));

  await board.call('get', `${base}/${held.id}/logs`);
  await board.call('get', `${base}/metrics`);
  await board.call('get', '/api/redis/stats');
  await board.call('put', `${base}/concurrency`, { body: { concurrency: 1 } });
  // It spares jobs that ended less than five seconds ago.
  await eventually('the completed ones are gone', async () => {
    await board.call('put', `${base}/clean/completed`);
    return (await field.counts()).completed === 0;
  });
  await board.call('put', `${base}/pause`);
  await board.call('put', `${base}/obliterate`);
  const after = await field.queue.add('after', {});
  await field.state(after.id, 'completed');
}));
