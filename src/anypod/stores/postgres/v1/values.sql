-- Versioned values.

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
