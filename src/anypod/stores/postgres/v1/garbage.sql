-- What has expired.

-- Delete at most p_limit expired rows of each table and say how many went. Rows in use are passed over,
-- so that it never waits and replicas that reap at once divide the work.
CREATE FUNCTION anypod.reap_v1(p_limit integer, p_offset bigint, OUT fault smallint, OUT gone bigint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_   CONSTANT bigint := anypod.clock_v1(p_offset);
    more   bigint;
BEGIN
    DELETE FROM anypod.record WHERE ctid = ANY (ARRAY(
        SELECT r.ctid FROM anypod.record r WHERE r.deadline <= now_
        ORDER BY r.deadline LIMIT p_limit FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS gone = ROW_COUNT;
    DELETE FROM anypod.cache WHERE ctid = ANY (ARRAY(
        SELECT c.ctid FROM anypod.cache c WHERE c.deadline <= now_
        ORDER BY c.deadline LIMIT p_limit FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS more = ROW_COUNT;
    gone := gone + more;
    DELETE FROM anypod.mail WHERE ctid = ANY (ARRAY(
        SELECT m.ctid FROM anypod.mail m WHERE m.deadline <= now_
        ORDER BY m.deadline LIMIT p_limit FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS more = ROW_COUNT;
    gone := gone + more;
END
$$;
