-- add_v1 whose reply is one number: a composite costs the server and the client a tenth of an increment.
-- Values lie within 2^61 of zero. Within that it is the new value; above, it is 2^62 + 1 + the value that
-- stays, because the addition was refused; below, -2^62 - fault.
CREATE FUNCTION anypod.add_v2(
    p_key text, p_by bigint, p_floor bigint, p_ceiling bigint, p_ttl bigint, p_window bigint,
    p_offset bigint, p_wait integer
) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    value bigint;
BEGIN
    IF pg_try_advisory_xact_lock(hashtextextended(p_key, 7020661747)) THEN
        UPDATE anypod.record r SET number = r.number + p_by
        WHERE r.key = p_key AND r.kind = 2 AND r.format <= 1
            AND (r.deadline IS NULL
                OR r.deadline > (date_part('epoch', clock_timestamp()) * 1000000)::bigint + p_offset)
            AND r.number + p_by BETWEEN p_floor AND p_ceiling
        RETURNING r.number INTO value;
        IF value IS NOT NULL THEN
            RETURN value;
        END IF;
    END IF;
    RETURN (
        SELECT CASE
            WHEN a.fault IS NOT NULL THEN -4611686018427387904 - a.fault
            WHEN a.outcome = 0 THEN a.value
            ELSE 4611686018427387905 + a.value
        END
        FROM anypod.add_v1(p_key, p_by, p_floor, p_ceiling, p_ttl, p_window, p_offset, p_wait) a
    );
END
$$;
