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


CREATE FUNCTION anypod.clock_v1(p_offset bigint) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT (date_part('epoch', clock_timestamp()) * 1000000)::bigint + p_offset
$$;

-- Lock the key for the rest of the transaction, then read the clock. `p_wait`: milliseconds, after which
-- the command fails with lock_not_available; a shorter lock_timeout of the caller's stays in force.
CREATE FUNCTION anypod.enter_v1(p_key text, p_offset bigint, p_wait integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    slot  CONSTANT bigint := hashtextextended(p_key, 7020661747);
    mine  text;
    limit_ bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(slot) THEN
        mine := current_setting('lock_timeout');
        SELECT s.setting::bigint INTO limit_ FROM pg_settings s WHERE s.name = 'lock_timeout';
        IF p_wait > 0 AND (limit_ = 0 OR limit_ > p_wait) THEN
            PERFORM set_config('lock_timeout', p_wait::text, true);
        END IF;
        PERFORM pg_advisory_xact_lock(slot);
        PERFORM set_config('lock_timeout', mine, true);
    END IF;
    RETURN (date_part('epoch', clock_timestamp()) * 1000000)::bigint + p_offset;
END
$$;

-- 6 if a cached value stands at the key.
CREATE FUNCTION anypod.cached_v1(p_key text, p_now bigint) RETURNS smallint
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM anypod.cache c WHERE c.key = p_key AND c.deadline > p_now) THEN
        RETURN 6;
    END IF;
    RETURN NULL;
END
$$;

-- For a function that holds the lock and found no record: 6 if a cached value stands at the key; else
-- what is left there of an expired record is cleared away, so that a new one begins clean.
CREATE FUNCTION anypod.vacant_v1(p_key text, p_now bigint) RETURNS smallint
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM anypod.cache c WHERE c.key = p_key AND c.deadline > p_now) THEN
        RETURN 6;
    END IF;
    DELETE FROM anypod.record r WHERE r.key = p_key;
    RETURN NULL;
END
$$;

-- The kind of what stands at the key of a cache command, if anything does.
CREATE FUNCTION anypod.recorded_v1(p_key text, p_now bigint) RETURNS smallint
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT r.kind FROM anypod.record r
        WHERE r.key = p_key AND (r.deadline IS NULL OR r.deadline > p_now)
    );
END
$$;


-- versioned values --------------------------------------------------------------------------------

CREATE FUNCTION anypod.get_v1(
    p_key text, p_offset bigint,
    OUT fault smallint, OUT version bigint, OUT payload bytea
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_   CONSTANT bigint := anypod.clock_v1(p_offset);
    kind_  smallint;
    format_ smallint;
BEGIN
    SELECT r.kind, r.format, r.number, r.payload INTO kind_, format_, version, payload
    FROM anypod.record r
    WHERE r.key = p_key AND (r.deadline IS NULL OR r.deadline > now_);
    IF NOT FOUND THEN
        fault := anypod.cached_v1(p_key, now_);
    ELSIF kind_ <> 1 OR format_ > 1 THEN
        fault := CASE WHEN format_ > 1 THEN -format_ ELSE kind_ END;
        version := NULL;
        payload := NULL;
    END IF;
END
$$;

-- `version` and `payload` are those that stand where nothing was written.
CREATE FUNCTION anypod.put_v1(
    p_key text, p_value bytea, p_ttl bigint, p_expect bigint, p_fence bigint,
    p_offset bigint, p_wait integer,
    OUT fault smallint, OUT written boolean, OUT version bigint, OUT payload bytea
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_     CONSTANT bigint := anypod.enter_v1(p_key, p_offset, p_wait);
    kind_    smallint;
    format_  smallint;
    standing bigint := 0;
    fence    bigint := 0;
BEGIN
    SELECT r.kind, r.format, r.number, coalesce(r.until, 0) INTO kind_, format_, standing, fence
    FROM anypod.record r
    WHERE r.key = p_key AND (r.deadline IS NULL OR r.deadline > now_);
    IF NOT FOUND THEN
        fault := anypod.vacant_v1(p_key, now_);
        standing := 0;
        fence := 0;
    ELSIF kind_ <> 1 OR format_ > 1 THEN
        fault := CASE WHEN format_ > 1 THEN -format_ ELSE kind_ END;
    END IF;
    IF fault IS NOT NULL THEN
        RETURN;
    END IF;
    written := (p_expect IS NULL OR p_expect = standing) AND NOT (p_fence > 0 AND p_fence < fence);
    IF NOT written THEN
        SELECT r.number, r.payload INTO version, payload
        FROM anypod.record r WHERE r.key = p_key AND kind_ IS NOT NULL;
    ELSIF p_value IS NULL THEN
        DELETE FROM anypod.record r WHERE r.key = p_key;
    ELSE
        version := greatest(standing + 1, now_);
        INSERT INTO anypod.record AS r (key, kind, deadline, number, payload, until)
        VALUES (p_key, 1, now_ + p_ttl, version, p_value, greatest(fence, p_fence))
        ON CONFLICT (key) DO UPDATE SET
            deadline = excluded.deadline, number = excluded.number,
            payload = excluded.payload, until = excluded.until;
    END IF;
END
$$;

-- Some of the values whose keys begin with p_prefix, in order. Keys are printable ASCII, so that the
-- character after it bounds the range.
CREATE FUNCTION anypod.scan_v1(
    p_prefix text, p_after text, p_limit integer, p_offset bigint,
    OUT fault smallint, OUT keys bytea[], OUT versions bigint[], OUT payloads bytea[]
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_   CONSTANT bigint := anypod.clock_v1(p_offset);
    newest smallint;
BEGIN
    SELECT array_agg(convert_to(s.key, 'UTF8')), array_agg(s.number), array_agg(s.payload),
        max(s.format)
    INTO keys, versions, payloads, newest
    FROM (
        SELECT r.key, r.number, r.payload, r.format
        FROM anypod.record r
        WHERE r.key >= p_prefix AND r.key < p_prefix || chr(127) AND r.key > p_after
            AND r.kind = 1 AND (r.deadline IS NULL OR r.deadline > now_)
        ORDER BY r.key LIMIT p_limit
    ) s;
    IF newest > 1 THEN
        fault := -newest;
    END IF;
END
$$;


-- counters ----------------------------------------------------------------------------------------

-- outcome: 0 added, 1 refused
CREATE FUNCTION anypod.add_v1(
    p_key text, p_by bigint, p_floor bigint, p_ceiling bigint, p_ttl bigint,
    p_offset bigint, p_wait integer,
    OUT fault smallint, OUT value bigint, OUT outcome integer
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_    CONSTANT bigint := anypod.enter_v1(p_key, p_offset, p_wait);
    kind_   smallint;
    format_ smallint;
BEGIN
    UPDATE anypod.record r SET number = r.number + p_by
    WHERE r.key = p_key AND r.kind = 2 AND r.format <= 1
        AND (r.deadline IS NULL OR r.deadline > now_)
        AND r.number + p_by BETWEEN p_floor AND p_ceiling
    RETURNING r.number INTO value;
    IF FOUND THEN
        outcome := 0;
        RETURN;
    END IF;
    SELECT r.kind, r.format, r.number INTO kind_, format_, value
    FROM anypod.record r
    WHERE r.key = p_key AND (r.deadline IS NULL OR r.deadline > now_);
    IF NOT FOUND THEN
        fault := anypod.vacant_v1(p_key, now_);
        value := 0;
    ELSIF kind_ <> 2 OR format_ > 1 THEN
        fault := CASE WHEN format_ > 1 THEN -format_ ELSE kind_ END;
    END IF;
    outcome := 1;
    IF fault IS NULL AND kind_ IS NULL AND p_by BETWEEN p_floor AND p_ceiling THEN
        INSERT INTO anypod.record AS r (key, kind, deadline, number)
        VALUES (p_key, 2, now_ + p_ttl, p_by)
        ON CONFLICT (key) DO UPDATE SET
            deadline = excluded.deadline, number = excluded.number;
        value := p_by;
        outcome := 0;
    END IF;
END
$$;

CREATE FUNCTION anypod.total_v1(
    p_key text, p_offset bigint, OUT fault smallint, OUT value bigint
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_    CONSTANT bigint := anypod.clock_v1(p_offset);
    kind_   smallint;
    format_ smallint;
BEGIN
    SELECT r.kind, r.format, r.number INTO kind_, format_, value
    FROM anypod.record r
    WHERE r.key = p_key AND (r.deadline IS NULL OR r.deadline > now_);
    IF NOT FOUND THEN
        fault := anypod.cached_v1(p_key, now_);
        value := 0;
    ELSIF kind_ <> 2 OR format_ > 1 THEN
        fault := CASE WHEN format_ > 1 THEN -format_ ELSE kind_ END;
    END IF;
END
$$;

-- Add under an operation id, whose reply stands at `p_place`. outcome 2: the id is another command's.
CREATE FUNCTION anypod.add_once_v1(
    p_key text, p_by bigint, p_floor bigint, p_ceiling bigint, p_ttl bigint,
    p_place text, p_argument bytea, p_once_ttl bigint,
    p_offset bigint, p_wait integer,
    OUT fault smallint, OUT value bigint, OUT outcome integer
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_     CONSTANT bigint := anypod.enter_v1(p_key, p_offset, p_wait);
    kind_    smallint;
    format_  smallint;
    argument bytea;
BEGIN
    SELECT r.kind, r.format, r.number, r.attempt, r.mark
    INTO kind_, format_, value, outcome, argument
    FROM anypod.record r
    WHERE r.key = p_place AND (r.deadline IS NULL OR r.deadline > now_);
    IF NOT FOUND THEN
        fault := anypod.vacant_v1(p_place, now_);
        IF fault IS NOT NULL THEN
            RETURN;
        END IF;
    ELSIF kind_ <> 3 OR format_ > 1 THEN
        fault := CASE WHEN format_ > 1 THEN -format_ ELSE kind_ END;
        RETURN;
    ELSIF argument = p_argument THEN
        RETURN;
    ELSE
        SELECT t.fault, t.value INTO fault, value FROM anypod.total_v1(p_key, p_offset) t;
        outcome := 2;
        RETURN;
    END IF;
    SELECT a.fault, a.value, a.outcome INTO fault, value, outcome
    FROM anypod.add_v1(p_key, p_by, p_floor, p_ceiling, p_ttl, p_offset, p_wait) a;
    IF fault IS NULL THEN
        INSERT INTO anypod.record AS r (key, kind, deadline, number, attempt, mark)
        VALUES (p_place, 3, now_ + p_once_ttl, value, outcome, p_argument)
        ON CONFLICT (key) DO UPDATE SET
            deadline = excluded.deadline, number = excluded.number,
            attempt = excluded.attempt, mark = excluded.mark;
    END IF;
END
$$;


-- claims ------------------------------------------------------------------------------------------

-- status: 0 granted, 1 in flight, 2 complete, 3 reused
CREATE FUNCTION anypod.claim_v1(
    p_key text, p_fingerprint bytea, p_lease bigint, p_ttl bigint, p_offset bigint, p_wait integer,
    OUT fault smallint, OUT status integer, OUT token bigint, OUT outcome bytea,
    OUT wait bigint, OUT attempt integer
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_        CONSTANT bigint := anypod.enter_v1(p_key, p_offset, p_wait);
    kind_       smallint;
    format_     smallint;
    fingerprint bytea;
    lease_until bigint;
BEGIN
    SELECT r.kind, r.format, r.number, r.attempt, r.until, r.mark, r.payload
    INTO kind_, format_, token, attempt, lease_until, fingerprint, outcome
    FROM anypod.record r
    WHERE r.key = p_key AND (r.deadline IS NULL OR r.deadline > now_);
    IF NOT FOUND THEN
        fault := anypod.vacant_v1(p_key, now_);
        token := 0;
        attempt := 0;
    ELSIF kind_ <> 4 OR format_ > 1 THEN
        fault := CASE WHEN format_ > 1 THEN -format_ ELSE kind_ END;
    ELSIF fingerprint <> p_fingerprint THEN
        status := 3;
        outcome := NULL;
    ELSIF outcome IS NOT NULL THEN
        status := 2;
    ELSIF lease_until > now_ THEN
        status := 1;
        wait := lease_until - now_;
    END IF;
    IF fault IS NOT NULL OR status IS NOT NULL THEN
        RETURN;
    END IF;
    status := 0;
    token := greatest(token + 1, now_);
    attempt := attempt + 1;
    lease_until := now_ + p_lease;
    INSERT INTO anypod.record AS r (key, kind, deadline, number, attempt, until, mark)
    VALUES (p_key, 4, greatest(now_ + p_ttl, lease_until), token, attempt, lease_until, p_fingerprint)
    ON CONFLICT (key) DO UPDATE SET
        deadline = excluded.deadline, number = excluded.number,
        attempt = excluded.attempt, until = excluded.until, mark = excluded.mark;
END
$$;

-- The holder's commands. `fault` is looked for only where no claim of this token is in flight.
CREATE FUNCTION anypod.unheld_v1(p_key text, p_now bigint) RETURNS smallint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    kind_   smallint;
    format_ smallint;
BEGIN
    SELECT r.kind, r.format INTO kind_, format_
    FROM anypod.record r
    WHERE r.key = p_key AND (r.deadline IS NULL OR r.deadline > p_now);
    IF NOT FOUND THEN
        RETURN anypod.cached_v1(p_key, p_now);
    ELSIF format_ > 1 THEN
        RETURN -format_;
    ELSIF kind_ <> 4 THEN
        RETURN kind_;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION anypod.renew_v1(
    p_key text, p_token bigint, p_lease bigint, p_offset bigint, p_wait integer,
    OUT fault smallint, OUT held boolean
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_   CONSTANT bigint := anypod.enter_v1(p_key, p_offset, p_wait);
    tokens bigint[];
    ends   bigint[];
    alive  bigint[];
    place  integer;
BEGIN
    UPDATE anypod.record r
    SET until = now_ + p_lease,
        deadline = CASE WHEN r.deadline IS NULL THEN NULL ELSE greatest(r.deadline, now_ + p_lease) END
    WHERE r.key = p_key AND r.kind = 4 AND r.format <= 1 AND r.number = p_token
        AND r.payload IS NULL AND (r.deadline IS NULL OR r.deadline > now_);
    held := FOUND;
    IF held THEN
        RETURN;
    END IF;
    SELECT r.numbers, r.untils, r.moments INTO tokens, ends, alive
    FROM anypod.record r
    WHERE r.key = p_key AND r.kind = 8 AND r.format <= 1
        AND (r.deadline IS NULL OR r.deadline > now_);
    IF NOT FOUND THEN
        fault := anypod.unheld_v1(p_key, now_);
        RETURN;
    END IF;
    place := array_position(tokens, p_token);
    held := place IS NOT NULL;
    IF held THEN
        ends[place] := now_ + p_lease;
        UPDATE anypod.record r
        SET untils = ends, deadline = anypod.remembered_v1(now_, ends, alive)
        WHERE r.key = p_key;
    END IF;
END
$$;

-- Held, too, if the claim was completed with this very outcome: a repeated command is no loss.
CREATE FUNCTION anypod.complete_v1(
    p_key text, p_token bigint, p_outcome bytea, p_ttl bigint, p_offset bigint, p_wait integer,
    OUT fault smallint, OUT held boolean
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_ CONSTANT bigint := anypod.enter_v1(p_key, p_offset, p_wait);
BEGIN
    UPDATE anypod.record r SET payload = p_outcome, deadline = now_ + p_ttl
    WHERE r.key = p_key AND r.kind = 4 AND r.format <= 1 AND r.number = p_token
        AND r.payload IS NULL AND (r.deadline IS NULL OR r.deadline > now_);
    held := FOUND;
    IF held THEN
        RETURN;
    END IF;
    held := EXISTS (
        SELECT 1 FROM anypod.record r
        WHERE r.key = p_key AND r.kind = 4 AND r.format <= 1 AND r.number = p_token
            AND r.payload = p_outcome AND (r.deadline IS NULL OR r.deadline > now_)
    );
    IF NOT held THEN
        fault := anypod.unheld_v1(p_key, now_);
    END IF;
END
$$;

CREATE FUNCTION anypod.abandon_v1(
    p_key text, p_token bigint, p_offset bigint, p_wait integer,
    OUT fault smallint, OUT held boolean
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_ CONSTANT bigint := anypod.enter_v1(p_key, p_offset, p_wait);
BEGIN
    DELETE FROM anypod.record r
    WHERE r.key = p_key AND r.kind = 4 AND r.format <= 1 AND r.number = p_token
        AND r.payload IS NULL AND (r.deadline IS NULL OR r.deadline > now_);
    held := FOUND;
    IF NOT held THEN
        fault := anypod.unheld_v1(p_key, now_);
    END IF;
END
$$;


-- slots -------------------------------------------------------------------------------------------

-- Until when slots are remembered: a day after the last sign of life, so that tokens keep growing.
CREATE FUNCTION anypod.remembered_v1(p_now bigint, p_ends bigint[], p_alive bigint[]) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT greatest(p_now, (SELECT max(m) FROM unnest(p_ends || p_alive) m)) + 86400000000
$$;

-- Put a notification into a mailbox; who waits for it is told when the transaction commits. One that
-- nobody takes is forgotten after a minute.
CREATE FUNCTION anypod.notify_v1(p_key text, p_waiter bytea, p_now bigint) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    box CONSTANT text := encode(sha256(convert_to(p_key || '#', 'UTF8') || p_waiter), 'hex');
BEGIN
    INSERT INTO anypod.mail AS m (box, deadline, waiting) VALUES (box, p_now + 60000000, 1)
    ON CONFLICT ON CONSTRAINT mail_pkey DO UPDATE SET
        waiting = CASE WHEN m.deadline > p_now THEN m.waiting ELSE 0 END + 1,
        deadline = excluded.deadline;
    PERFORM pg_notify('anypod_mail', box);
END
$$;

-- Take one notification out of a mailbox, if there is one.
CREATE FUNCTION anypod.take_mail_v1(
    p_box text, p_offset bigint, OUT fault smallint, OUT there boolean
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_ CONSTANT bigint := anypod.clock_v1(p_offset);
    left_ integer;
BEGIN
    -- A row that a transaction under way is adding to is passed over: its commit announces it again.
    UPDATE anypod.mail m SET waiting = m.waiting - 1
    WHERE m.ctid = (
        SELECT n.ctid FROM anypod.mail n
        WHERE n.box = p_box AND n.waiting > 0 AND n.deadline > now_ FOR UPDATE SKIP LOCKED
    )
    RETURNING m.waiting INTO left_;
    there := FOUND;
    IF left_ = 0 THEN
        DELETE FROM anypod.mail m WHERE m.box = p_box AND m.waiting = 0;
    END IF;
END
$$;

-- `remaining`: microseconds after which asking again makes sense.
CREATE FUNCTION anypod.acquire_v1(
    p_key text, p_waiter bytea, p_lease bigint, p_patience bigint, p_limit bigint,
    p_offset bigint, p_wait integer,
    OUT fault smallint, OUT token bigint, OUT "position" integer, OUT remaining bigint, OUT held integer
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_    CONSTANT bigint := anypod.enter_v1(p_key, p_offset, p_wait);
    kind_   smallint;
    format_ smallint;
    last_   bigint := 0;
    holders bytea[] := '{}';
    tokens  bigint[] := '{}';
    ends    bigint[] := '{}';
    queue   bytea[] := '{}';
    alive   bigint[] := '{}';
    place   integer;  -- how many wait before this one
    queued  boolean;
BEGIN
    SELECT r.kind, r.format, r.number, r.names, r.numbers, r.untils, r.parts, r.moments
    INTO kind_, format_, last_, holders, tokens, ends, queue, alive
    FROM anypod.record r
    WHERE r.key = p_key AND (r.deadline IS NULL OR r.deadline > now_);
    IF NOT FOUND THEN
        fault := anypod.vacant_v1(p_key, now_);
        last_ := 0;
    ELSIF kind_ <> 8 OR format_ > 1 THEN
        fault := CASE WHEN format_ > 1 THEN -format_ ELSE kind_ END;
    END IF;
    IF fault IS NOT NULL THEN
        RETURN;
    END IF;
    "position" := 0;
    remaining := 0;
    SELECT count(*), min(h.ticket) FILTER (WHERE h.who = p_waiter) INTO held, token
    FROM unnest(holders, tokens, ends) AS h(who, ticket, ends_at)
    WHERE h.ends_at > now_;
    IF token IS NOT NULL THEN
        RETURN;
    END IF;
    SELECT coalesce(array_agg(q.who ORDER BY q.rank), '{}'),
        coalesce(array_agg(q.ends_at ORDER BY q.rank), '{}')
    INTO queue, alive
    FROM unnest(queue, alive) WITH ORDINALITY AS q(who, ends_at, rank)
    WHERE q.ends_at > now_;
    place := array_position(queue, p_waiter) - 1;
    queued := place IS NOT NULL;
    place := coalesce(place, cardinality(queue));
    IF held + place < p_limit THEN
        -- Every waiter that is ahead has a free slot of its own.
        IF queued THEN
            queue := queue[:place] || queue[place + 2:];
            alive := alive[:place] || alive[place + 2:];
        END IF;
        last_ := greatest(last_ + 1, now_);
        token := last_;
        held := held + 1;
        -- A holder whose lease has run out keeps its entry only until somebody else takes its slot.
        SELECT coalesce(array_agg(h.who ORDER BY h.rank), '{}') || p_waiter,
            coalesce(array_agg(h.ticket ORDER BY h.rank), '{}') || token,
            coalesce(array_agg(h.ends_at ORDER BY h.rank), '{}') || (now_ + p_lease)
        INTO holders, tokens, ends
        FROM unnest(holders, tokens, ends) WITH ORDINALITY AS h(who, ticket, ends_at, rank)
        WHERE h.ends_at > now_;
    ELSE
        SELECT least(
            (SELECT min(e) FROM unnest(ends) e WHERE e > now_),
            (SELECT min(e) FROM unnest(alive[:place]) e)
        ) - now_ INTO remaining;
        IF p_patience <= 0 THEN
            RETURN;
        END IF;
        queue[place + 1] := p_waiter;
        alive[place + 1] := now_ + p_patience;
        "position" := place + 1;
    END IF;
    INSERT INTO anypod.record AS r
        (key, kind, deadline, number, names, numbers, untils, parts, moments)
    VALUES (p_key, 8, anypod.remembered_v1(now_, ends, alive), last_,
        coalesce(holders, '{}'), coalesce(tokens, '{}'), coalesce(ends, '{}'), queue, alive)
    ON CONFLICT (key) DO UPDATE SET
        deadline = excluded.deadline, number = excluded.number, names = excluded.names,
        numbers = excluded.numbers, untils = excluded.untils, parts = excluded.parts,
        moments = excluded.moments;
END
$$;

-- Take a holder's slot (p_token) or a waiter's place (p_waiter) away, and tell the first living waiter.
CREATE FUNCTION anypod.vacate_v1(
    p_key text, p_token bigint, p_waiter bytea, p_offset bigint, p_wait integer,
    OUT fault smallint, OUT held boolean
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_    CONSTANT bigint := anypod.enter_v1(p_key, p_offset, p_wait);
    kind_   smallint;
    format_ smallint;
    holders bytea[];
    tokens  bigint[];
    ends    bigint[];
    queue   bytea[];
    alive   bigint[];
    place   integer;
    next_   bytea;
BEGIN
    SELECT r.kind, r.format, r.names, r.numbers, r.untils, r.parts, r.moments
    INTO kind_, format_, holders, tokens, ends, queue, alive
    FROM anypod.record r
    WHERE r.key = p_key AND (r.deadline IS NULL OR r.deadline > now_);
    held := false;
    IF NOT FOUND THEN
        fault := anypod.cached_v1(p_key, now_);
        RETURN;
    ELSIF kind_ <> 8 OR format_ > 1 THEN
        fault := CASE WHEN format_ > 1 THEN -format_ ELSE kind_ END;
        RETURN;
    END IF;
    IF p_waiter IS NULL THEN
        place := array_position(tokens, p_token);
        holders := holders[:place - 1] || holders[place + 1:];
        tokens := tokens[:place - 1] || tokens[place + 1:];
        ends := ends[:place - 1] || ends[place + 1:];
    ELSE
        place := array_position(queue, p_waiter);
        queue := queue[:place - 1] || queue[place + 1:];
        alive := alive[:place - 1] || alive[place + 1:];
    END IF;
    IF place IS NULL THEN
        RETURN;
    END IF;
    held := true;
    UPDATE anypod.record r
    SET deadline = anypod.remembered_v1(now_, ends, alive), names = holders, numbers = tokens,
        untils = ends, parts = queue, moments = alive
    WHERE r.key = p_key;
    SELECT q.who INTO next_
    FROM unnest(queue, alive) WITH ORDINALITY AS q(who, ends_at, rank)
    WHERE q.ends_at > now_ ORDER BY q.rank LIMIT 1;
    IF FOUND THEN
        PERFORM anypod.notify_v1(p_key, next_, now_);
    END IF;
END
$$;


-- rate limits -------------------------------------------------------------------------------------

-- How one policy answers to a cost. p_algorithm: 0 GCRA, 1 fixed window, 2 sliding counter, 3 sliding
-- log. `reset` and `retry` are microseconds, retry -1 for never.
CREATE FUNCTION anypod.policy_v1(
    p_algorithm integer, p_limit bigint, p_period bigint, p_burst bigint,
    p_state bigint[], p_cost bigint, p_now bigint,
    OUT admitted boolean, OUT state bigint[], OUT remaining bigint, OUT reset bigint, OUT retry bigint
) LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    cost     bigint := least(p_cost, greatest(p_limit, p_burst) + 1);  -- more is refused all the same
    unit     bigint;
    capacity bigint;
    arrival  bigint;
    after    bigint;
    window_  bigint;
    count_   bigint := 0;
    before   bigint := 0;
    gone     bigint;
    estimate double precision;
    used     bigint := 0;
    free     bigint;
    size     integer := 0;
BEGIN
    retry := 0;
    IF p_algorithm = 0 THEN
        unit := (p_period + p_limit - 1) / p_limit;  -- rounded up: rounding never exceeds the limit
        capacity := p_burst * unit;
        arrival := greatest(coalesce(p_state[1], 0), p_now);
        cost := greatest(cost, -((arrival - p_now) / unit + 1));  -- less gives no more back
        after := greatest(arrival + cost * unit, p_now);
        admitted := after - p_now <= capacity OR cost <= 0;
        IF NOT admitted THEN
            retry := CASE WHEN cost > p_burst THEN -1 ELSE after - capacity - p_now END;
            after := arrival;
        END IF;
        state := ARRAY[after];
        remaining := greatest(0, capacity - (after - p_now)) / unit;
        reset := after - p_now;
        RETURN;
    END IF;

    IF p_algorithm = 3 THEN
        state := '{}';
        FOR place IN 1 .. coalesce(cardinality(p_state), 0) BY 2 LOOP
            IF p_state[place] > p_now - p_period THEN
                state[size + 1] := p_state[place];
                state[size + 2] := p_state[place + 1];
                size := size + 2;
                used := used + p_state[place + 1];
            END IF;
        END LOOP;
        admitted := used + cost <= p_limit OR cost <= 0;
        IF admitted THEN
            IF cost > 0 THEN
                state[size + 1] := p_now;
                state[size + 2] := cost;
                size := size + 2;
            END IF;
            used := used + greatest(cost, 0);
            free := -cost;
            WHILE free > 0 AND size > 0 LOOP  -- what is given back is what was taken last
                IF state[size] > free THEN
                    state[size] := state[size] - free;
                    used := used - free;
                    free := 0;
                ELSE
                    free := free - state[size];
                    used := used - state[size];
                    size := size - 2;
                END IF;
            END LOOP;
            state := state[:size];
        ELSIF cost > p_limit THEN
            retry := -1;
        ELSE
            free := p_limit - used;
            FOR place IN 1 .. size BY 2 LOOP
                free := free + state[place + 1];
                IF free >= cost THEN
                    retry := state[place] + p_period - p_now;
                    EXIT;
                END IF;
            END LOOP;
        END IF;
        remaining := greatest(0, p_limit - used);
        reset := CASE WHEN size > 0 THEN state[size - 1] + p_period - p_now ELSE 0 END;
        RETURN;
    END IF;

    window_ := greatest(p_now / p_period, coalesce(p_state[1], 0));
    IF p_state[1] = window_ THEN
        count_ := p_state[2];
    END IF;
    IF p_algorithm = 1 THEN
        admitted := count_ + cost <= p_limit OR cost <= 0;
        IF admitted THEN
            count_ := greatest(0, count_ + cost);
        ELSIF cost > p_limit THEN
            retry := -1;
        ELSE
            retry := (window_ + 1) * p_period - p_now;
        END IF;
        state := ARRAY[window_, count_];
        remaining := greatest(0, p_limit - count_);
        reset := CASE WHEN count_ <> 0 THEN (window_ + 1) * p_period - p_now ELSE 0 END;
        RETURN;
    END IF;

    IF p_state[1] = window_ THEN
        before := p_state[3];
    ELSIF p_state[1] = window_ - 1 THEN
        before := p_state[2];
    END IF;
    gone := greatest(0, p_now - window_ * p_period);
    estimate := count_::double precision
        + before::double precision * ((p_period - gone)::double precision / p_period::double precision);
    admitted := estimate + cost::double precision <= p_limit::double precision OR cost <= 0;
    IF admitted THEN
        used := greatest(0, count_ + cost);
        estimate := estimate + (used - count_)::double precision;
        count_ := used;
    ELSIF cost > p_limit THEN
        retry := -1;
    ELSIF count_ + cost <= p_limit THEN
        retry := ceil(
            p_period::double precision
            * (1 - (p_limit - count_ - cost)::double precision / before::double precision)
        )::bigint - gone;
    ELSE
        retry := p_period - gone;
        IF count_ > p_limit - cost THEN
            retry := retry + ceil(
                p_period::double precision
                * (1 - (p_limit - cost)::double precision / count_::double precision)
            )::bigint;
        END IF;
    END IF;
    IF retry <> -1 THEN
        retry := greatest(0, retry);
    END IF;
    state := ARRAY[window_, count_, before];
    remaining := greatest(0, floor(p_limit::double precision - estimate)::bigint);
    reset := CASE
        WHEN count_ <> 0 THEN 2 * p_period - gone
        WHEN before <> 0 THEN p_period - gone
        ELSE 0
    END;
END
$$;

-- All policies of a subject or none. p_names: under which name each policy's state is kept.
CREATE FUNCTION anypod.take_v1(
    p_key text, p_names bytea[], p_algorithms bigint[], p_limits bigint[], p_periods bigint[],
    p_bursts bigint[], p_cost bigint, p_offset bigint, p_wait integer,
    OUT fault smallint, OUT admitted boolean, OUT remaining bigint[], OUT resets bigint[],
    OUT retries bigint[]
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_    CONSTANT bigint := anypod.enter_v1(p_key, p_offset, p_wait);
    kind_   smallint;
    format_ smallint;
    names_  bytea[];
    states  bigint[];
    sizes   bigint[];
    state   bigint[];
    kept    bigint[] := '{}';
    lengths bigint[] := '{}';
    longest bigint := 0;
    place   integer;
    start   bigint;
    answer  record;
    pass    integer;
BEGIN
    SELECT r.kind, r.format, r.names, r.numbers, r.untils INTO kind_, format_, names_, states, sizes
    FROM anypod.record r
    WHERE r.key = p_key AND (r.deadline IS NULL OR r.deadline > now_);
    IF NOT FOUND THEN
        fault := anypod.vacant_v1(p_key, now_);
    ELSIF kind_ <> 7 OR format_ > 1 THEN
        fault := CASE WHEN format_ > 1 THEN -format_ ELSE kind_ END;
    END IF;
    IF fault IS NOT NULL THEN
        RETURN;
    END IF;
    admitted := true;
    FOR pass IN 1 .. 2 LOOP  -- a second time, with no cost, if somebody refused
        FOR index_ IN 1 .. cardinality(p_names) LOOP
            place := array_position(names_, p_names[index_]);
            state := '{}';
            IF place IS NOT NULL THEN
                start := 0;
                FOR earlier IN 1 .. place - 1 LOOP
                    start := start + sizes[earlier];
                END LOOP;
                state := states[start + 1 : start + sizes[place]];
            END IF;
            answer := anypod.policy_v1(
                p_algorithms[index_]::integer, p_limits[index_], p_periods[index_], p_bursts[index_],
                state, CASE pass WHEN 1 THEN p_cost ELSE 0 END, now_
            );
            remaining[index_] := answer.remaining;
            resets[index_] := answer.reset;
            IF pass = 1 THEN
                retries[index_] := answer.retry;
                admitted := admitted AND answer.admitted;
                kept := kept || answer.state;
                lengths[index_] := cardinality(answer.state);
                longest := greatest(longest, answer.reset);
            END IF;
        END LOOP;
        EXIT WHEN admitted;
    END LOOP;
    IF NOT admitted OR p_cost = 0 THEN
        RETURN;
    ELSIF longest > 0 THEN
        INSERT INTO anypod.record AS r (key, kind, deadline, names, numbers, untils)
        VALUES (p_key, 7, now_ + longest, p_names, kept, lengths)
        ON CONFLICT (key) DO UPDATE SET
            deadline = excluded.deadline, names = excluded.names, numbers = excluded.numbers,
            untils = excluded.untils;
    ELSE
        DELETE FROM anypod.record r WHERE r.key = p_key;
    END IF;
END
$$;


-- notifications -----------------------------------------------------------------------------------

-- p_channel: the name that listeners LISTEN to.
CREATE FUNCTION anypod.publish_v1(p_channel text, p_message bytea, OUT fault smallint)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_notify(p_channel, replace(encode(p_message, 'base64'), E'\n', ''));
END
$$;


-- documents ---------------------------------------------------------------------------------------

-- `remaining`: microseconds until the absolute deadline. Takes the lock only if it has to touch.
CREATE FUNCTION anypod.read_document_v1(
    p_key text, p_touch bigint, p_offset bigint, p_wait integer,
    OUT fault smallint, OUT version bigint, OUT remaining bigint, OUT names bytea[], OUT parts bytea[]
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_     bigint := anypod.clock_v1(p_offset);
    kind_    smallint;
    format_  smallint;
    ended_   boolean;
    deadline_ bigint;
    absolute bigint;
    touched  bigint;
    locked   boolean := false;
BEGIN
    LOOP
        SELECT r.kind, r.format, r.ended, r.deadline, r.until, r.number, r.names, r.parts
        INTO kind_, format_, ended_, deadline_, absolute, version, names, parts
        FROM anypod.record r
        WHERE r.key = p_key AND (r.deadline IS NULL OR r.deadline > now_);
        IF NOT FOUND THEN
            fault := anypod.cached_v1(p_key, now_);
            RETURN;
        ELSIF kind_ <> 5 OR format_ > 1 THEN
            fault := CASE WHEN format_ > 1 THEN -format_ ELSE kind_ END;
            version := NULL;
            RETURN;
        ELSIF ended_ THEN
            version := NULL;
            RETURN;
        END IF;
        touched := least(now_ + p_touch, absolute);
        IF p_touch IS NULL OR deadline_ IS NULL OR touched - deadline_ < p_touch / 16 THEN
            EXIT;
        ELSIF locked THEN
            UPDATE anypod.record r SET deadline = touched WHERE r.key = p_key;
            EXIT;
        END IF;
        now_ := anypod.enter_v1(p_key, p_offset, p_wait);
        locked := true;
    END LOOP;
    remaining := absolute - now_;
END
$$;

-- p_existence: 0 new, 1 existing, 2 either. outcome: 0 patched, 1 missing, 2 exists, 3 ended
CREATE FUNCTION anypod.patch_document_v1(
    p_key text, p_names bytea[], p_parts bytea[], p_drop bytea[], p_existence integer,
    p_idle bigint, p_absolute bigint, p_offset bigint, p_wait integer,
    OUT fault smallint, OUT outcome integer, OUT version bigint
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_      CONSTANT bigint := anypod.enter_v1(p_key, p_offset, p_wait);
    kind_     smallint;
    format_   smallint;
    ended_    boolean;
    deadline_ bigint;
    absolute  bigint;
    names_    bytea[];
    parts_    bytea[];
BEGIN
    SELECT r.kind, r.format, r.ended, r.deadline, r.until, r.number, r.names, r.parts
    INTO kind_, format_, ended_, deadline_, absolute, version, names_, parts_
    FROM anypod.record r
    WHERE r.key = p_key AND (r.deadline IS NULL OR r.deadline > now_);
    IF NOT FOUND THEN
        fault := anypod.vacant_v1(p_key, now_);
        version := 0;
        absolute := now_ + p_absolute;
        deadline_ := least(now_ + p_idle, absolute);
        IF p_existence = 1 THEN
            outcome := 1;
        END IF;
    ELSIF kind_ <> 5 OR format_ > 1 THEN
        fault := CASE WHEN format_ > 1 THEN -format_ ELSE kind_ END;
    ELSIF ended_ THEN
        outcome := 3;
    ELSIF p_existence = 0 THEN
        outcome := 2;
    ELSE
        absolute := least(absolute, now_ + p_absolute);
        deadline_ := least(coalesce(now_ + p_idle, deadline_), absolute);
    END IF;
    IF fault IS NOT NULL OR outcome IS NOT NULL THEN
        version := 0;
        RETURN;
    END IF;
    outcome := 0;
    version := greatest(version + 1, now_);
    SELECT array_agg(f.name), array_agg(f.part) INTO names_, parts_
    FROM (
        SELECT o.name, o.part FROM unnest(names_, parts_) AS o(name, part)
        WHERE o.name <> ALL (p_drop) AND o.name <> ALL (p_names)
        UNION ALL
        SELECT n.name, n.part FROM unnest(p_names, p_parts) AS n(name, part)
    ) f;
    INSERT INTO anypod.record AS r (key, kind, deadline, number, until, names, parts)
    VALUES (p_key, 5, deadline_, version, absolute, names_, parts_)
    ON CONFLICT (key) DO UPDATE SET
        deadline = excluded.deadline, number = excluded.number,
        until = excluded.until, names = excluded.names, parts = excluded.parts;
END
$$;

CREATE FUNCTION anypod.end_document_v1(
    p_key text, p_keep bigint, p_offset bigint, p_wait integer,
    OUT fault smallint, OUT there boolean
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_      CONSTANT bigint := anypod.enter_v1(p_key, p_offset, p_wait);
    kind_     smallint;
    format_   smallint;
    ended_    boolean;
    deadline_ bigint;
    absolute  bigint;
    version   bigint;
BEGIN
    SELECT r.kind, r.format, r.ended, r.deadline, r.until, r.number
    INTO kind_, format_, ended_, deadline_, absolute, version
    FROM anypod.record r
    WHERE r.key = p_key AND (r.deadline IS NULL OR r.deadline > now_);
    IF NOT FOUND THEN
        fault := anypod.vacant_v1(p_key, now_);
    ELSIF kind_ <> 5 OR format_ > 1 THEN
        fault := CASE WHEN format_ > 1 THEN -format_ ELSE kind_ END;
    END IF;
    IF fault IS NOT NULL THEN
        RETURN;
    END IF;
    there := NOT coalesce(ended_, true);
    -- greatest() passes over NULL, which is what an absent deadline asks for
    deadline_ := greatest(now_ + p_keep, absolute, CASE WHEN ended_ THEN deadline_ END);
    INSERT INTO anypod.record AS r (key, kind, deadline, number, until, ended)
    VALUES (p_key, 5, deadline_, greatest(coalesce(version, 0) + 1, now_), absolute, true)
    ON CONFLICT (key) DO UPDATE SET
        deadline = excluded.deadline, number = excluded.number,
        until = excluded.until, ended = true,
        names = NULL, parts = NULL;
END
$$;


-- cache -------------------------------------------------------------------------------------------

-- Times are microseconds left. Takes the lock only where it may grant the lease.
CREATE FUNCTION anypod.cache_read_v1(
    p_key text, p_schema bytea, p_lease bigint, p_early double precision,
    p_offset bigint, p_wait integer,
    OUT fault smallint, OUT version bigint, OUT payload bytea, OUT soft_left bigint,
    OUT hard_left bigint, OUT load_seconds double precision, OUT lease bigint, OUT lease_left bigint
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_        bigint := anypod.clock_v1(p_offset);
    locked      boolean := false;
    there       boolean;
    format_     smallint;
    schema_     bytea;
    deadline_   bigint;
    soft_until  bigint;
    hard_until  bigint;
    lease_      bigint;
    lease_until bigint;
BEGIN
    LOOP
        SELECT c.format, c.schema, c.deadline, c.version, c.payload, c.load_seconds,
            c.soft_until, c.hard_until, c.lease, c.lease_until
        INTO format_, schema_, deadline_, version, payload, load_seconds,
            soft_until, hard_until, lease_, lease_until
        FROM anypod.cache c
        WHERE c.key = p_key AND c.deadline > now_;
        there := FOUND;
        IF NOT there THEN
            fault := anypod.recorded_v1(p_key, now_);
        ELSIF format_ > 1 THEN
            fault := -format_;
        END IF;
        IF fault IS NOT NULL THEN
            version := NULL;
            payload := NULL;
            RETURN;
        END IF;
        IF payload IS NULL OR schema_ <> p_schema OR hard_until <= now_ THEN
            payload := NULL;
            soft_left := 0;
            hard_left := 0;
            load_seconds := 0;
        ELSE
            soft_left := soft_until - now_;
            hard_left := hard_until - now_;
        END IF;
        IF there AND lease_until > now_ THEN
            lease_left := lease_until - now_;
            RETURN;
        END IF;
        IF p_lease <= 0 OR NOT (
            payload IS NULL OR soft_left <= 0
            OR p_early * load_seconds >= soft_left::double precision / 1e6
        ) THEN
            RETURN;
        END IF;
        EXIT WHEN locked;
        now_ := anypod.enter_v1(p_key, p_offset, p_wait);
        locked := true;
    END LOOP;
    version := coalesce(version, 0);
    lease := greatest(version + 1, coalesce(lease_, 0) + 1, now_);
    lease_until := now_ + p_lease;
    deadline_ := greatest(hard_until, deadline_, lease_until);
    INSERT INTO anypod.cache AS c (key, deadline, version, schema, lease, lease_until)
    VALUES (p_key, deadline_, version, p_schema, lease, lease_until)
    ON CONFLICT (key) DO UPDATE SET
        deadline = excluded.deadline, lease = excluded.lease, lease_until = excluded.lease_until,
        -- what is past its deadline is not there: only its row is used again
        format = 1,
        version = excluded.version,
        schema = CASE WHEN there THEN c.schema ELSE excluded.schema END,
        payload = CASE WHEN there THEN c.payload END,
        load_seconds = CASE WHEN there THEN c.load_seconds ELSE 0 END,
        soft_until = CASE WHEN there THEN c.soft_until ELSE 0 END,
        hard_until = CASE WHEN there THEN c.hard_until ELSE 0 END;
END
$$;

CREATE FUNCTION anypod.cache_fill_v1(
    p_key text, p_lease bigint, p_schema bytea, p_payload bytea, p_soft bigint, p_hard bigint,
    p_load_seconds double precision, p_offset bigint, p_wait integer,
    OUT fault smallint, OUT accepted boolean, OUT version bigint
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_    CONSTANT bigint := anypod.enter_v1(p_key, p_offset, p_wait);
    format_ smallint;
    lease_  bigint;
BEGIN
    SELECT c.format, c.version, c.lease INTO format_, version, lease_
    FROM anypod.cache c
    WHERE c.key = p_key AND c.deadline > now_;
    IF NOT FOUND THEN
        fault := anypod.recorded_v1(p_key, now_);
        version := 0;
    ELSIF format_ > 1 THEN
        fault := -format_;
    END IF;
    IF fault IS NOT NULL THEN
        RETURN;
    END IF;
    accepted := p_lease IS NULL OR p_lease IS NOT DISTINCT FROM lease_;
    IF accepted THEN
        version := greatest(version + 1, coalesce(lease_, 0) + 1, now_);
        INSERT INTO anypod.cache AS c
            (key, deadline, version, schema, payload, load_seconds, soft_until, hard_until)
        VALUES (p_key, now_ + p_hard, version, p_schema, p_payload, p_load_seconds,
            now_ + p_soft, now_ + p_hard)
        ON CONFLICT (key) DO UPDATE SET
            format = 1, deadline = excluded.deadline, version = excluded.version,
            schema = excluded.schema, payload = excluded.payload,
            load_seconds = excluded.load_seconds, soft_until = excluded.soft_until,
            hard_until = excluded.hard_until, lease = 0, lease_until = 0;
    END IF;
END
$$;

CREATE FUNCTION anypod.cache_invalidate_v1(
    p_key text, p_keep bigint, p_offset bigint, p_wait integer,
    OUT fault smallint, OUT version bigint
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_    CONSTANT bigint := anypod.enter_v1(p_key, p_offset, p_wait);
    format_ smallint;
    schema_ bytea;
    lease_  bigint;
BEGIN
    SELECT c.format, c.schema, c.version, c.lease INTO format_, schema_, version, lease_
    FROM anypod.cache c
    WHERE c.key = p_key AND c.deadline > now_;
    IF NOT FOUND THEN
        fault := anypod.recorded_v1(p_key, now_);
    ELSIF format_ > 1 THEN
        fault := -format_;
    END IF;
    IF fault IS NOT NULL THEN
        RETURN;
    END IF;
    version := greatest(coalesce(version, 0) + 1, coalesce(lease_, 0) + 1, now_);
    INSERT INTO anypod.cache AS c (key, deadline, version, schema)
    VALUES (p_key, now_ + p_keep, version, coalesce(schema_, ''::bytea))
    ON CONFLICT (key) DO UPDATE SET
        format = 1, deadline = excluded.deadline, version = excluded.version,
        schema = excluded.schema, payload = NULL, load_seconds = 0, soft_until = 0,
        hard_until = 0, lease = 0, lease_until = 0;
END
$$;

CREATE FUNCTION anypod.cache_release_v1(
    p_key text, p_lease bigint, p_offset bigint, p_wait integer,
    OUT fault smallint, OUT held boolean
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_ CONSTANT bigint := anypod.enter_v1(p_key, p_offset, p_wait);
BEGIN
    UPDATE anypod.cache c SET lease = 0, lease_until = 0
    WHERE c.key = p_key AND c.format <= 1 AND c.lease = p_lease AND c.deadline > now_;
    held := FOUND;
    IF NOT held THEN
        fault := anypod.recorded_v1(p_key, now_);
        IF fault IS NULL THEN
            SELECT -c.format INTO fault FROM anypod.cache c
            WHERE c.key = p_key AND c.format > 1 AND c.deadline > now_;
        END IF;
    END IF;
END
$$;


-- garbage -----------------------------------------------------------------------------------------

-- Delete at most p_limit expired rows of each table and say how many went. Rows in use are passed over,
-- so that it never waits and replicas that reap at once divide the work.
CREATE FUNCTION anypod.reap_v1(p_limit integer, p_offset bigint, OUT fault smallint, OUT gone bigint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_   CONSTANT bigint := anypod.clock_v1(p_offset);
    more   bigint;
BEGIN
    DELETE FROM anypod.record WHERE ctid = ANY (ARRAY(
        SELECT r.ctid FROM anypod.record r WHERE r.deadline <= now_
        ORDER BY r.deadline LIMIT p_limit FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS gone = ROW_COUNT;
    DELETE FROM anypod.cache WHERE ctid = ANY (ARRAY(
        SELECT c.ctid FROM anypod.cache c WHERE c.deadline <= now_
        ORDER BY c.deadline LIMIT p_limit FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS more = ROW_COUNT;
    gone := gone + more;
    DELETE FROM anypod.mail WHERE ctid = ANY (ARRAY(
        SELECT m.ctid FROM anypod.mail m WHERE m.deadline <= now_
        ORDER BY m.deadline LIMIT p_limit FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS more = ROW_COUNT;
    gone := gone + more;
END
$$;
