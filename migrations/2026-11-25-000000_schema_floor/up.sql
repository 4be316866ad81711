-- The oldest release that can still work on this database, named by the newest step it knows. A step that drops,
-- renames, tightens or rewrites what older releases use raises it by replacing this function; deployment then refuses
-- to put such a release into service.
CREATE FUNCTION app.schema_floor() RETURNS text
    LANGUAGE sql IMMUTABLE
    RETURN '20261124000001';
