-- Schema version 1: the records of a store, and one function per command.
--
-- Rules that every function keeps, and that later versions keep too:
--   * it takes the advisory lock of its key first, then reads the clock, then the record: what it
--     decides on is what stands when it decides, however long it has waited. Functions that only read
--     take no lock. The lock belongs to the transaction, so a transaction-pooling proxy is no obstacle;
--     and unlike a row lock it writes nothing, so that a refusal costs no disk flush.
--   * time is microseconds of the server's clock plus an offset that only tests set; a record whose
--     deadline has passed does not exist, whether or not it was reaped.
--   * it raises no error for what a record is: an error would end the caller's transaction. `fault` says
--     what stands there instead: its kind, or minus its format when that is newer than this version reads.
--   * a key lives in `record` or in `cache`, never in both.
-- Text that callers choose is bytea: it may hold what PostgreSQL's text cannot.
-- The tables only ever gain columns with defaults, because functions of earlier versions go on using them.

CREATE TABLE anypod.record (
    key      text COLLATE "C" PRIMARY KEY,
    kind     smallint NOT NULL,   -- 1 value, 2 counter, 3 once, 4 claim, 5 document, 7 limit, 8 slots
    format   smallint NOT NULL DEFAULT 1,
    deadline bigint,                         -- NULL: for ever
    number   bigint NOT NULL DEFAULT 0,      -- value, document: version; counter, once: value;
                                             -- claim: token; slots: the last token
    attempt  integer NOT NULL DEFAULT 0,     -- claim: grants so far; once: the outcome
    ended    boolean NOT NULL DEFAULT false, -- document: a tombstone
    until    bigint,                         -- claim: end of the lease; document: absolute deadline;
                                             -- value: the largest fencing token
    mark     bytea,                          -- claim: fingerprint; once: argument
    payload  bytea,                          -- value; claim: outcome
    names    bytea[],                        -- document: fields; slots: who holds; limit: policies
    parts    bytea[],                        -- document: their values; slots: who waits
    numbers  bigint[],                       -- slots: the holders' tokens; limit: states, end to end
    untils   bigint[],                       -- slots: the ends of their leases; limit: states' lengths
    moments  bigint[]                        -- slots: until when each waiter is taken for alive
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX record_deadline ON anypod.record (deadline) WHERE deadline IS NOT NULL;

-- A crash empties an unlogged table: a cache has then simply forgotten. Its versions are never lower than
-- the clock, and a lease that is forgotten cannot be filled.
CREATE UNLOGGED TABLE anypod.cache (
    key          text COLLATE "C" PRIMARY KEY,
    format       smallint NOT NULL DEFAULT 1,
    deadline     bigint NOT NULL,
    version      bigint NOT NULL,
    schema       bytea NOT NULL,
    payload      bytea,                    -- NULL: nothing loaded yet, or invalidated
    load_seconds double precision NOT NULL DEFAULT 0,
    soft_until   bigint NOT NULL DEFAULT 0,
    hard_until   bigint NOT NULL DEFAULT 0,
    lease        bigint NOT NULL DEFAULT 0,
    lease_until  bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX cache_deadline ON anypod.cache (deadline);

-- Notifications that wait for their reader. What a crash forgets, a waiter finds by asking again.
CREATE UNLOGGED TABLE anypod.mail (
    box      text COLLATE "C" PRIMARY KEY,
    deadline bigint NOT NULL,
    waiting  integer NOT NULL
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX mail_deadline ON anypod.mail (deadline);
