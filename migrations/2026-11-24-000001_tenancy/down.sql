-- The roles stay: they belong to the cluster and other databases may use them.
DROP TABLE employees;
DROP TABLE users;
DROP TYPE user_role;
DROP TABLE organizations;
DROP FUNCTION app.current_organizations();
DROP SCHEMA app;
