-- Rowcast 0009: what the service needs, what keeps the schema tidy, and how to take everything away.

SELECT pg_catalog.pg_advisory_xact_lock(7310868735422358133);

-- Notes a slot; the generation rises when cursors of before mean nothing any more.
CREATE OR REPLACE FUNCTION rowcast.note_slot(slot text, created boolean, system_identifier text, timeline integer) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO rowcast.slots AS s (slot_name, generation, system_identifier, timeline) VALUES ($1, 1, $3, $4)
    ON CONFLICT (slot_name) DO UPDATE SET
        generation = s.generation + CASE WHEN $2 OR s.system_identifier <> $3 OR s.timeline <> $4 THEN 1 ELSE 0 END,
        created_at = CASE WHEN $2 THEN now() ELSE s.created_at END,
        system_identifier = $3, timeline = $4
    RETURNING s.generation
$$;
COMMENT ON FUNCTION rowcast.note_slot(text, boolean, text, integer) IS 'Notes a replication slot and returns the generation of its cursors.';

-- Keeps the schema small; the service calls it every few minutes. Waits for nobody.
CREATE OR REPLACE FUNCTION rowcast.maintain() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    coming text := 'rowcast.events_' || rowcast.bucket_of(now() + interval '3 hours');
BEGIN
    -- The bucket that is written next holds rows of 18 to 21 hours ago.
    IF to_regclass(coming) IS NOT NULL AND pg_relation_size(coming) > 0 THEN
        BEGIN
            EXECUTE 'TRUNCATE ' || coming;
            -- The end of the three hours in which its rows were written.
            INSERT INTO rowcast.event_gaps (since)
            VALUES (to_timestamp((floor(date_part('epoch', now() + interval '3 hours') / 10800) + 1) * 10800) - interval '24 hours');
        EXCEPTION WHEN lock_not_available THEN
            NULL; -- Somebody reads it; the next call tries again, for three hours.
        END;
    END IF;
    PERFORM rowcast.adopt_partitions();
    DELETE FROM rowcast.event_gaps g WHERE g.since < (SELECT max(l.since) FROM rowcast.event_gaps l);
    -- One from before the rows that are kept says how old the next one's are.
    DELETE FROM rowcast.positions p WHERE p.at < now() - interval '24 hours';
    DELETE FROM rowcast.table_marks m WHERE m.at < now() - interval '3 days';
    DELETE FROM rowcast.gone g WHERE g.xid < pg_snapshot_xmin(pg_current_snapshot());
    DELETE FROM rowcast.problems p WHERE p.at < now() - interval '30 days'
        OR p.id <= (SELECT max(l.id) FROM rowcast.problems l) - 100000;
END $$;
COMMENT ON FUNCTION rowcast.maintain() IS 'Empties the oldest bucket of realtime_table_events and forgets what is no longer needed.';

-- Exactly what the service needs, besides LOGIN and REPLICATION (or what the provider has for it).
CREATE OR REPLACE FUNCTION rowcast.grant_service(role_name name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA rowcast TO %I', role_name);
    EXECUTE format('GRANT SELECT ON rowcast.tables, rowcast.memberships, rowcast.membership_source, rowcast.api_keys,'
        ' rowcast.slots, rowcast.problems, rowcast.positions, rowcast.event_gaps, rowcast.table_marks,'
        ' public.realtime_table_events TO %I', role_name);
    EXECUTE format('GRANT EXECUTE ON FUNCTION rowcast.note_slot(text, boolean, text, integer), rowcast.note_position(bigint), rowcast.maintain(),'
        ' rowcast.sync_publication(), rowcast.check(),'
        ' rowcast.note_api_keys_used(text[]) TO %I', role_name);
    EXECUTE format('GRANT SELECT ON rowcast.channels, rowcast.event_namespaces TO %I', role_name);
    IF to_regprocedure('rowcast.explain_row(text, text, text)') IS NOT NULL THEN
        EXECUTE format('GRANT EXECUTE ON FUNCTION rowcast.explain_row(text, text, text) TO %I', role_name);
    END IF;
    IF to_regclass('rowcast.client_events') IS NOT NULL THEN
        EXECUTE format('GRANT SELECT ON rowcast.client_events TO %I', role_name);
    END IF;
    PERFORM rowcast.grant_sender(role_name);
    IF to_regprocedure('rowcast.limits_for(text)') IS NOT NULL THEN
        EXECUTE format('GRANT EXECUTE ON FUNCTION rowcast.limits_for(text) TO %I', role_name);
    END IF;
    INSERT INTO rowcast.service_roles (role_name) VALUES (grant_service.role_name) ON CONFLICT DO NOTHING;
    PERFORM rowcast.grant_memberships(role_name);
END $$;
COMMENT ON FUNCTION rowcast.grant_service(name) IS 'Grants a role what the service needs, and nothing else.';

-- What a role needs that tracks tables of its own without being the one that installed Rowcast.
CREATE OR REPLACE FUNCTION rowcast.grant_admin(role_name name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA rowcast TO %I', role_name);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON rowcast.tables, rowcast.memberships, rowcast.membership_source,'
        ' rowcast.api_keys, rowcast.api_key_uses, rowcast.problems, rowcast.gone, rowcast.channels, rowcast.event_namespaces TO %I', role_name);
    IF to_regclass('rowcast.plans') IS NOT NULL THEN
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON rowcast.plans, rowcast.organization_plans TO %I', role_name);
    END IF;
    IF to_regclass('rowcast.client_events') IS NOT NULL THEN
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON rowcast.client_events TO %I', role_name);
    END IF;
    EXECUTE format('GRANT SELECT ON rowcast.slots, rowcast.service_roles TO %I', role_name);
    EXECUTE format('GRANT SELECT, INSERT ON public.realtime_table_events TO %I', role_name);
    EXECUTE format('GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA rowcast TO %I', role_name);
    EXECUTE format('GRANT EXECUTE ON FUNCTION public.notify_organization_of_table_change(),'
        ' public.get_organization_id_for_change(text, text, jsonb) TO %I', role_name);
END $$;
COMMENT ON FUNCTION rowcast.grant_admin(name) IS 'Grants a role what it needs to track its own tables.';

-- What is wrong, and the statement that mends it.
CREATE OR REPLACE FUNCTION rowcast.check() RETURNS TABLE (level text, topic text, what text, fix text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    publication oid := (SELECT p.oid FROM pg_publication p WHERE p.pubname = 'rowcast');
BEGIN
    IF current_setting('wal_level') <> 'logical' THEN
        RETURN QUERY SELECT 'error', 'wal_level', format('wal_level is %s; logical decoding needs logical', current_setting('wal_level')),
            'ALTER SYSTEM SET wal_level = logical; -- then restart the server';
    END IF;

    IF publication IS NULL THEN
        RETURN QUERY SELECT 'error', 'publication', 'there is no publication "rowcast"', 'SELECT rowcast.sync_publication();';
    ELSIF (SELECT p.puballtables FROM pg_publication p WHERE p.oid = publication) THEN
        RETURN QUERY SELECT 'warning', 'publication', 'the publication "rowcast" is FOR ALL TABLES: tables without a key cannot be updated, and every change is sent',
            'DROP PUBLICATION rowcast; SELECT rowcast.sync_publication();';
    ELSE
        RETURN QUERY SELECT 'error', 'publication', format('%s belongs into the publication "rowcast" and is not in it', w::regclass),
            'SELECT rowcast.sync_publication();'
        FROM rowcast.publication_tables() w WHERE w NOT IN (SELECT r.prrelid FROM pg_publication_rel r WHERE r.prpubid = publication);
        RETURN QUERY SELECT 'warning', 'publication', format('%s is in the publication "rowcast" without being tracked', r.prrelid::regclass),
            'SELECT rowcast.sync_publication();'
        FROM pg_publication_rel r WHERE r.prpubid = publication AND r.prrelid NOT IN (SELECT rowcast.publication_tables())
          AND rowcast.replica_identity_usable(r.prrelid);
        RETURN QUERY SELECT 'error', 'replica identity',
            format('%s is published without a replica identity: UPDATE and DELETE on it fail', r.prrelid::regclass),
            format('ALTER TABLE %s REPLICA IDENTITY DEFAULT; -- needs a primary key; otherwise: SELECT rowcast.sync_publication();', r.prrelid::regclass)
        FROM pg_publication_rel r WHERE r.prpubid = publication AND NOT rowcast.replica_identity_usable(r.prrelid);
        IF NOT (SELECT p.pubviaroot AND p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate FROM pg_publication p WHERE p.oid = publication) THEN
            RETURN QUERY SELECT 'error', 'publication', 'the publication "rowcast" leaves changes out',
                'ALTER PUBLICATION rowcast SET (publish = ''insert, update, delete, truncate'', publish_via_partition_root = true);';
        END IF;
    END IF;

    RETURN QUERY SELECT 'error', 'memberships', format('the membership table %s.%s is gone or was made anew', s.schema_name, s.table_name),
        CASE WHEN to_regclass(format('%I.%I', s.schema_name, s.table_name)) IS NULL
             THEN 'SELECT rowcast.use_memberships(''rowcast.memberships'', ''user_id'', ''organization_id'', ''role'');' ELSE 'SELECT rowcast.repair();' END
    FROM rowcast.membership_source s WHERE to_regclass(format('%I.%I', s.schema_name, s.table_name))::oid IS DISTINCT FROM s.relid;
    RETURN QUERY SELECT 'error', 'memberships', format('%s has no replica identity, so memberships that end are not seen', s.relid::regclass),
        format('ALTER TABLE %s REPLICA IDENTITY FULL; SELECT rowcast.sync_publication();', s.relid::regclass)
    FROM rowcast.membership_source s JOIN pg_class c ON c.oid = s.relid WHERE NOT rowcast.replica_identity_usable(s.relid);

    RETURN QUERY SELECT 'error', 'tracked table', format('%s.%s is tracked but is not there under its oid', t.schema_name, t.table_name), 'SELECT rowcast.repair();'
    FROM rowcast.tables t WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.relid);
    RETURN QUERY SELECT 'error', 'tracked table', format('%s was renamed; its rule still says %s.%s', t.relid::regclass, t.schema_name, t.table_name), 'SELECT rowcast.repair();'
    FROM rowcast.tables t JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE (c.relname, n.nspname) <> (t.table_name, t.schema_name);
    RETURN QUERY SELECT 'error', 'tracked table', format('the organization of %s is no longer where its rule says: %s', t.relid::regclass, coalesce(t.organization_column, t.organization_path)),
        format('SELECT rowcast.track(%L, organization_column => ''...''); -- or untrack it: SELECT rowcast.untrack(%L);', t.relid::regclass::text, t.relid::regclass::text)
    FROM rowcast.tables t JOIN pg_class c ON c.oid = t.relid
    WHERE rowcast.plan_if_fits(t.relid, t.organization_column, t.organization_path) IS NULL;
    RETURN QUERY SELECT 'error', 'tracked table', format('the key of %s changed', t.relid::regclass), 'SELECT rowcast.repair();'
    FROM rowcast.tables t JOIN pg_class c ON c.oid = t.relid WHERE rowcast.key_columns(t.relid) <> t.key_columns;
    RETURN QUERY SELECT 'warning', 'tracked table', format('%s has no primary key: its changes are told without rows or record ids', t.relid::regclass),
        format('ALTER TABLE %s ADD PRIMARY KEY (...); SELECT rowcast.repair();', t.relid::regclass)
    FROM rowcast.tables t JOIN pg_class c ON c.oid = t.relid WHERE cardinality(rowcast.key_columns(t.relid)) = 0;
    RETURN QUERY SELECT 'error', 'trigger', format('%s misses the trigger %s%s', l.leaf::regclass, l.trigger_name,
            CASE WHEN l.enabled = 'D' THEN ' (it is disabled)' ELSE '' END),
        CASE WHEN l.enabled = 'D' THEN format('ALTER TABLE %s ENABLE TRIGGER %I;', l.leaf::regclass, l.trigger_name) ELSE 'SELECT rowcast.repair();' END
    FROM (SELECT p.leaf, 'rowcast_' || lower(op) AS trigger_name,
              (SELECT g.tgenabled FROM pg_trigger g WHERE g.tgrelid = p.leaf AND g.tgname = 'rowcast_' || lower(op)) AS enabled
          FROM rowcast.tables t JOIN pg_class c ON c.oid = t.relid
          CROSS JOIN LATERAL (SELECT rowcast.table_and_partitions(t.relid) AS leaf) p
          CROSS JOIN LATERAL unnest(t.operations) op) l
    WHERE l.enabled IS NULL OR l.enabled = 'D';

    RETURN QUERY SELECT DISTINCT 'warning', 'trigger', format('%s was a partition of a tracked table and still has its triggers', g.tgrelid::regclass), 'SELECT rowcast.repair();'
    FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid AND f.pronamespace = 'rowcast'::regnamespace
    JOIN rowcast.tables t ON f.proname ~ ('^on_[a-z]+_' || t.relid || '$')
    WHERE g.tgrelid NOT IN (SELECT rowcast.table_and_partitions(t.relid));

    RETURN QUERY SELECT 'error', 'client events', format('the event "%s" on %s is handled by %s, which is not there with the arguments (jsonb, text, jsonb, jsonb)',
            e.event, e.pattern, e.handler),
        format('SELECT rowcast.drop_client_event(%L, %L); -- or create the function', e.pattern, e.event)
    FROM rowcast.client_events e WHERE e.handler IS NOT NULL AND to_regprocedure(e.handler || '(jsonb, text, jsonb, jsonb)') IS NULL;
    RETURN QUERY SELECT 'warning', 'client events', format('the event "%s" on %s is relayed as "%s", which the channels %s do not declare',
            e.event, e.pattern, e.relay, c.pattern),
        format('SELECT rowcast.define_channel(%L, ..., events => %L);', c.pattern, c.events || e.relay)
    FROM rowcast.client_events e JOIN rowcast.channels c ON e.relay <> ALL (c.events) AND (c.pattern = e.pattern OR rowcast.pattern_overlap(e.pattern, c.pattern) <> 'apart');

    RETURN QUERY SELECT 'warning', 'API key', format('the API key %s (%s, of %s) was not used for 90 days', k.id, coalesce(k.name, 'no name'), k.organization_id),
        format('SELECT rowcast.revoke_api_key(%L);', k.id)
    FROM rowcast.api_keys k LEFT JOIN rowcast.api_key_uses u ON u.id = k.id
    WHERE k.revoked_at IS NULL AND coalesce(k.expires_at > now(), true)
      AND greatest(k.created_at, u.last_used_at) < now() - interval '90 days'
    ORDER BY k.created_at LIMIT 50;

    RETURN QUERY SELECT 'warning', 'problems', format('%s of %s: %s (%s times, %s rows, last %s%s)', coalesce(p.operation, 'rule'), coalesce(c.oid::regclass::text, p.relid::text, '?'),
            p.reason, count(*), coalesce(sum(p.rows), 0), to_char(max(p.at), 'YYYY-MM-DD HH24:MI:SS'), ', such as ' || max(p.sample)),
        format('SELECT * FROM rowcast.problems WHERE relid = %s; -- when mended: DELETE FROM rowcast.problems WHERE relid = %s;', p.relid, p.relid)
    FROM rowcast.problems p LEFT JOIN pg_class c ON c.oid = p.relid
    GROUP BY p.relid, c.oid, p.operation, p.reason ORDER BY max(p.at) DESC LIMIT 50;
END $$;
COMMENT ON FUNCTION rowcast.check() IS 'What is wrong with tracked tables, memberships and the publication, each with the statement that mends it.';

-- Takes everything away: triggers, publication, schema, the names in public. Drop the slot as well.
CREATE OR REPLACE FUNCTION rowcast.uninstall() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mine record;
BEGIN
    FOR mine IN SELECT t.tgname, t.tgrelid FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
                WHERE t.tgparentid = 0 AND (p.pronamespace = 'rowcast'::regnamespace
                      OR p.oid = to_regprocedure('public.notify_organization_of_table_change()')) LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', mine.tgname, mine.tgrelid::regclass);
    END LOOP;
    DROP PUBLICATION IF EXISTS rowcast;
    DROP FUNCTION IF EXISTS public.notify_organization_of_table_change();
    DROP FUNCTION IF EXISTS public.get_organization_id_for_change(text, text, jsonb);
    DROP TABLE IF EXISTS public.realtime_table_events;
    -- What sql/optional/supabase.sql made, and the schema unless somebody put something of his own there.
    IF obj_description(to_regnamespace('realtime'), 'pg_namespace') LIKE 'Rowcast:%' THEN
        DROP FUNCTION IF EXISTS realtime.topic(), realtime.send(jsonb, text, text, boolean),
            realtime.broadcast_changes(text, text, text, text, text, record, record, text);
        BEGIN
            DROP SCHEMA realtime;
        EXCEPTION WHEN dependent_objects_still_exist THEN
            COMMENT ON SCHEMA realtime IS NULL;
        END;
    END IF;
    DROP SCHEMA rowcast CASCADE;
END $$;
COMMENT ON FUNCTION rowcast.uninstall() IS 'Removes Rowcast from this database; the replication slot is dropped apart.';

-- Nothing here is for everybody.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA rowcast FROM PUBLIC;

-- What a later version needs reaches the roles of an earlier one.
SELECT rowcast.grant_service(r.role_name) FROM rowcast.service_roles r JOIN pg_roles p ON p.rolname = r.role_name;

-- Triggers that an earlier version made are made anew.
SELECT rowcast.repair();
