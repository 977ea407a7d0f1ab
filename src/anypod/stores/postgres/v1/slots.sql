-- Slots (locks, concurrency limits), and the mailboxes of those who wait for one.

-- Until when slots are remembered: a day after the last sign of life, so that tokens keep growing.
CREATE FUNCTION anypod.remembered_v1(p_now bigint, p_ends bigint[], p_alive bigint[]) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT greatest(p_now, (SELECT max(m) FROM unnest(p_ends || p_alive) m)) + 86400000000
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
