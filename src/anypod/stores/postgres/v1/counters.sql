-- Counters, and additions under an operation id.

-- outcome: 0 added, 1 refused. A new counter lives for p_ttl, or to the end of the current p_window.
CREATE FUNCTION anypod.add_v1(
    p_key text, p_by bigint, p_floor bigint, p_ceiling bigint, p_ttl bigint, p_window bigint,
    p_offset bigint, p_wait integer,
    OUT fault smallint, OUT value bigint, OUT outcome integer
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_    bigint;
    kind_   smallint;
    format_ smallint;
BEGIN
    -- The commonest command of all: enter_v1 is spelt out for the case that nobody is in the way.
    IF pg_try_advisory_xact_lock(hashtextextended(p_key, 7020661747)) THEN
        now_ := (date_part('epoch', clock_timestamp()) * 1000000)::bigint + p_offset;
    ELSE
        now_ := anypod.enter_v1(p_key, p_offset, p_wait);
    END IF;
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
        VALUES (p_key, 2, CASE WHEN p_window IS NULL THEN now_ + p_ttl
            ELSE now_ - now_ % p_window + p_window END, p_by)
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
    p_key text, p_by bigint, p_floor bigint, p_ceiling bigint, p_ttl bigint, p_window bigint,
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
    FROM anypod.add_v1(p_key, p_by, p_floor, p_ceiling, p_ttl, p_window, p_offset, p_wait) a;
    IF fault IS NULL THEN
        INSERT INTO anypod.record AS r (key, kind, deadline, number, attempt, mark)
        VALUES (p_place, 3, now_ + p_once_ttl, value, outcome, p_argument)
        ON CONFLICT (key) DO UPDATE SET
            deadline = excluded.deadline, number = excluded.number,
            attempt = excluded.attempt, mark = excluded.mark;
    END IF;
END
$$;
