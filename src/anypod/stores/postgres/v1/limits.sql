-- Rate limits: one subject, several policies, all or nothing.

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
