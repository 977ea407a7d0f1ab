-- Cached values.

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
