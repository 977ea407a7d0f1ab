-- Schema version 2: the counters of tags. They are rows of anypod.cache that never get a value.

-- Takes the lock only where it has to write.
CREATE FUNCTION anypod.cache_version_v2(
    p_key text, p_keep bigint, p_offset bigint, p_wait integer,
    OUT fault smallint, OUT version bigint
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_      bigint := anypod.clock_v1(p_offset);
    locked    boolean := false;
    there     boolean;
    format_   smallint;
    deadline_ bigint;
    lease_    bigint;
BEGIN
    LOOP
        SELECT c.format, c.version, c.deadline, c.lease INTO format_, version, deadline_, lease_
        FROM anypod.cache c
        WHERE c.key = p_key AND c.deadline > now_;
        there := FOUND;
        IF NOT there THEN
            fault := anypod.recorded_v1(p_key, now_);
        ELSIF format_ > 1 THEN
            fault := -format_;
            version := NULL;
        END IF;
        IF fault IS NOT NULL OR version > 0 AND now_ + p_keep - deadline_ < p_keep / 16 THEN
            RETURN;
        END IF;
        EXIT WHEN locked;
        now_ := anypod.enter_v1(p_key, p_offset, p_wait);
        locked := true;
    END LOOP;
    IF coalesce(version, 0) = 0 THEN
        version := greatest(coalesce(lease_, 0) + 1, now_);
    END IF;
    IF there THEN
        UPDATE anypod.cache c SET
            version = cache_version_v2.version,
            deadline = CASE WHEN now_ + p_keep - c.deadline >= p_keep / 16
                THEN now_ + p_keep ELSE c.deadline END
        WHERE c.key = p_key;
    ELSE
        -- What is left there has expired: it begins anew.
        DELETE FROM anypod.cache c WHERE c.key = p_key;
        INSERT INTO anypod.cache (key, deadline, version, schema)
        VALUES (p_key, now_ + p_keep, version, ''::bytea);
    END IF;
END
$$;
