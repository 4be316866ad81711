DROP TABLE session_summaries;
DROP TABLE attendance_sessions;
