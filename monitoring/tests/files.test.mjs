// What can be known of configuration without running it: alerts have runbook sections, dashboards are what the code makes
// and ask for metrics that exist, every query parses, every variable is explained, compose and deployment agree.
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { parser as logql } from '@grafana/lezer-logql';
import { parser as traceql } from '@grafana/lezer-traceql';
import YAML from 'yaml';
import * as environment from '../../docs/environment.mjs';
import { render } from '../grafana/dashboards.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const read = (name) => fs.readFileSync(path.join(root, name), 'utf8');
const lines = (name) => read(name).split('\n').filter((line) => line && !line.startsWith('#'));
const rules = YAML.parse(read('monitoring/prometheus/rules/alerts.yml')).groups.flatMap((group) => group.rules);
const alerts = rules.filter((rule) => rule.alert);
const boards = Object.values(render()).map((text) => JSON.parse(text));
const panels = boards.flatMap((board) => board.panels.filter((panel) => panel.type !== 'row').map((panel) => ({ board, panel })));
const targets = panels.flatMap(({ board, panel }) => panel.targets.map((target) => ({ where: `${board.title}: ${panel.title}`, target })));

test('every alert has labels, annotations and a section of the runbook', () => {
  const runbook = read('docs/RUNBOOK.md');
  for (const alert of alerts) {
    for (const label of ['severity', 'team']) assert.ok(alert.labels[label], `${alert.alert}: ${label}`);
    for (const word of ['summary', 'description']) assert.ok(alert.annotations[word], `${alert.alert}: ${word}`);
    assert.equal(alert.annotations.runbook, `docs/RUNBOOK.md#${alert.alert.toLowerCase()}`);
    const section = runbook.split(`\n## ${alert.alert}\n`)[1]?.split('\n## ')[0] ?? '';
    for (const part of ['Meaning', 'First look', 'Usual causes', 'Action', 'Roll back']) assert.ok(section.includes(`**${part}`), `${alert.alert}: ${part}`);
  }
  const names = new Set(alerts.map((alert) => alert.alert));
  for (const [, name] of runbook.matchAll(/^## (\w+)$/gm)) assert.ok(names.has(name), `the runbook knows ${name}, the rules do not`);
});

test('every alert has a case that fires and one that does not', () => {
  const cases = ['alerts', 'slow-alerts'].flatMap((name) => YAML.parse(read(`monitoring/prometheus/tests/${name}.test.yml`)).tests.map((one) => one.name));
  for (const alert of alerts) {
    assert.ok(cases.includes(`${alert.alert} fires (${alert.labels.severity})`), alert.alert);
    // It always fires; that is what it is for.
    if (alert.alert !== 'Watchdog') assert.ok(cases.includes(`${alert.alert} does not (${alert.labels.severity})`), alert.alert);
  }
});

test('the dashboards are what the code makes', () => {
  for (const [name, text] of Object.entries(render())) assert.equal(read(`monitoring/grafana/dashboards/${name}`), text, 'run node monitoring/grafana/dashboards.mjs');
});

test('every panel has a unit, a description and words for nothing', () => {
  for (const { board, panel } of panels) {
    const { unit, noValue } = panel.fieldConfig.defaults;
    assert.ok(unit && noValue && panel.description?.endsWith('.'), `${board.title}: ${panel.title}`);
  }
  assert.equal(new Set(boards.map((board) => board.uid)).size, boards.length);
});

const plain = (query) => query.replaceAll('$__rate_interval', '5m').replaceAll('$__auto', '5m').replaceAll(/\$(slot|env|service|request_id|trace_id)\b/g, '.*');

test('every PromQL query of a dashboard is one', () => {
  const exprs = targets.filter(({ target }) => target.datasource.uid === 'prometheus' && target.expr);
  assert.ok(exprs.length > 50);
  const file = path.join(fs.mkdtempSync(path.join(os.tmpdir(), 'queries-')), 'queries.yml');
  fs.writeFileSync(file, YAML.stringify({ groups: [{ name: 'dashboards', rules: exprs.map(({ target }, place) => ({ record: `query:${place}`, expr: plain(target.expr) })) }] }));
  const checked = spawnSync('promtool', ['check', 'rules', file], { encoding: 'utf8' });
  assert.equal(checked.status, 0, checked.stdout + checked.stderr);
  fs.rmSync(path.dirname(file), { recursive: true });
});

test('every LogQL and TraceQL query follows its grammar', () => {
  const wrong = (parser, query) => {
    const found = [];
    parser.parse(query).iterate({ enter: (node) => { if (node.type.isError) found.push(`${node.from}: ${query.slice(node.from, node.to + 10)}`); } });
    return found;
  };
  assert.notDeepEqual(wrong(logql, '{a="b"'), []);
  let looked = 0;
  for (const { where, target } of targets) {
    if (target.datasource.uid === 'loki') assert.deepEqual(wrong(logql, plain(target.expr)), [], where), looked += 1;
    if (target.queryType === 'traceql') assert.deepEqual(wrong(traceql, plain(target.query)), [], where), looked += 1;
  }
  const source = YAML.parse(read('monitoring/grafana/provisioning/datasources/fieldtrack.yml')).datasources.find((one) => one.uid === 'tempo');
  assert.deepEqual(wrong(logql, source.jsonData.tracesToLogsV2.query.replace('$${__trace.traceId}', 'x')), []);
  assert.ok(looked >= 5);
});

const provisioned = YAML.parse(read('monitoring/grafana/provisioning/datasources/fieldtrack.yml')).datasources;
const composed = YAML.parse(read('compose.yaml'), { merge: true, maxAliasCount: 1000 });

test('dashboards and data sources name data sources that are there', () => {
  const types = new Map(provisioned.map(({ uid, type }) => [uid, type]));
  assert.equal(types.size, provisioned.length, 'every uid is its own');
  assert.equal(provisioned.filter((one) => one.isDefault).length, 1);
  const asked = [];
  const walk = (value, where) => {
    if (Array.isArray(value)) value.forEach((one) => walk(one, where));
    else if (value && typeof value === 'object') {
      if (value.uid && value.type && Object.keys(value).length === 2) asked.push([value, where]);
      Object.entries(value).forEach(([key, one]) => (key === 'datasourceUid' ? asked.push([{ uid: one }, where]) : walk(one, where)));
    }
  };
  boards.forEach((board) => walk(board, board.title));
  walk(provisioned.map(({ jsonData }) => jsonData), 'data sources');
  assert.ok(asked.length > 100 && asked.some(([, where]) => where === 'data sources'));
  for (const [{ uid, type }, where] of asked) {
    assert.ok(types.has(uid), `${where}: ${uid}`);
    if (type) assert.equal(type, types.get(uid), where);
  }
  // Grafana finds the dashboards where compose puts them.
  const { providers } = YAML.parse(read('monitoring/grafana/provisioning/dashboards/fieldtrack.yml'));
  assert.ok(composed.services.grafana.volumes.includes(`./monitoring/grafana/dashboards:${providers[0].options.path}:ro`));
  assert.ok(composed.services.grafana.volumes.includes('./monitoring/grafana/provisioning:/etc/grafana/provisioning:ro'));
});

test('whoever is asked over the network is there and listens', () => {
  const names = new Set(Object.entries(composed.services).flatMap(([name, service]) => [name, service.container_name, ...(service.networks?.api_network?.aliases ?? [])]));
  const prometheus = YAML.parse(read('monitoring/prometheus/prometheus.yml'), { merge: true });
  const targets = [...prometheus.scrape_configs, ...prometheus.alerting.alertmanagers].flatMap((one) => (one.static_configs ?? []).flatMap((config) => config.targets));
  const relabelled = prometheus.scrape_configs.flatMap((one) => one.relabel_configs ?? []).filter((one) => one.target_label === '__address__').map((one) => one.replacement);
  const looked = prometheus.scrape_configs.flatMap((one) => (one.dns_sd_configs ?? []).flatMap((config) => config.names));
  const tempo = YAML.parse(read('monitoring/tempo/tempo.yml'));
  const urls = [...provisioned.map((one) => one.url), ...tempo.metrics_generator.storage.remote_write.map((one) => one.url), YAML.parse(read('monitoring/otel/collector.yml')).exporters['otlphttp/tempo'].endpoint, ...[...read('monitoring/alloy/config.alloy').matchAll(/url = "([^"]+)"/g)].map(([, url]) => url)];
  const hosts = [...targets, ...relabelled, ...looked, ...urls].map((one) => one.replace(/^https?:\/\//, '').replace(/[:/].*/, '')).filter((host) => host !== 'localhost' && !host.startsWith('@'));
  assert.ok(hosts.length > 15);
  for (const host of hosts) assert.ok(names.has(host), `nobody is called ${host}`);
  const port = (uid) => Number(new URL(provisioned.find((one) => one.uid === uid).url).port);
  assert.equal(port('loki'), YAML.parse(read('monitoring/loki/loki.yml')).server.http_listen_port);
  assert.equal(port('tempo'), tempo.server.http_listen_port);
  // Both ways by which spans come, and the port that TEMPO_ENDPOINT names in .env.example.
  assert.equal(tempo.distributor.receivers.otlp.protocols.http.endpoint, '0.0.0.0:4318');
  assert.match(read('.env.example'), /http:\/\/tempo:4318/);
});

test('metrics lead to traces and traces to lines by the names that the services write', () => {
  // crates/e2e looks for this name in /metrics and in the lines of both programs.
  const name = 'trace_id';
  const source = (uid) => provisioned.find((one) => one.uid === uid).jsonData;
  assert.deepEqual(source('prometheus').exemplarTraceIdDestinations, [{ name, datasourceUid: 'tempo' }]);
  assert.match(read('monitoring/prometheus/start.sh'), /--enable-feature=exemplar-storage/);
  assert.match(read('monitoring/prometheus/start.sh'), /--web.enable-remote-write-receiver/);
  assert.ok(targets.some(({ target }) => target.exemplar && target.expr.includes('http_request_duration_seconds_bucket')));

  const alloy = read('monitoring/alloy/config.alloy');
  const block = (stage) => alloy.split(`${stage} {`)[1].split('\n  }\n')[0];
  const keys = (text) => [...text.matchAll(/(\w+) = ""/g)].map(([, key]) => key);
  const fields = keys(block('stage.json'));
  const metadata = keys(block('stage.structured_metadata'));
  const labels = keys(block('stage.labels'));
  assert.deepEqual(metadata, ['request_id', name, 'organization_id']);
  assert.deepEqual(labels, ['service', 'slot', 'level', 'env'], 'more labels are more series');
  assert.deepEqual([...block('stage.label_keep').matchAll(/"(\w+)"/g)].map(([, key]) => key), labels);
  for (const key of [...metadata, ...labels, 'ts']) assert.ok(fields.includes(key), `${key} is not read from the line`);
  // Lines of the edge and of deploy.sh are read by the same names.
  for (const key of ['ts', 'level', 'service']) {
    assert.ok(read('nginx/templates/logs.conf').includes(`"${key}":`), `the edge writes no ${key}`);
    assert.ok(read('deploy/lib/records.sh').includes(`${key}: `), `deploy.sh writes no ${key}`);
  }
  assert.ok(read('nginx/templates/logs.conf').includes(`"${name}":"$${name}"`));
  const [field] = source('loki').derivedFields;
  assert.deepEqual([field.matcherType, field.matcherRegex, field.datasourceUid], ['label', name, 'tempo']);
  const back = source('tempo').tracesToLogsV2;
  assert.equal(back.datasourceUid, 'loki');
  assert.ok(back.customQuery && back.query.includes(`| ${name}="`), back.query);
  // A stage's selector needs a matcher that is never empty, or the whole configuration is refused.
  const selectors = [...alloy.matchAll(/selector = "((?:[^"\\]|\\.)*)"/g)].map(([, text]) => text.replaceAll('\\"', '"'));
  assert.equal(selectors.length, 2);
  for (const selector of selectors) {
    logql.parse(selector).iterate({ enter: (node) => assert.ok(!node.type.isError, selector) });
    assert.match(selector, /="[^"]|=~"\.\+"/, selector);
  }
});

test('dashboards of lines and traces ask for what is written', () => {
  const sources = ['crates/telemetry/src', 'services/api-gateway/src', 'services/distance-worker/src'].flatMap((folder) => fs.readdirSync(path.join(root, folder), { recursive: true }).filter((file) => file.endsWith('.rs')).map((file) => read(path.join(folder, file)))).join('\n');
  const lines = targets.filter(({ target }) => target.datasource.uid === 'loki').map(({ target }) => target.expr).join('\n');
  for (const [, text] of lines.matchAll(/msg="([^"]+)"/g)) assert.ok(sources.includes(`"${text}"`), `nobody writes ${text}`);
  for (const [, field] of lines.matchAll(/\| (\w+) ?(?:=~|>=)/g)) assert.ok(sources.includes(field), `no line has ${field}`);
  const traces = targets.filter(({ target }) => target.queryType === 'traceql').map(({ target }) => target.query);
  const services = ['api-gateway', 'distance-worker'].map((folder) => read(`services/${folder}/src/config.rs`).match(/"(fieldtrack-\w+)"/)[1]);
  for (const query of traces) {
    const pattern = query.match(/resource\.service\.name=~"([^"]+)"/)[1];
    for (const service of services) assert.match(service, new RegExp(`^(?:${pattern})$`));
  }
  assert.ok(sources.includes('"service.name"'));
});

const words = (expr) => new Set([...plain(expr).replaceAll(/"[^"]*"/g, '').replaceAll(/\b(by|on|without|ignoring)\s*\([^)]*\)/g, '').replaceAll(/\{[^}]*\}/g, '').matchAll(/[a-zA-Z_:][a-zA-Z0-9_:]*/g)].map(([word]) => word));
const language = new Set(['sum', 'rate', 'increase', 'max', 'min', 'avg', 'count', 'topk', 'histogram_quantile', 'time', 'vector', 'absent', 'changes', 'abs', 'predict_linear', 'offset', 'and', 'or', 'bool', 'm', 'h', 'd', 's']);
const metrics = (expr) => [...words(expr)].filter((word) => !language.has(word) && !/^\d/.test(word) && !/^[smhd]$/.test(word) && !word.startsWith('service:'));

test('alerts and dashboards ask only for metrics that somebody exports', () => {
  const others = new Set(lines('monitoring/exported-by-others.txt'));
  const ours = new Set(lines('monitoring/exported-by-us.txt'));
  const used = new Set([...rules.map((rule) => rule.expr), ...targets.filter(({ target }) => target.datasource.uid === 'prometheus' && target.expr).map(({ target }) => target.expr), ...boards.flatMap((board) => board.annotations.list.map((one) => one.expr))].flatMap(metrics));
  for (const name of used) {
    const base = name.replace(/_(bucket|sum|count)$/, '');
    assert.ok(others.has(name) || ours.has(name) || ours.has(base), `${name} is exported by nobody`);
  }
  for (const name of others) assert.ok(used.has(name) || used.has(`${name}_bucket`), `${name} is not used any more`);
});

test('what is said to be exported by us is registered by a service', () => {
  const sources = ['services/api-gateway/src', 'services/distance-worker/src', 'crates/telemetry/src'].flatMap((folder) => fs.readdirSync(path.join(root, folder), { recursive: true }).filter((name) => name.endsWith('.rs')).map((name) => read(path.join(folder, name)))).join('\n');
  for (const name of lines('monitoring/exported-by-us.txt')) assert.ok(sources.includes(`"${name.replace(/_total$/, '')}"`), `${name} is registered nowhere`);
});

test('alertmanager and prometheus take the configuration as it is started', () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'monitoring-'));
  const rendered = read('monitoring/alertmanager/alertmanager.yml').replaceAll(/@[A-Z_]+@/g, 'https://example.com/hook');
  fs.writeFileSync(path.join(folder, 'alertmanager.yml'), rendered);
  const checked = spawnSync('amtool', ['check-config', path.join(folder, 'alertmanager.yml')], { encoding: 'utf8' });
  assert.equal(checked.status, 0, checked.stdout + checked.stderr);
  const route = (...labels) => execFileSync('amtool', ['config', 'routes', 'test', `--config.file=${path.join(folder, 'alertmanager.yml')}`, ...labels], { encoding: 'utf8' }).trim();
  assert.equal(route('alertname=ApiDown', 'severity=critical'), 'people');
  assert.equal(route('alertname=Watchdog', 'severity=none'), 'heartbeat');
  assert.equal(route('alertname=DeployRunning', 'severity=none'), 'nobody');
  fs.rmSync(folder, { recursive: true });
});

const example = new Map(environment.explained().map(({ name, comment }) => [name, comment]));

test('every variable that a program reads is explained, and the reference is what they say', () => {
  for (const name of environment.read().keys()) assert.ok(example.has(name), `a program reads ${name}: explain it in .env.example, pass it on in compose.yaml`);
  assert.equal(read('docs/environment.md'), environment.page(), 'run node docs/environment.mjs');
});

test('the label of images is the newest migration that the gateway knows', () => {
  const gateway = path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, 'target'), 'debug/api-gateway');
  const { head } = JSON.parse(execFileSync(gateway, ['schema'], { env: {}, encoding: 'utf8' }));
  assert.equal(execFileSync(path.join(root, 'deploy/build-images.sh'), ['--schema-head'], { encoding: 'utf8' }).trim(), head);
});

test('every variable that compose, the edge and the scripts read is in .env.example, with a comment', () => {
  for (const [name, comment] of example) assert.ok(comment.length > 10, `${name} has no comment`);
  const compose = read('compose.yaml');
  for (const [, name] of compose.matchAll(/\$\{([A-Z0-9_]+)[:}]/g)) assert.ok(example.has(name), `compose.yaml reads ${name}`);
  const settings = read('deploy/lib/settings.sh');
  for (const [, name] of settings.matchAll(/^ +setting ([A-Z_]+) /gm)) assert.ok(example.has(name), `deploy.sh reads ${name}`);
  for (const [, name] of read('nginx/edge.sh').matchAll(/\$\(setting ([A-Z_]+) /g)) assert.ok(example.has(name), `edge.sh reads ${name}`);
  const passed = new Set([...compose.matchAll(/^ {2}([A-Z0-9_]+): /gm)].map(([, name]) => name));
  const kept = settings.match(/NOT_FOR_SERVICES="([^"]*)"/)[1].replaceAll('\\\n', '').split(/\s+/).filter(Boolean);
  for (const name of kept) assert.ok(!passed.has(name), `${name} is not for services, and compose passes it on`);
  const set = new Set(['PORT', 'WORKER_PORT', 'SLOT', 'GITHUB_SHA', 'SERVICE_NAME', 'ENV_FILE']);
  for (const name of example.keys()) assert.ok(passed.has(name) || kept.includes(name) || set.has(name), `${name}: a service gets it in compose.yaml, or it stands in NOT_FOR_SERVICES`);
});

test('compose runs our containers with the same bounds as deploy.sh', () => {
  const compose = YAML.parse(read('compose.yaml'), { merge: true, maxAliasCount: 1000 });
  const script = read('deploy/lib/containers.sh');
  for (const name of ['api-blue', 'api-green', 'worker-blue-1', 'worker-green-1']) {
    const service = compose.services[name];
    assert.equal(service.container_name, name);
    assert.deepEqual([service.user, service.read_only, service.pids_limit, service.restart], ['10001:10001', true, 256, 'unless-stopped']);
    assert.deepEqual([service.cap_drop, service.security_opt, service.tmpfs], [['ALL'], ['no-new-privileges'], ['/tmp:rw,noexec,nosuid,nodev,size=16m,mode=1777']]);
    assert.equal(service.mem_limit, service.memswap_limit);
    for (const port of service.ports ?? []) assert.match(port, /^127\.0\.0\.1:/);
    assert.ok(!('MIGRATION_DATABASE_URL' in service.environment));
  }
  for (const words of ['--user 10001:10001', '--read-only', "'/tmp:rw,noexec,nosuid,nodev,size=16m,mode=1777'", '--cap-drop ALL', '--security-opt no-new-privileges', '--pids-limit 256', '--restart unless-stopped']) assert.ok(script.includes(words), words);
  // Only the edge is reached from outside.
  for (const [name, service] of Object.entries(compose.services)) if (name !== 'nginx') for (const port of service.ports ?? []) assert.match(String(port), /^127\.0\.0\.1:/, name);
});

test('one name starts all of monitoring, and nobody is told to start the product with it', () => {
  const monitoring = Object.entries(composed.services).filter(([, service]) => service.profiles?.includes('monitoring')).map(([name]) => name);
  assert.ok(monitoring.length > 10);
  assert.deepEqual(new Set([...composed.services.grafana.depends_on, 'grafana']), new Set(monitoring));
  for (const file of ['compose.yaml', 'docs/deployment.md', 'docs/RUNBOOK.md']) {
    for (const [line] of read(file).matchAll(/docker compose[^`\n]*\bup\b[^`\n]*/g)) {
      // The header of compose.yaml has the one that is for trying everything out.
      if (!line.includes('--build')) assert.match(line, /\b(grafana|nginx|postgres|redis)\b/, `${file}: ${line}`);
    }
  }
});

test('actions of workflows are pinned, and every job has a time-out and says what it may do', () => {
  for (const file of fs.readdirSync(path.join(root, '.github/workflows'))) {
    const workflow = YAML.parse(read(`.github/workflows/${file}`));
    assert.ok(workflow.permissions, `${file} says what it may do`);
    for (const [name, job] of Object.entries(workflow.jobs)) {
      if (!job.uses) assert.ok(job['timeout-minutes'], `${file}: ${name} has a time-out`);
      for (const step of job.steps ?? []) if (step.uses && !step.uses.startsWith('./')) assert.match(step.uses, /@[0-9a-f]{40}$/, `${file}: ${step.uses}`);
    }
  }
});
