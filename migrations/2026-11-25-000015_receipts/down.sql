ALTER TABLE expenses DROP COLUMN receipt_etag;
