-- Rowcast, optional: what triggers written for Supabase Realtime call. Applied by `rowcast migrate --supabase`, or by
-- psql -v ON_ERROR_STOP=1 -1 -f sql/optional/supabase.sql, any number of times.
--
-- The functions run with the rights of their caller, who needs rowcast.grant_sender(role). What goes wrong in them is
-- a warning; the write that called them goes on.

SELECT pg_catalog.pg_advisory_xact_lock(7310868735422358133);

DO $$
DECLARE
    there oid := to_regnamespace('realtime');
BEGIN
    IF to_regprocedure('rowcast.send(text, text, jsonb, text)') IS NULL THEN
        RAISE EXCEPTION 'Rowcast is not in this database' USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'First: rowcast migrate.';
    END IF;
    IF there IS NULL THEN
        CREATE SCHEMA realtime;
    ELSIF coalesce(obj_description(there, 'pg_namespace'), '') NOT LIKE 'Rowcast:%' AND EXISTS (
        SELECT FROM pg_catalog.pg_class c WHERE c.relnamespace = there
        UNION ALL SELECT FROM pg_catalog.pg_proc p WHERE p.pronamespace = there
        UNION ALL SELECT FROM pg_catalog.pg_type t WHERE t.typnamespace = there) THEN
        RAISE EXCEPTION 'the schema "realtime" is there already and is not of Rowcast (its owner is "%"); nothing was changed',
            (SELECT pg_catalog.pg_get_userbyid(n.nspowner) FROM pg_catalog.pg_namespace n WHERE n.oid = there)
            USING ERRCODE = 'duplicate_schema',
            HINT = 'On Supabase it is that of Supabase Realtime itself: leave it, and call rowcast.send(channel, event, payload) where you call realtime.send(payload, event, topic).';
    END IF;
    COMMENT ON SCHEMA realtime IS 'Rowcast: what triggers written for Supabase Realtime call';
END $$;

CREATE OR REPLACE FUNCTION realtime.topic() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT nullif(current_setting('realtime.topic', true), '')
$$;
COMMENT ON FUNCTION realtime.topic() IS 'The topic that this transaction sent to last.';

-- `private` is there for who passes it: each channel says by its rule who is on it.
CREATE OR REPLACE FUNCTION realtime.send(payload jsonb, event text, topic text, private boolean DEFAULT true) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    hint text;
BEGIN
    IF payload IS NULL OR (jsonb_typeof(payload) = 'object' AND NOT payload ? 'id') THEN
        payload := jsonb_build_object('id', gen_random_uuid()) || coalesce(payload, '{}');
    END IF;
    PERFORM set_config('realtime.topic', topic, true);
    PERFORM rowcast.send(topic, event, payload);
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE WARNING 'WarnSendingBroadcastMessage: nothing was sent on "%": %', topic, SQLERRM
            USING HINT = format('SELECT rowcast.grant_sender(%L);', current_user);
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
        RAISE WARNING 'WarnSendingBroadcastMessage: nothing was sent on "%": %', topic, SQLERRM
            USING HINT = coalesce(nullif(hint, ''), 'What called it goes on.');
END $$;
COMMENT ON FUNCTION realtime.send(jsonb, text, text, boolean) IS
    'Tells everybody on a channel that something happened; at commit, not before. Errors are warnings.';

-- For row triggers. Where the channel is another one in each organization, the row's own organization_id says which; then
-- the setting rowcast.organization.
CREATE OR REPLACE FUNCTION realtime.broadcast_changes(
    topic_name text, event_name text, operation text, table_name text, table_schema text, new record, old record, level text DEFAULT 'ROW'
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    new_row jsonb; old_row jsonb;
    own     text;
    before  text := coalesce(current_setting('rowcast.organization', true), '');
    hint    text;
BEGIN
    IF upper(level) IS DISTINCT FROM 'ROW' THEN
        RAISE EXCEPTION 'level % is not understood', level USING ERRCODE = 'feature_not_supported',
            HINT = 'Call it from a trigger FOR EACH ROW.';
    END IF;
    new_row := to_jsonb(new);
    old_row := to_jsonb(old);
    own := coalesce(new_row, old_row) ->> 'organization_id';
    IF own IS NOT NULL AND split_part(topic_name, ':', 1) NOT IN ('org', 'user', 'tenant') THEN
        -- What a row was in another organization is not told in this one.
        IF old_row ->> 'organization_id' IS DISTINCT FROM own THEN
            old_row := NULL;
        END IF;
        PERFORM set_config('rowcast.organization', own, true);
    END IF;
    PERFORM set_config('realtime.topic', topic_name, true);
    PERFORM rowcast.send(topic_name, event_name, jsonb_build_object('id', gen_random_uuid(), 'operation', operation,
        'table', table_name, 'schema', table_schema, 'record', new_row, 'old_record', old_row));
    PERFORM set_config('rowcast.organization', before, true);
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE WARNING 'WarnSendingBroadcastMessage: nothing was sent on "%": %', topic_name, SQLERRM
            USING HINT = format('SELECT rowcast.grant_sender(%L);', current_user);
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
        RAISE WARNING 'WarnSendingBroadcastMessage: nothing was sent on "%": %', topic_name, SQLERRM
            USING HINT = coalesce(nullif(hint, ''), 'What called it goes on.');
END $$;
COMMENT ON FUNCTION realtime.broadcast_changes(text, text, text, text, text, record, record, text) IS
    'Tells everybody on a channel what a row trigger saw; at commit, not before. Errors are warnings.';

REVOKE ALL ON FUNCTION realtime.topic(), realtime.send(jsonb, text, text, boolean),
    realtime.broadcast_changes(text, text, text, text, text, record, record, text) FROM PUBLIC;

-- Who sends for the service may send so, too; others by rowcast.grant_sender().
SELECT rowcast.grant_sender(r.role_name) FROM rowcast.service_roles r JOIN pg_catalog.pg_roles p ON p.rolname = r.role_name;
