// An unmodified @supabase/supabase-js signs in, stays signed in, and hears changes of its own organization.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { admins, call, client, employee, fix, signedIn, sleep, until } from './support.mjs';

let ours, theirs, asha, stranger;
const opened = [];

before(async () => {
  [ours, theirs] = await Promise.all(admins.map((email) => signedIn(email)));
  [asha, stranger] = [await employee(ours, 'Asha'), await employee(theirs, 'Stranger')];
  opened.push(ours, theirs, asha, stranger);
});

after(() => Promise.all(opened.map((one) => one.realtime.disconnect())));

/** Follows tables; answers what is heard, once the subscription stands. */
async function following(person, wanted, name = 'board') {
  const heard = [];
  const states = [];
  let channel = person.channel(name);
  for (const filter of wanted) {
    channel = channel.on('postgres_changes', { event: '*', schema: 'public', ...filter }, (change) => heard.push(change));
  }
  const system = [];
  channel.on('system', {}, (message) => system.push(message));
  channel.subscribe((state, error) => states.push([state, error?.message]));
  await until('the subscription stands', () => states.some(([state]) => state === 'SUBSCRIBED') && system.length > 0);
  assert.deepEqual(states, [['SUBSCRIBED', undefined]]);
  assert.deepEqual([system[0].status, system[0].message], ['ok', 'Subscribed to PostgreSQL']);
  return { channel, heard, states };
}

const everything = [{ table: 'attendance_sessions' }, { table: 'gps_locations' }, { table: 'expenses' }];
const claim = (person, amount) => call(person, 'POST', '/expenses', { amount, description: 'Fuel for the van' });

test('an administrator hears sessions, fixes and claims of their organization and of no other', async () => {
  const { channel, heard } = await following(ours, everything);
  const other = await following(theirs, everything);

  const theirSession = await call(stranger, 'POST', '/attendance/check-in', {});
  const theirClaim = await claim(stranger, 7);
  const session = await call(asha, 'POST', '/attendance/check-in', {});
  await until('the check-in is heard', () => heard.length === 1);
  assert.deepEqual(heard[0].new, session);
  assert.deepEqual([heard[0].schema, heard[0].table, heard[0].eventType, heard[0].errors], ['public', 'attendance_sessions', 'INSERT', null]);
  assert.deepEqual(heard[0].old, {});
  assert.ok(Math.abs(Date.parse(heard[0].commit_timestamp) - Date.now()) < 60_000);

  // Somebody watches, so where people are is told; at most once a second.
  await until('a fix is heard', async () => {
    await call(stranger, 'POST', '/locations', fix(theirSession.id));
    await call(asha, 'POST', '/locations', fix(session.id));
    await sleep(200);
    return heard.some((change) => change.table === 'gps_locations');
  });
  const place = heard.find((change) => change.table === 'gps_locations');
  assert.equal(place.eventType, 'INSERT');
  assert.deepEqual(
    [place.new.session_id, place.new.employee_id, place.new.latitude, place.new.longitude, place.new.is_duplicate],
    [session.id, asha.employee, 45.5, 13.25, false],
  );

  const claimed = await claim(asha, 12.75);
  const claims = () => heard.filter((change) => change.table === 'expenses');
  await until('the claim is heard', () => claims().length === 1);
  assert.deepEqual([claims()[0].eventType, claims()[0].new.id, claims()[0].new.amount], ['INSERT', claimed.id, 12.75]);
  await call(ours, 'PATCH', `/admin/expenses/${claimed.id}`, { status: 'APPROVED' });
  await until('the review is heard', () => claims().length === 2);
  assert.deepEqual([claims()[1].eventType, claims()[1].new.status, claims()[1].old], ['UPDATE', 'APPROVED', { id: claimed.id }]);
  await call(asha, 'POST', '/attendance/check-out', {});
  await call(stranger, 'POST', '/attendance/check-out', {});
  await until('the check-outs are heard', () =>
    [heard, other.heard].every((all) => all.some((change) => change.table === 'attendance_sessions' && change.eventType === 'UPDATE' && change.new.checkout_at)));

  assert.deepEqual([...new Set(heard.map((change) => change.new.organization_id))], [session.organization_id]);
  assert.deepEqual([...new Set(other.heard.map((change) => change.new.organization_id))], [theirSession.organization_id]);
  assert.ok(other.heard.some((change) => change.new.id === theirClaim.id));
  assert.equal(await ours.removeChannel(channel), 'ok');
  assert.equal(await theirs.removeChannel(other.channel), 'ok');
});

test('filters choose rows, and every client hears what it asked for', async () => {
  const ravi = await employee(ours, 'Ravi');
  opened.push(ravi);
  const { channel, heard } = await following(ours, [{ table: 'expenses', filter: `employee_id=eq.${asha.employee}` }]);
  const second = await following(ours, [{ table: 'expenses', filter: 'amount=gt.100,status=in.(PENDING,APPROVED)', event: 'INSERT' }], 'large');
  const own = await following(ravi, everything);
  const [small, , large] = [await claim(asha, 5), await claim(ravi, 6), await claim(ravi, 500)];
  await until('the claims are heard', () => own.heard.length === 2 && second.heard.length === 1 && heard.length === 1);
  assert.equal(heard[0].new.id, small.id);
  assert.equal(second.heard[0].new.id, large.id);
  // An employee hears of their own rows, whatever others do.
  assert.deepEqual([...new Set(own.heard.map((change) => change.new.employee_id))], [ravi.employee]);
  for (const [person, one] of [[ours, channel], [ours, second.channel], [ravi, own.channel]]) assert.equal(await person.removeChannel(one), 'ok');
});

test('the subscription outlives a new token', async () => {
  const { channel, heard, states } = await following(ours, everything);
  const events = [];
  const { data } = ours.auth.onAuthStateChange((event) => events.push(event));
  const before = (await ours.auth.getSession()).data.session;
  const renewed = await ours.auth.refreshSession();
  assert.equal(renewed.error, null);
  assert.notEqual(renewed.data.session.refresh_token, before.refresh_token);
  await until('the client knows', () => events.includes('TOKEN_REFRESHED'));
  const claimed = await claim(asha, 3);
  await until('the claim is heard', () => heard.some((change) => change.new.id === claimed.id));
  assert.deepEqual([channel.state, states.length], ['joined', 1]);
  data.subscription.unsubscribe();
  assert.equal(await ours.removeChannel(channel), 'ok');
});

test('the older way of writing is understood, too', async () => {
  const old = await signedIn(admins[0], { vsn: '1.0.0' });
  opened.push(old);
  const { channel, heard } = await following(old, [{ table: 'expenses' }]);
  const claimed = await claim(asha, 4);
  await until('the claim is heard', () => heard.length === 1);
  assert.equal(heard[0].new.id, claimed.id);
  assert.equal(await old.removeChannel(channel), 'ok');
});

test('a heartbeat is answered', async () => {
  const beats = [];
  const person = await signedIn(admins[0], { heartbeatIntervalMs: 200, heartbeatCallback: (status) => beats.push(status) });
  opened.push(person);
  const { channel } = await following(person, everything);
  await until('two heartbeats are answered', () => beats.filter((status) => status === 'ok').length >= 2);
  assert.ok(!beats.includes('timeout') && !beats.includes('error'), beats.join(' '));
  assert.equal(await person.removeChannel(channel), 'ok');
});

test('nobody who is signed out, and no other table, is followed', async () => {
  for (const [person, table, why] of [
    [client(), 'expenses', /Missing or malformed/],
    [ours, 'user_credentials', /cannot be followed/],
  ]) {
    opened.push(person);
    const states = [];
    const channel = person.channel(`refused-${table}`)
      .on('postgres_changes', { event: '*', schema: 'public', table }, () => assert.fail('told'))
      .subscribe((state, error) => states.push([state, error?.message]));
    await until('it is refused', () => states.length > 0);
    assert.equal(states[0][0], 'CHANNEL_ERROR');
    assert.match(states[0][1], why);
    await person.removeChannel(channel);
  }
});

test('who signs out hears nothing more', async () => {
  const person = await signedIn(admins[0]);
  opened.push(person);
  const { heard, states } = await following(person, everything);
  const { error } = await person.auth.signOut({ scope: 'local' });
  assert.equal(error, null);
  await until('the channel is told', () => states.some(([state]) => state === 'CHANNEL_ERROR'));
  const witness = await following(ours, everything);
  const claimed = await claim(asha, 9);
  await until('somebody else hears', () => witness.heard.some((change) => change.new.id === claimed.id));
  assert.deepEqual(heard, []);
  await person.removeAllChannels();
  assert.equal(await ours.removeChannel(witness.channel), 'ok');
});
