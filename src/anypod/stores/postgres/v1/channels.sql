-- Notifications: mailboxes, whose content waits, and channels, whose messages do not.

-- p_channel: the name that listeners LISTEN to. A notification holds less than 8,000 bytes: a longer
-- message goes in parts, which arrive together because they are of one transaction.
CREATE FUNCTION anypod.publish_v1(p_channel text, p_message bytea, OUT fault smallint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    -- Equal notifications of one transaction are delivered once, so that each message has a stamp.
    stamp CONSTANT text := to_hex(anypod.clock_v1(0));
    body  CONSTANT text := replace(encode(p_message, 'base64'), E'\n', '');
    parts CONSTANT integer := greatest(1, (length(body) + 6999) / 7000);
BEGIN
    FOR part IN 1 .. parts LOOP
        PERFORM pg_notify(
            p_channel,
            stamp || '.' || part || '.' || parts || '.' || substr(body, (part - 1) * 7000 + 1, 7000)
        );
    END LOOP;
END
$$;

-- Put a notification into a mailbox; who waits for it is told when the transaction commits. One that
-- nobody takes is forgotten after a minute.
CREATE FUNCTION anypod.notify_v1(p_key text, p_waiter bytea, p_now bigint) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    box CONSTANT text := encode(sha256(convert_to(p_key || '#', 'UTF8') || p_waiter), 'hex');
BEGIN
    INSERT INTO anypod.mail AS m (box, deadline, waiting) VALUES (box, p_now + 60000000, 1)
    ON CONFLICT ON CONSTRAINT mail_pkey DO UPDATE SET
        waiting = CASE WHEN m.deadline > p_now THEN m.waiting ELSE 0 END + 1,
        deadline = excluded.deadline;
    PERFORM pg_notify('anypod_mail', box);
END
$$;

-- Take one notification out of a mailbox, if there is one.
CREATE FUNCTION anypod.take_mail_v1(
    p_box text, p_offset bigint, OUT fault smallint, OUT there boolean
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now_ CONSTANT bigint := anypod.clock_v1(p_offset);
    left_ integer;
BEGIN
    -- A row that a transaction under way is adding to is passed over: its commit announces it again.
    UPDATE anypod.mail m SET waiting = m.waiting - 1
    WHERE m.ctid = (
        SELECT n.ctid FROM anypod.mail n
        WHERE n.box = p_box AND n.waiting > 0 AND n.deadline > now_ FOR UPDATE SKIP LOCKED
    )
    RETURNING m.waiting INTO left_;
    there := FOUND;
    IF left_ = 0 THEN
        DELETE FROM anypod.mail m WHERE m.box = p_box AND m.waiting = 0;
    END IF;
END
$$;
