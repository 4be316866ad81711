DROP FUNCTION app.schema_floor();
