-- Which file a receipt was when it was first seen, by the mark that its store gave it: whoever holds an upload address
-- can put another file there until it expires, and that one is never shown. NULL: nobody has seen it, or its store takes
-- in one file and no other.
ALTER TABLE expenses ADD COLUMN receipt_etag text;
GRANT UPDATE (receipt_etag) ON expenses TO fieldtrack_app;
