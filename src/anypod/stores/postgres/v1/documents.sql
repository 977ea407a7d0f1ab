-- Documents (sessions).

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
