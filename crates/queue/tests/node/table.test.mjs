// Unmodified BullMQ clients against a live worker of ours: a test for each row of the compatibility table.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { Worker } from 'bullmq';

import { connection, eventually, on, sleep } from './support.mjs';

const RUN = ['added', 'waiting', 'active<waiting', 'completed<active'];

describe('the compatibility table', { concurrency: 4 }, () => {
  test('add and addBulk run at once, and are told of in order', on(async (field) => {
    await field.worker({ slots: 5 });
    const one = await field.queue.add('one', { result: { km: 1.5 } });
    await field.state(one.id, 'completed');
    assert.deepEqual(await field.story(one.id), RUN);
    const many = await field.queue.addBulk(Array.from({ length: 50 }, (_, n) => ({ name: `bulk-${n}`, data: { n } })));
    await field.completed(51);
    for (const job of many) assert.deepEqual(await field.story(job.id), RUN);
    // The doorbell is heard: waiting for the tick of a second would show in the median.
    const waits = [];
    for (let n = 0; n < 15; n += 1) {
      const job = await field.queue.add('quick', {});
      await field.state(job.id, 'completed');
      const { timestamp, processedOn } = await field.queue.getJob(job.id);
      waits.push(processedOn - timestamp);
    }
    const median = waits.sort((a, b) => a - b)[7];
    assert.ok(median < 100, `median from add to active: ${median} ms`);
  }));

  test('waitUntilFinished resolves with the result, rejects with the reason, also afterwards', on(async (field) => {
    const events = await field.events();
    await field.worker({ slots: 2 });
    const good = await field.queue.add('good', { sleepMs: 50, result: { km: 12.25, list: [1, null, 'é'] } });
    assert.deepEqual(await good.waitUntilFinished(events, 20_000), { km: 12.25, list: [1, null, 'é'] });
    assert.deepEqual(await good.waitUntilFinished(events, 20_000), { km: 12.25, list: [1, null, 'é'] });
    const bad = await field.queue.add('bad', { sleepMs: 50, giveUp: 'the road is closed' });
    await assert.rejects(bad.waitUntilFinished(events, 20_000), /the road is closed/);
    await assert.rejects(bad.waitUntilFinished(events, 20_000), /the road is closed/);
    const gone = await field.queue.add('gone', { sleepMs: 50, result: 7 }, { removeOnComplete: true });
    assert.equal(await gone.waitUntilFinished(events, 20_000), 7);
  }));

  test('counts, jobs and states are right in every state', on(async (field) => {
    await field.worker();
    const done = await field.queue.add('done', {});
    await field.state(done.id, 'completed');
    const failed = await field.queue.add('failed', { giveUp: 'no' });
    await field.state(failed.id, 'failed');
    const active = await field.queue.add('active', { sleepMs: 3000 });
    await field.state(active.id, 'active');
    const waiting = await field.queue.add('waiting', {});
    const prioritized = await field.queue.add('prioritized', {}, { priority: 3 });
    const delayed = await field.queue.add('delayed', {}, { delay: 60_000 });
    assert.deepEqual(await field.counts(), {
      active: 1, completed: 1, delayed: 1, failed: 1, prioritized: 1, waiting: 1, 'waiting-children': 0,
    });
    const expected = [[done, 'completed'], [failed, 'failed'], [active, 'active'], [waiting, 'waiting'],
      [prioritized, 'prioritized'], [delayed, 'delayed']];
    for (const [job, state] of expected) {
      assert.equal(await job.getState(), state);
      assert.deepEqual((await field.queue.getJobs([state])).map(({ id }) => id), [job.id]);
    }
    assert.ok(await done.isCompleted());
    assert.ok(await failed.isFailed());
    assert.ok(await active.isActive());
    assert.ok(await waiting.isWaiting());
    assert.ok(await delayed.isDelayed());
    const told = await field.queue.getJob(failed.id);
    assert.deepEqual([told.failedReason, told.attemptsMade, told.finishedOn > 0], ['no', 1, true]);
  }));

  test('delayed jobs run when due, and at once when promoted', on(async (field) => {
    await field.worker({ slots: 4 });
    const soon = await field.queue.add('soon', {}, { delay: 400 });
    const never = await field.queue.add('never', {}, { delay: 600_000 });
    const changed = await field.queue.add('changed', {}, { delay: 600_000 });
    await changed.changeDelay(500);
    for (const job of [soon, changed]) await field.state(job.id, 'completed');
    assert.equal(await never.getState(), 'delayed');
    for (const [id, least] of [[soon.id, 400], [changed.id, 500]]) {
      const { timestamp, processedOn } = await field.queue.getJob(id);
      assert.ok(processedOn - timestamp >= least, `${processedOn - timestamp} ms is before ${least}`);
      assert.ok(processedOn - timestamp < least + 1000 + 500, `${processedOn - timestamp} ms is long after ${least}`);
      assert.ok((await field.story(id)).includes('waiting<delayed'));
    }
    await never.promote();
    await field.state(never.id, 'completed');
    const all = await Promise.all([1, 2, 3].map((n) => field.queue.add(`later-${n}`, {}, { delay: 600_000 })));
    await field.queue.promoteJobs();
    for (const job of all) await field.state(job.id, 'completed');
  }));

  test('order is lifo, then first in first out, then priorities from 1 up', on(async (field) => {
    const worker = await field.worker();
    const first = await field.queue.add('holds the slot', { sleepMs: 800 });
    await field.state(first.id, 'active');
    await field.queue.add('five', {}, { priority: 5 });
    await field.queue.add('two', {}, { priority: 2 });
    const raised = await field.queue.add('raised', {}, { priority: 9 });
    await field.queue.add('a', {});
    await field.queue.add('b', {});
    await field.queue.add('last in', {}, { lifo: true });
    await raised.changePriority({ priority: 1 });
    await field.completed(7);
    assert.deepEqual(await field.order(), ['holds the slot', 'last in', 'a', 'b', 'raised', 'two', 'five']);
    assert.equal(worker.exitCode, null);
  }));

  test('an id of its own is taken once; deduplication collapses; the last one of those that came runs afterwards', on(async (field) => {
    await field.worker();
    const first = await field.queue.add('named', { n: 1 }, { jobId: 'named' });
    await field.state(first.id, 'completed');
    await field.queue.add('named', { n: 2 }, { jobId: 'named' });
    assert.equal((await field.queue.getJob('named')).data.n, 1);
    assert.ok((await field.story('named')).includes('duplicated'));

    const deduplication = { id: 'session-7', keepLastIfActive: true };
    const active = await field.queue.add('recalculate', { sleepMs: 700, n: 0 }, { deduplication });
    await field.state(active.id, 'active');
    for (const n of [1, 2, 3]) await field.queue.add('recalculate', { n }, { deduplication });
    await field.completed(3);
    const runs = (await field.queue.getJobs(['completed'])).filter(({ name }) => name === 'recalculate');
    assert.deepEqual(runs.map(({ data }) => data.n).sort(), [0, 3]);

    const holder = await field.queue.add('holds the slot', { sleepMs: 700 });
    await field.state(holder.id, 'active');
    const kept = await field.queue.add('recalculate', { n: 10 }, { deduplication });
    const refused = await field.queue.add('recalculate', { n: 11 }, { deduplication });
    assert.equal(refused.id, kept.id);
    await field.completed(5);
    const again = await field.queue.add('recalculate', { n: 12 }, { deduplication });
    await field.state(again.id, 'completed');
  }));

  test('attempts and backoff', on(async (field) => {
    await field.worker({ slots: 2 });
    const late = await field.queue.add('late', { fail: 'not yet', failTimes: 2 }, { attempts: 4, backoff: 100 });
    await field.state(late.id, 'completed');
    assert.deepEqual(await field.story(late.id), ['added', 'waiting', 'active<waiting', 'delayed', 'waiting<delayed',
      'active<waiting', 'delayed', 'waiting<delayed', 'active<waiting', 'completed<active']);
    const told = await field.queue.getJob(late.id);
    assert.deepEqual([told.attemptsMade, told.attemptsStarted], [3, 3]);
    const once = await field.queue.add('at once', { fail: 'no' }, { attempts: 2 });
    await field.state(once.id, 'failed');
    assert.deepEqual(await field.story(once.id), ['added', 'waiting', 'active<waiting', 'waiting<active', 'active<waiting',
      'failed<active', 'retries-exhausted']);
    assert.equal((await field.queue.getJob(once.id)).stacktrace.length >= 1, true);
  }));

  test('jobs are kept as they ask, and their end is told all the same', on(async (field) => {
    await field.worker();
    const gone = await field.queue.add('gone', {}, { removeOnComplete: true });
    await eventually('its end is told', async () => (await field.story(gone.id)).includes('completed<active'));
    assert.equal(await field.queue.getJob(gone.id), undefined);
    const lost = await field.queue.add('lost', { giveUp: 'no' }, { removeOnFail: true });
    await eventually('its end is told', async () => (await field.story(lost.id)).includes('failed<active'));
    assert.equal(await field.queue.getJob(lost.id), undefined);
    for (let n = 0; n < 6; n += 1) await field.queue.add(`kept-${n}`, {}, { removeOnComplete: 2 });
    await eventually('all have run', async () => (await field.announced()).filter(({ event }) => event === 'completed').length === 7);
    assert.deepEqual((await field.queue.getJobs(['completed'])).map(({ name }) => name).sort(), ['kept-4', 'kept-5']);
    const forever = await field.queue.add('forever', {}, { removeOnComplete: false });
    await field.state(forever.id, 'completed');
    await field.queue.add('old', {}, { removeOnComplete: { age: 3600 } });
    await field.completed(4);
  }));

  test('retry, of failed and of completed jobs, one and all', on(async (field) => {
    await field.worker({ slots: 3 });
    const failed = await field.queue.add('heals', { fail: 'once', failTimes: 1 });
    await field.state(failed.id, 'failed');
    await (await field.queue.getJob(failed.id)).retry();
    await field.state(failed.id, 'completed');
    assert.ok((await field.story(failed.id)).includes('waiting<failed'));
    assert.equal((await field.queue.getJob(failed.id)).attemptsMade, 2);
    await (await field.queue.getJob(failed.id)).retry('completed');
    await eventually('it ran a third time', async () => (await field.queue.getJob(failed.id)).attemptsMade === 3);
    assert.ok((await field.story(failed.id)).includes('waiting<completed'));
    const many = await field.queue.addBulk([1, 2, 3].map((n) => ({ name: `m${n}`, data: { fail: 'once', failTimes: 1 } })));
    for (const job of many) await field.state(job.id, 'failed');
    await field.queue.retryJobs();
    for (const job of many) await field.state(job.id, 'completed');
  }));

  test('the next run sees changed data', on(async (field) => {
    const waiting = await field.queue.add('waiting', { result: 'old' });
    await waiting.updateData({ result: 'new' });
    await field.worker();
    await field.state(waiting.id, 'completed');
    assert.equal((await field.queue.getJob(waiting.id)).returnvalue, 'new');
    const failed = await field.queue.add('failed', { giveUp: 'wrong' });
    await field.state(failed.id, 'failed');
    const job = await field.queue.getJob(failed.id);
    await job.updateData({ result: 'mended' });
    await job.retry();
    await field.state(failed.id, 'completed');
    assert.equal((await field.queue.getJob(failed.id)).returnvalue, 'mended');
  }));

  test('nothing starts while paused, and all held jobs start after it', on(async (field) => {
    await field.worker({ slots: 2 });
    const running = await field.queue.add('running', { sleepMs: 500 });
    await field.state(running.id, 'active');
    await field.queue.pause();
    assert.ok(await field.queue.isPaused());
    await field.queue.addBulk(Array.from({ length: 20 }, (_, n) => ({ name: `held-${n}`, data: {} })));
    await field.state(running.id, 'completed');
    await sleep(1500);
    assert.equal((await field.counts()).completed, 1, 'a running job ends, no other starts');
    await field.queue.resume();
    assert.ok(!(await field.queue.isPaused()));
    const resumed = Date.now();
    await field.completed(21);
    const started = (await field.queue.getJobs(['completed'])).map(({ processedOn }) => processedOn - resumed);
    assert.ok(Math.max(...started) < 1500, `the last one started ${Math.max(...started)} ms after resume`);
  }));

  test('waiting jobs that are removed, cleaned or drained never run', on(async (field) => {
    await field.worker();
    const holder = await field.queue.add('holds the slot', { sleepMs: 1200 });
    await field.state(holder.id, 'active');
    const removed = await field.queue.add('removed', {});
    const cleaned = await field.queue.addBulk([1, 2, 3].map((n) => ({ name: `cleaned-${n}`, data: {} })));
    await removed.remove();
    assert.equal((await field.queue.clean(0, 100, 'wait')).length, cleaned.length);
    await field.queue.addBulk([1, 2, 3].map((n) => ({ name: `drained-${n}`, data: {} })));
    await field.queue.drain();
    const last = await field.queue.add('last', {});
    await field.state(last.id, 'completed');
    assert.deepEqual(await field.order(), ['holds the slot', 'last']);
    await eventually('no ticket is left', async () => (await field.redis.xpending(field.key('x:stream'), 'workers'))[0] === 0);
  }));

  test('a running job cannot be removed', on(async (field) => {
    await field.worker();
    const job = await field.queue.add('running', { sleepMs: 600 });
    await field.state(job.id, 'active');
    await assert.rejects(job.remove(), /locked|could not be removed/i);
    await field.state(job.id, 'completed');
    await (await field.queue.getJob(job.id)).remove();
    assert.equal(await field.queue.getJob(job.id), undefined);
  }));

  test('after obliterate the worker goes on', on(async (field) => {
    await field.worker({ slots: 2 });
    await field.queue.addBulk([1, 2, 3].map((n) => ({ name: `gone-${n}`, data: {} })));
    await field.completed(3);
    await field.queue.pause();
    await field.queue.addBulk([1, 2, 3].map((n) => ({ name: `held-${n}`, data: {} })));
    await field.queue.obliterate();
    assert.deepEqual(Object.values(await field.counts()).reduce((sum, n) => sum + n, 0), 0);
    await field.queue.resume();
    const later = await field.queue.add('later', { result: 1 });
    await field.state(later.id, 'completed');
  }));

  test('all workers together obey the global concurrency and the global rate limit', on(async (field) => {
    await field.queue.setGlobalConcurrency(2);
    await field.worker({ slots: 4 });
    await field.worker({ slots: 4 });
    await field.queue.addBulk(Array.from({ length: 12 }, (_, n) => ({ name: `c-${n}`, data: { sleepMs: 60 } })));
    let most = 0;
    await eventually('all are done', async () => {
      const { active, completed } = await field.counts();
      most = Math.max(most, active);
      return completed === 12;
    });
    assert.ok(most <= 2, `${most} at once`);
    await field.queue.removeGlobalConcurrency();
    await field.queue.setGlobalRateLimit(4, 1000);
    await field.queue.addBulk(Array.from({ length: 12 }, (_, n) => ({ name: `r-${n}`, data: {} })));
    await field.completed(24);
    const limited = (await field.queue.getJobs(['completed'])).filter(({ name }) => name.startsWith('r-'));
    const starts = limited.map(({ processedOn }) => processedOn).sort((a, b) => a - b);
    assert.ok(starts[11] - starts[0] >= 1900, `12 jobs at 4 a second started within ${starts[11] - starts[0]} ms`);
  }));

  test('getWorkers tells of one entry for each worker process', on(async (field) => {
    assert.equal((await field.queue.getWorkers()).length, 0);
    await field.worker({ slots: 3 });
    await field.worker({ slots: 1 });
    assert.equal((await field.queue.getWorkers()).length, 2);
    assert.equal(await field.queue.getWorkersCount(), 2);
  }));

  test('the job of a killed worker is stalled and runs again; the second time it fails', on(async (field) => {
    const events = await field.events();
    const stalled = [];
    events.on('stalled', ({ jobId }) => stalled.push(jobId));
    const job = await field.queue.add('long', { sleepMs: 4000, result: 'done after all' });
    const doomed = await field.queue.add('doomed', { sleepMs: 60_000 }, { lifo: false });
    const first = await field.worker({ slots: 2, leaseMs: 900 });
    await field.state(doomed.id, 'active');
    await field.kill(first);
    const second = await field.worker({ slots: 2, leaseMs: 900 });
    await eventually('both run again', async () => {
      const [a, b] = await Promise.all([field.queue.getJob(job.id), field.queue.getJob(doomed.id)]);
      return a.attemptsStarted === 2 && b.attemptsStarted === 2;
    });
    await field.state(job.id, 'completed');
    const told = await field.queue.getJob(job.id);
    assert.deepEqual([told.returnvalue, told.stalledCounter, told.attemptsMade], ['done after all', 1, 1]);
    await field.kill(second);
    await field.worker({ leaseMs: 900 });
    await field.state(doomed.id, 'failed');
    assert.equal((await field.queue.getJob(doomed.id)).failedReason, 'job stalled more than allowable limit');
    assert.deepEqual([...stalled].sort(), [job.id, doomed.id, doomed.id].sort());
  }));

  test('tickets read by a consumer that dies before it takes lose no job and run none twice', on(async (field) => {
    await field.worker({ slots: 2, leaseMs: 900 });
    for (let round = 0; round < 10; round += 1) {
      await field.queue.addBulk([1, 2, 3].map((n) => ({ name: `${round}-${n}`, data: {} })));
      await field.redis.xadd(field.key('x:stream'), '*', 'jobId', 'nobody');
      await field.redis.xreadgroup('GROUP', 'workers', 'dead', 'COUNT', 5, 'STREAMS', field.key('x:stream'), '>');
    }
    await field.completed(30);
    assert.equal(new Set(await field.order()).size, 30);
    assert.equal((await field.order()).length, 30);
    await eventually('the tickets of the dead are gone', async () => (await field.redis.xpending(field.key('x:stream'), 'workers'))[0] === 0);
  }));

  test('stray entries and a deleted stream or group do no harm', on(async (field) => {
    await field.worker({ slots: 2, leaseMs: 900 });
    for (let n = 0; n < 20; n += 1) await field.redis.xadd(field.key('x:stream'), '*', 'jobId', `stray-${n}`);
    const first = await field.queue.add('first', {});
    await field.state(first.id, 'completed');
    await field.redis.xgroup('DESTROY', field.key('x:stream'), 'workers');
    const second = await field.queue.add('second', {});
    await field.state(second.id, 'completed');
    await field.redis.del(field.key('x:stream'));
    const third = await field.queue.add('third', {});
    await field.state(third.id, 'completed');
    assert.equal((await field.counts()).completed, 3);
  }));

  test('a BullMQ worker on the same queue shares the work', on(async (field) => {
    await field.worker({ slots: 1 });
    // Only one of us hears the doorbell; the other looks by itself, here every second.
    const theirs = new Worker(field.name, async (job) => {
      await sleep(job.data.sleepMs);
      return { done: job.name, by: 'bullmq' };
    }, { connection, stalledInterval: 1000, drainDelay: 1 });
    try {
      await theirs.waitUntilReady();
      await field.queue.addBulk(Array.from({ length: 40 }, (_, n) => ({ name: `s-${n}`, data: { sleepMs: 80 } })));
      await field.completed(40);
      const jobs = await field.queue.getJobs(['completed']);
      const foreign = jobs.filter(({ returnvalue }) => returnvalue.by === 'bullmq').length;
      assert.ok(foreign > 0 && foreign < 40, `theirs ran ${foreign} of 40`);
      assert.ok(jobs.every(({ attemptsStarted }) => attemptsStarted === 1), 'none ran twice');
    } finally {
      await theirs.close();
    }
  }));
});
