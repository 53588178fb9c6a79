PRAGMA journal_mode = WAL;  -- a commit is one append and one fsync (https://sqlite.org/wal.html)
PRAGMA synchronous = FULL;  -- a commit survives a power cut
BEGIN IMMEDIATE;

-- Halves that wait for their other half; since when, by the clock below.
CREATE TABLE IF NOT EXISTS waiting (id TEXT PRIMARY KEY, y_true REAL, y_pred REAL, since REAL NOT NULL) WITHOUT ROWID;
-- Every id that has its row in the CSV, or had it.
CREATE TABLE IF NOT EXISTS written (id TEXT PRIMARY KEY, y_true REAL, y_pred REAL) WITHOUT ROWID;
CREATE VIEW IF NOT EXISTS known AS
    SELECT id, y_true, y_pred FROM waiting UNION ALL SELECT id, y_true, y_pred FROM written;
-- The CSV's bytes as the last transaction left it.
CREATE TABLE IF NOT EXISTS csv (only INTEGER PRIMARY KEY, length INTEGER);
INSERT OR IGNORE INTO csv (only, length) VALUES (1, 0);
-- Seconds that go on as the machine's monotonic clock does, and stand still while the machine is off.
CREATE TABLE IF NOT EXISTS clock (only INTEGER PRIMARY KEY, now REAL, monotonic REAL);
INSERT OR IGNORE INTO clock VALUES (1, strftime('%s', 'now'), 1e300);

-- What the first version kept in one table.
CREATE TABLE IF NOT EXISTS samples (id TEXT PRIMARY KEY, y_true REAL, y_pred REAL, since REAL NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO written SELECT id, y_true, y_pred FROM samples WHERE y_true IS NOT NULL AND y_pred IS NOT NULL;
INSERT OR IGNORE INTO waiting SELECT id, y_true, y_pred, since FROM samples WHERE y_true IS NULL OR y_pred IS NULL;
DROP TABLE samples;

COMMIT;
