-- Rate limits of several subjects, all or nothing.

-- p_keys: the subjects (text as bytes). p_sizes: how many policies each has; the policies stand one after
-- the other. The reply is that of take_v1 for all of them.
CREATE FUNCTION anypod.take_all_v2(
    p_keys bytea[], p_sizes bigint[], p_names bytea[], p_algorithms bigint[], p_limits bigint[],
    p_periods bigint[], p_bursts bigint[], p_cost bigint, p_offset bigint, p_wait integer,
    OUT fault smallint, OUT admitted boolean, OUT remaining bigint[], OUT resets bigint[],
    OUT retries bigint[]
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    began  CONSTANT bigint := anypod.clock_v1(0);
    keys   text[];
    key_   text;
    first  integer;
    last   integer;
    answer record;
BEGIN
    SELECT array_agg(convert_from(k.key, 'UTF8') ORDER BY k.place) INTO keys
    FROM unnest(p_keys) WITH ORDINALITY AS k (key, place);
    -- In the order of the keys, so that two of these never wait for each other; all waits together end
    -- as early as the one of another command.
    FOR key_ IN SELECT k.key FROM unnest(keys) AS k (key) ORDER BY k.key LOOP
        PERFORM anypod.enter_v1(
            key_, p_offset, greatest(1, p_wait - (anypod.clock_v1(0) - began) / 1000)::integer
        );
    END LOOP;
    FOR pass IN 1 .. 2 LOOP  -- a second time, with no cost, if somebody refused
        first := 1;
        IF pass = 1 THEN
            admitted := true;
        END IF;
        remaining := '{}';
        resets := '{}';
        BEGIN  -- what the first ones gave is taken back if a later one refuses
            FOR index_ IN 1 .. cardinality(keys) LOOP
                last := first + p_sizes[index_]::integer - 1;
                answer := anypod.take_v1(
                    keys[index_], p_names[first : last], p_algorithms[first : last],
                    p_limits[first : last], p_periods[first : last], p_bursts[first : last],
                    CASE pass WHEN 1 THEN p_cost ELSE 0 END, p_offset, p_wait
                );
                IF answer.fault IS NOT NULL THEN
                    fault := answer.fault;
                    RAISE EXCEPTION USING ERRCODE = 'AP001';
                END IF;
                remaining := remaining || answer.remaining;
                resets := resets || answer.resets;
                IF pass = 1 THEN
                    admitted := admitted AND answer.admitted;
                    retries := retries || answer.retries;
                END IF;
                first := last + 1;
            END LOOP;
            IF pass = 1 AND NOT admitted THEN
                RAISE EXCEPTION USING ERRCODE = 'AP001';
            END IF;
        EXCEPTION WHEN SQLSTATE 'AP001' THEN
            NULL;
        END;
        EXIT WHEN admitted OR fault IS NOT NULL;
    END LOOP;
END
$$;
