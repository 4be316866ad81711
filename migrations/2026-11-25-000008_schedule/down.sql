DROP FUNCTION app.drop_partitions(date);
DROP TABLE schedule_turns;
