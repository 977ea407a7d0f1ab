-- Claims (idempotency).

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

-- Only looks. status as above; NULL: there is no claim. `wait` 0: the lease has run out.
CREATE FUNCTION anypod.inspect_v1(
    p_key text, p_offset bigint,
    OUT fault smallint, OUT status integer, OUT token bigint, OUT outcome bytea,
    OUT wait bigint, OUT attempt integer
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_    CONSTANT bigint := anypod.clock_v1(p_offset);
    kind_   smallint;
    format_ smallint;
BEGIN
    SELECT r.kind, r.format, CASE WHEN r.payload IS NULL THEN 1 ELSE 2 END, r.number, r.payload,
        greatest(0, r.until - now_), r.attempt
    INTO kind_, format_, status, token, outcome, wait, attempt
    FROM anypod.record r
    WHERE r.key = p_key AND (r.deadline IS NULL OR r.deadline > now_);
    IF NOT FOUND THEN
        fault := anypod.cached_v1(p_key, now_);
    ELSIF kind_ <> 4 OR format_ > 1 THEN
        fault := CASE WHEN format_ > 1 THEN -format_ ELSE kind_ END;
    END IF;
END
$$;
