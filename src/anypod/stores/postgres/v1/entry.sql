-- What the other functions begin with: the clock, the lock, and what else may stand at a key.

CREATE FUNCTION anypod.clock_v1(p_offset bigint) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT (date_part('epoch', clock_timestamp()) * 1000000)::bigint + p_offset
$$;

-- Lock the key for the rest of the transaction, then read the clock. `p_wait`: milliseconds, after which
-- the command fails with lock_not_available; a shorter lock_timeout of the caller's stays in force.
CREATE FUNCTION anypod.enter_v1(p_key text, p_offset bigint, p_wait integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    slot CONSTANT bigint := hashtextextended(p_key, 7020661747);
    mine text;
    most integer;
    done boolean;
BEGIN
    IF NOT pg_try_advisory_xact_lock(slot) THEN
        -- Assignments rather than statements: this is the path of those who queue for a busy key.
        mine := current_setting('lock_timeout');
        most := CASE mine WHEN '0' THEN 0 ELSE extract(epoch FROM mine::interval) * 1000 END;
        IF most = 0 OR most > p_wait THEN
            done := set_config('lock_timeout', p_wait::text, true) IS NULL;
        END IF;
        done := pg_advisory_xact_lock(slot) IS NULL;
        done := set_config('lock_timeout', mine, true) IS NULL;
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
