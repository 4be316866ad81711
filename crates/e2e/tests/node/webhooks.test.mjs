// The verification library of Standard Webhooks accepts what is delivered, and nothing that was changed on the way.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, test } from 'node:test';

import { Webhook, WebhookVerificationError } from 'standardwebhooks';

import { admins, call, employee, signedIn, until } from './support.mjs';

const got = [];
const receiver = createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    got.push({ path: request.url, headers: request.headers, body: Buffer.concat(parts).toString() });
    response.writeHead(204).end();
  });
});
await new Promise((resolve) => receiver.listen(0, '127.0.0.1', resolve));
after(() => receiver.close());

test('deliveries are verified, whichever way the secret is written', async () => {
  const address = `http://127.0.0.1:${receiver.address().port}`;
  const admin = await signedIn(admins[0]);
  const asha = await employee(admin, 'Asha');
  const secrets = {
    '/encoded': ['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', {}],
    '/plain': ['a-secret-of-16-or-more', { format: 'raw' }],
  };
  for (const [path, [secret]] of Object.entries(secrets)) {
    await call(admin, 'POST', '/admin/webhooks', { url: `${address}${path}`, events: ['expense.created'], secret });
  }
  const claimed = await call(asha, 'POST', '/expenses', { amount: 12.5, description: 'Fuel, “diesel” – 40 ℓ' });
  await until('both are told', () => got.length === 2);
  for (const { path, headers, body } of got) {
    const [secret, options] = secrets[path];
    const webhook = new Webhook(secret, options);
    const event = webhook.verify(body, headers);
    assert.deepEqual([event.type, event.data.expense_id, event.data.amount], ['expense.created', claimed.id, 12.5]);
    assert.equal(event.data.description, 'Fuel, “diesel” – 40 ℓ');
    const refuses = (changed, otherHeaders, by = webhook) => assert.throws(() => by.verify(changed, otherHeaders), WebhookVerificationError);
    refuses(body.replace('12.5', '99.5'), headers);
    refuses(body, { ...headers, 'webhook-id': 'another' });
    refuses(body, { ...headers, 'webhook-timestamp': String(Number(headers['webhook-timestamp']) - 1) });
    refuses(body, headers, new Webhook('whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'));
  }
  assert.equal(new Set(got.map(({ headers }) => headers['webhook-id'])).size, 2);
});
