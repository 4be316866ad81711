DROP FUNCTION app.record_points(uuid[], uuid[], uuid[], uuid[], timestamptz[], float8[], float8[], float8[], bigint[], timestamptz);
DROP FUNCTION app.record_batches(uuid[], uuid[], uuid[], integer[], uuid[], timestamptz[], float8[], float8[], float8[], bigint[], timestamptz);
DROP FUNCTION app.record_batch(uuid, uuid, uuid, uuid[], timestamptz[], float8[], float8[], float8[], bigint[], timestamptz);
DROP FUNCTION app.ensure_partitions(date, integer);
DROP TABLE gps_locations;
