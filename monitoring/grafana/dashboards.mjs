// The dashboards, as code: `node monitoring/grafana/dashboards.mjs` writes dashboards/*.json. A test compares.
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const api = 'job="fieldtrack-api",slot=~"$slot"';
const worker = 'job="fieldtrack-worker",slot=~"$slot"';
const quantile = (p, metric, by, filter = '') => `histogram_quantile(${p}, sum by (${by ? `le, ${by}` : 'le'}) (rate(${metric}_bucket{${filter}}[$__rate_interval])))`;
const rate = (metric, by, filter = '') => `sum by (${by}) (rate(${metric}{${filter}}[$__rate_interval]))`;

// A panel: title, unit, what it tells, queries [expression, legend], and a kind when it is no graph of time.
const boards = {
  overview: ['FieldTrack overview', {
    Service: [
      ['Availability, 30 days', 'percentunit', 'Share of requests at the edge that were neither 5xx nor given up by the client.', [['1 - sum(increase(edge_requests_total{status=~"5..|499"}[30d])) / sum(increase(edge_requests_total[30d]))', 'availability']], 'stat'],
      ['Error budget left, 30 days', 'percentunit', 'What is left of the 0.1 % that may fail in 30 days.', [['1 - (sum(increase(edge_requests_total{status=~"5..|499"}[30d])) / sum(increase(edge_requests_total[30d]))) / 0.001', 'left']], 'stat'],
      ['Burn rate', 'none', '1 uses up the budget in exactly 30 days; above 14.4 over an hour it pages.', [['service:requests_bad:ratio_rate1h / 0.001', '1 h'], ['service:requests_bad:ratio_rate6h / 0.001', '6 h']]],
      ['Requests by status', 'reqps', 'What the API answered.', [[rate('http_requests_total', 'status_code', api), '{{status_code}}']]],
      ['Latency', 's', 'From the request’s head to the answer, event streams excluded. Points are traces.', [0.5, 0.95, 0.99].map((p) => [quantile(p, 'http_request_duration_seconds', '', `${api},route!="/admin/events"`), `p${p * 100}`]), 'exemplars'],
      ['Active slot and release', 'none', 'Which slot gets the traffic, and what runs in both.', [['active_slot == 1', '{{slot}}'], ['build_info{job="fieldtrack-api"}', '{{slot}}: {{release}}']], 'stat'],
      ['Last result of deployment', 'none', '0 done, 1 refused, 2 put back, 3 a human is needed.', [['deploy_last_result', '{{result}}']], 'stat'],
    ],
    Routes: [
      ['Busiest routes', 'reqps', 'The ten with the most requests.', [[`topk(10, ${rate('http_requests_total', 'route', api)})`, '{{route}}']]],
      ['Slowest routes, p95', 's', 'The ten with the highest 95th percentile.', [[`topk(10, ${quantile(0.95, 'http_request_duration_seconds', 'route', api)})`, '{{route}}']]],
      ['Failing routes', 'reqps', 'The ten with the most 5xx.', [[`topk(10, ${rate('http_requests_total', 'route', `${api},status_code=~"5.."`)})`, '{{route}}']]],
      ['Requests in flight and given up', 'short', 'Being served now, and callers that went away.', [[`sum(http_requests_in_flight{${api}})`, 'in flight'], [`sum(rate(http_requests_aborted_total{${api}}[$__rate_interval]))`, 'given up a second']]],
    ],
    Clients: [
      ['Refused for their number', 'reqps', 'Requests beyond a budget, by route.', [[rate('security_rate_limit_hits_total', 'route', api), '{{route}}']]],
      ['Failed sign-ins', 'reqps', 'Wrong address or password, and refusals on sign-in routes.', [[`sum(rate(login_failures_total{${api}}[$__rate_interval]))`, 'failed'], [`sum(rate(security_auth_bruteforce_total{${api}}[$__rate_interval]))`, 'refused']]],
      ['API keys', 'reqps', 'Requests and errors of integrations.', [[`sum(rate(api_key_requests_total{${api}}[$__rate_interval]))`, 'requests'], [`sum(rate(api_key_errors_total{${api}}[$__rate_interval]))`, 'errors']]],
      ['Event streams', 'short', 'Open live connections.', [[`sum by (slot) (sse_connections{${api}})`, '{{slot}}']]],
    ],
    Field: [
      ['Check-ins and check-outs', 'reqps', 'People who begin and end their day.', [[rate('http_requests_total', 'route', `${api},route=~"/attendance/check-(in|out)",status_code=~"2.."`), '{{route}}']]],
      ['Points', 'cps', 'Stored, known already, refused.', [[`sum(rate(locations_inserted_total{${api}}[$__rate_interval]))`, 'stored'], [`sum(rate(locations_duplicate_total{${api}}[$__rate_interval]))`, 'known'], [rate('locations_rejected_total', 'reason', api), 'refused: {{reason}}']]],
      ['Freshness of distance', 's', 'Age of the oldest mark that is not measured yet; the objective is 60 s.', [['max(outbox_oldest_age_seconds)', 'oldest mark']]],
    ],
  }],
  workers: ['Workers', {
    Queues: [
      ['Depth', 'short', 'Jobs that wait, delayed ones included.', [['max by (queue) (queue_depth)', '{{queue}}']]],
      ['Oldest job', 's', 'How long the oldest waiting job has waited.', [['max by (queue) (queue_oldest_age_seconds)', '{{queue}}']]],
      ['Taken and not ended', 'short', 'Jobs that run, or whose worker went away.', [['max by (queue) (queue_pending)', '{{queue}}']]],
      ['Taken over', 'cps', 'Jobs taken over from workers that went away.', [[rate('queue_reclaimed_total', 'queue', worker), '{{queue}}']]],
      ['Refused because full', 'cps', 'MAX_QUEUE_DEPTH was reached.', [[rate('queue_overload_events_total', 'queue', api), '{{queue}}']]],
    ],
    Jobs: [
      ['Jobs by outcome', 'cps', 'How runs ended.', [[rate('jobs_total', 'queue, outcome', worker), '{{queue}} {{outcome}}']]],
      ['Duration, p95', 's', 'Time a job ran.', [[quantile(0.95, 'job_duration_seconds', 'queue', worker), '{{queue}}']]],
      ['Wait, p95', 's', 'From asking for a job to its start.', [[quantile(0.95, 'job_wait_seconds', 'queue', worker), '{{queue}}']]],
      ['Distance jobs', 'cps', 'Sessions measured and given up.', [[rate('distance_jobs_total', 'status', worker), '{{status}}']]],
      ['Analytics jobs', 'cps', 'Done, given up and tried again.', [[rate('analytics_jobs_total', 'status', worker), '{{status}}'], [`sum(rate(analytics_job_retries_total{${worker}}[$__rate_interval]))`, 'retried']]],
    ],
    'Dead letters and intents': [
      ['Dead letters', 'short', 'Jobs given up, waiting for somebody to look at them.', [['max by (queue) (dlq_size)', '{{queue}}']]],
      ['Retry intents', 'short', 'Jobs that could not be asked for yet, and those given up.', [['max(retry_intents_pending)', 'pending'], ['max(retry_intents_dead)', 'dead'], ['sum(rate(retry_intents_created_total[$__rate_interval]))', 'created a second']]],
      ['Read models', 's', 'Age of what dashboards show.', [['max by (table) (snapshot_age_seconds)', '{{table}}']]],
    ],
    Webhooks: [
      ['Deliveries', 'cps', 'By outcome.', [[rate('webhook_deliveries_total', 'status', ''), '{{status}}']]],
      ['Failure share', 'percentunit', 'Deliveries that failed for good.', [['sum(rate(webhook_failures_total[$__rate_interval])) / sum(rate(webhook_deliveries_total[$__rate_interval]))', 'failed']]],
      ['Retries', 'cps', 'By event.', [[rate('webhook_retries_total', 'event_type', ''), '{{event_type}}']]],
      ['Open circuits', 'short', 'Webhooks switched off after failures.', [['max(circuit_open)', 'open']]],
    ],
    Fleet: [
      ['Busy', 'percentunit', 'Jobs that run, of those that may.', [[`sum by (instance) (worker_busy{${worker}}) / sum by (instance) (worker_capacity{${worker}})`, '{{instance}}']]],
      ['Starts', 'short', 'Starts of each replica in an hour.', [[`changes(process_start_time_seconds{${worker}}[1h])`, '{{instance}}']]],
      ['Release by replica', 'none', 'What runs where.', [['build_info{job="fieldtrack-worker"}', '{{instance}} {{slot}}: {{release}}']], 'stat'],
      ['Memory', 'bytes', 'Resident memory of each replica.', [[`process_resident_memory_bytes{${worker}}`, '{{instance}}']]],
    ],
  }],
  data: ['Data', {
    PostgreSQL: [
      ['Connections', 'short', 'In use, and how many there may be.', [['sum by (datname) (pg_stat_database_numbackends)', '{{datname}}'], ['max(pg_settings_max_connections)', 'most']]],
      ['Transactions', 'cps', 'Committed and rolled back.', [['sum(rate(pg_stat_database_xact_commit[$__rate_interval]))', 'committed'], ['sum(rate(pg_stat_database_xact_rollback[$__rate_interval]))', 'rolled back']]],
      ['Locks', 'short', 'Held, by mode.', [['sum by (mode) (pg_locks_count)', '{{mode}}']]],
      ['Cache hits', 'percentunit', 'Share of blocks found in memory.', [['sum(rate(pg_stat_database_blks_hit[$__rate_interval])) / (sum(rate(pg_stat_database_blks_hit[$__rate_interval])) + sum(rate(pg_stat_database_blks_read[$__rate_interval])))', 'hits']]],
      ['Size', 'bytes', 'Of each database.', [['pg_database_size_bytes', '{{datname}}']]],
      ['WAL', 'bytes', 'Write-ahead log on disk.', [['pg_wal_size_bytes', 'size']]],
      ['Longest transaction', 's', 'Above 300 s it alerts.', [['max by (state) (pg_stat_activity_max_tx_duration)', '{{state}}']]],
    ],
    Redis: [
      ['Memory', 'bytes', 'Used, and how much may be.', [['redis_memory_used_bytes', 'used'], ['redis_memory_max_bytes', 'most']]],
      ['Commands', 'ops', 'By command, the ten most.', [['topk(10, sum by (cmd) (rate(redis_commands_total[$__rate_interval])))', '{{cmd}}']]],
      ['Time a command', 's', 'On average.', [['sum(rate(redis_commands_duration_seconds_total[$__rate_interval])) / sum(rate(redis_commands_total[$__rate_interval]))', 'mean']]],
      ['Keys', 'short', 'In each database.', [['redis_db_keys', '{{db}}']]],
      ['Persistence', 's', 'Time since the last snapshot.', [['time() - redis_rdb_last_save_timestamp_seconds', 'last save']]],
    ],
    'Pools and outbox': [
      ['Pool', 'short', 'Connections of the services, idle and used.', [[`sum by (slot, state) (db_pool_connections{${api}})`, '{{slot}} {{state}}']]],
      ['Waiting for a connection, p95', 's', 'Above 0.5 s it alerts.', [[quantile(0.95, 'db_pool_wait_seconds', '', ''), 'p95']]],
      ['Outbox', 'short', 'Sessions marked and not measured yet.', [['max(outbox_pending)', 'marks']]],
    ],
    Backups: [
      ['Age of the newest backup', 's', 'Base backups are a day apart at the most, the archive 5 minutes.', [['time() - max by (kind) (backup_last_success_timestamp_seconds)', '{{kind}}']]],
      ['Size', 'bytes', 'Of the newest of each kind.', [['max by (kind) (backup_size_bytes)', '{{kind}}']]],
      ['Last restore drill', 's', 'Time since a restore was tried and its figures were equal.', [['time() - restore_drill_last_success_timestamp_seconds', 'age']], 'stat'],
    ],
  }],
  host: ['Host and edge', {
    Host: [
      ['Processors', 'percentunit', 'Share of time that is not idle.', [['1 - avg by (instance) (rate(node_cpu_seconds_total{mode="idle"}[$__rate_interval]))', 'busy']]],
      ['Memory', 'percentunit', 'In use.', [['1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes', 'used']]],
      ['Disks', 'percentunit', 'In use.', [['1 - node_filesystem_avail_bytes{fstype!~"tmpfs|overlay|squashfs|ramfs"} / node_filesystem_size_bytes{fstype!~"tmpfs|overlay|squashfs|ramfs"}', '{{mountpoint}}']]],
      ['Network', 'Bps', 'In and out.', [['sum by (device) (rate(node_network_receive_bytes_total{device!="lo"}[$__rate_interval]))', 'in {{device}}'], ['-sum by (device) (rate(node_network_transmit_bytes_total{device!="lo"}[$__rate_interval]))', 'out {{device}}']]],
      ['Clock', 's', 'How far it is off.', [['node_timex_offset_seconds', 'offset']]],
    ],
    Containers: [
      ['Processors', 'short', 'Used by each container.', [['sum by (name) (rate(container_cpu_usage_seconds_total[$__rate_interval]))', '{{name}}']]],
      ['Memory against the limit', 'percentunit', 'At 1 the container is killed.', [['max by (name) (container_memory_working_set_bytes) / (max by (name) (container_spec_memory_limit_bytes) > 0)', '{{name}}']]],
      ['Starts', 'short', 'In an hour.', [['changes(container_start_time_seconds[1h])', '{{name}}']]],
      ['Killed for memory', 'short', 'In an hour.', [['increase(container_oom_events_total[1h])', '{{name}}']]],
    ],
    Edge: [
      ['Connections', 'short', 'Of clients to nginx.', [['nginx_connections_active', 'open'], ['nginx_connections_waiting', 'idle'], ['nginx_connections_writing', 'answering']]],
      ['Answers by status and slot', 'reqps', 'What clients were told.', [['sum by (status, slot) (rate(edge_requests_total[$__rate_interval]))', '{{slot}} {{status}}']]],
      ['Time of the slot, p95', 's', 'As nginx saw it.', [['histogram_quantile(0.95, sum by (le, slot) (rate(edge_upstream_seconds_bucket[$__rate_interval])))', '{{slot}}']]],
      ['Refused for their number', 'reqps', '429 of the edge and of the API.', [['sum(rate(edge_requests_total{status="429"}[$__rate_interval]))', '429']]],
      ['Certificate', 's', 'Time until it expires.', [['probe_ssl_earliest_cert_expiry{job="blackbox-route"} - time()', 'left']], 'stat'],
    ],
  }],
  logs: ['Logs and traces', {
    Logs: [
      ['Errors by service', 'short', 'Lines of level error.', [['sum by (service) (count_over_time({level="error",service=~"$service",env=~"$env"}[$__auto]))', '{{service}}']], 'loki'],
      ['Slow requests', 'none', 'Requests of more than half a second.', [['{service=~"$service",env=~"$env"} | json | msg="request answered" | duration_ms >= 500', '']], 'logs'],
      ['Lines of a request or trace', 'none', 'Everything that one request caused, over both services.', [['{service=~".+"} | json | request_id=~"$request_id" | trace_id=~"$trace_id"', '']], 'logs'],
    ],
    Traces: [
      ['Slow traces', 'none', 'Traces of more than half a second.', [['{resource.service.name=~"fieldtrack-.*" && duration > 500ms}', '']], 'traces'],
      ['Failed traces', 'none', 'Traces with an error.', [['{resource.service.name=~"fieldtrack-.*" && status = error}', '']], 'traces'],
      ['Who calls whom', 'none', 'Services and the way jobs take between them.', [['service map', '']], 'map'],
      ['Spans and lines that were lost', 'cps', 'Whoever reads them was slow or away.', [['sum by (job) (rate(otel_spans_dropped_total[$__rate_interval]))', 'spans {{job}}'], ['sum by (job) (rate(log_lines_dropped_total[$__rate_interval]))', 'lines {{job}}']]],
    ],
  }],
};

const kinds = { stat: 'stat', logs: 'logs', traces: 'table', map: 'nodeGraph' };
const sources = { loki: 'loki', logs: 'loki', traces: 'tempo', map: 'tempo' };

function panel([title, unit, description, queries, kind], id, x, y) {
  const uid = sources[kind] ?? 'prometheus';
  const datasource = { type: uid, uid };
  const targets = queries.map(([expr, legendFormat], place) => {
    const refId = String.fromCharCode(65 + place);
    if (kind === 'map') return { refId, datasource, queryType: 'serviceMap' };
    if (kind === 'traces') return { refId, datasource, queryType: 'traceql', query: expr, limit: 20, tableType: 'traces' };
    return { refId, datasource, expr, legendFormat, ...(kind === 'exemplars' && { exemplar: true }), ...(kind === 'stat' && { instant: true }) };
  });
  return {
    id, title, description, type: kinds[kind] ?? 'timeseries', datasource, targets,
    gridPos: { h: 8, w: 8, x, y },
    fieldConfig: { defaults: { unit, noValue: 'no data' }, overrides: [] },
    ...(kind === 'logs' && { options: { showTime: true, sortOrder: 'Descending', enableLogDetails: true } }),
  };
}

function variable(name, query) {
  return { name, label: name, type: 'query', datasource: { type: 'prometheus', uid: 'prometheus' }, query: { query, refId: name }, definition: query, includeAll: true, allValue: '.*', multi: true, current: { text: 'All', value: '$__all' }, refresh: 2 };
}

export function render() {
  const files = {};
  for (const [uid, [title, rows]] of Object.entries(boards)) {
    const panels = [];
    let y = 0;
    for (const [row, list] of Object.entries(rows)) {
      panels.push({ id: panels.length + 1, type: 'row', title: row, collapsed: false, panels: [], gridPos: { h: 1, w: 24, x: 0, y } });
      y += 1;
      list.forEach((one, place) => panels.push(panel(one, panels.length + 1, (place % 3) * 8, y + Math.floor(place / 3) * 8)));
      y += Math.ceil(list.length / 3) * 8;
    }
    const text = (name) => ({ name, label: name, type: 'textbox', query: '.*', current: { text: '.*', value: '.*' } });
    const list = [variable('env', 'label_values(up, env)'), variable('slot', 'label_values(build_info, slot)'), variable('service', 'label_values(build_info, service)')];
    if (uid === 'logs') list.push(text('request_id'), text('trace_id'));
    files[`${uid}.json`] = `${JSON.stringify({
      uid: `fieldtrack-${uid}`, title, tags: ['fieldtrack'], timezone: 'utc', schemaVersion: 39, version: 1, editable: false, refresh: '30s',
      time: { from: 'now-3h', to: 'now' }, templating: { list },
      annotations: { list: [{ name: 'Deployments', enable: true, iconColor: 'blue', datasource: { type: 'prometheus', uid: 'prometheus' }, expr: 'changes(deploy_last_timestamp_seconds{unit="api"}[1m]) > 0', titleFormat: 'Deployment', textFormat: '{{release}} on {{slot}}', step: '60s' }] },
      panels,
    }, null, 1)}\n`;
  }
  return files;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const folder = path.join(path.dirname(fileURLToPath(import.meta.url)), 'dashboards');
  for (const [name, text] of Object.entries(render())) fs.writeFileSync(path.join(folder, name), text);
}
