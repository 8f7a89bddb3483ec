-- Rowcast 0008: the names of the document "Frontend Realtime Sync".
--
-- Its get_organization_id_for_change() reads TG_OP without being a trigger function, so here it has
-- arguments. A version of your own is kept: CREATE OR REPLACE it with a CASE for each table.

SELECT pg_catalog.pg_advisory_xact_lock(7310868735422358133);

-- The organization of a record by the rule of its table; null when there is none. Never raises.
CREATE OR REPLACE FUNCTION rowcast.organization_of(relid oid, record jsonb) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rule rowcast.tables;
    found_org text;
BEGIN
    SELECT * INTO rule FROM rowcast.tables t WHERE t.relid = organization_of.relid;
    IF NOT FOUND OR rule.organization_column IS NOT NULL THEN
        RETURN record ->> coalesce(rule.organization_column, 'organization_id');
    END IF;
    EXECUTE format('SELECT %s FROM jsonb_populate_record(NULL::%s, $1) x',
        rowcast.organization_sql(relid, rowcast.plan(relid, NULL, rule.organization_path), 0, 'x', true), relid::regclass)
        INTO found_org USING record;
    RETURN found_org;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END $$;

DO $$
BEGIN
    IF to_regprocedure('public.get_organization_id_for_change(text, text, jsonb)') IS NULL THEN
        CREATE FUNCTION public.get_organization_id_for_change(table_name text, op text, record jsonb) RETURNS text
        LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $body$
        BEGIN
            RETURN rowcast.organization_of(coalesce(to_regclass(table_name), to_regclass('public.' || quote_ident(table_name))), record);
        EXCEPTION WHEN OTHERS THEN
            RETURN NULL;
        END $body$;
        REVOKE ALL ON FUNCTION public.get_organization_id_for_change(text, text, jsonb) FROM PUBLIC;
    END IF;
END $$;

-- For `CREATE TRIGGER trigger_notify_org_change AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW
-- EXECUTE FUNCTION notify_organization_of_table_change()`. Does nothing on a table that is tracked.
CREATE OR REPLACE FUNCTION public.notify_organization_of_table_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    root    oid := coalesce(pg_partition_root(TG_RELID), TG_RELID);
    keys    text[];
    old_row jsonb; new_row jsonb;
    old_org text; new_org text;
    old_id  text; new_id text;
BEGIN
    BEGIN
        IF EXISTS (SELECT FROM rowcast.tables t WHERE t.relid = root) THEN
            RETURN NULL;
        END IF;
        keys := rowcast.key_columns(root);
        IF cardinality(keys) = 0 AND rowcast.has_column(root, 'id') THEN
            keys := '{id}';
        END IF;
        IF TG_OP <> 'INSERT' THEN
            old_row := to_jsonb(OLD);
            old_org := public.get_organization_id_for_change(TG_TABLE_NAME, TG_OP, old_row);
            old_id := rowcast.record_id_of(old_row, keys);
        END IF;
        IF TG_OP <> 'DELETE' THEN
            new_row := to_jsonb(NEW);
            new_org := public.get_organization_id_for_change(TG_TABLE_NAME, TG_OP, new_row);
            new_id := rowcast.record_id_of(new_row, keys);
        END IF;
        IF coalesce(new_org, old_org) IS NULL THEN
            PERFORM rowcast.note_problem(root, TG_OP, 'no organization', 1, coalesce(new_id, old_id));
            RETURN NULL;
        END IF;
        IF NOT has_table_privilege('public.realtime_table_events', 'INSERT') THEN
            RAISE EXCEPTION 'no privilege to insert into public.realtime_table_events';
        END IF;
    EXCEPTION WHEN OTHERS THEN
        PERFORM rowcast.note_problem(root, TG_OP, 'SQLSTATE ' || SQLSTATE);
        RETURN NULL;
    END;
    IF TG_OP = 'UPDATE' AND old_org IS DISTINCT FROM new_org THEN
        INSERT INTO public.realtime_table_events (organization_id, table_schema, table_name, event_type, record_id, relation_id, operation)
        SELECT v.org, TG_TABLE_SCHEMA, TG_TABLE_NAME, v.event, v.id, root, 'UPDATE'
        FROM (VALUES (old_org, 'DELETE', old_id), (new_org, 'INSERT', new_id)) AS v(org, event, id) WHERE v.org IS NOT NULL;
    ELSE
        INSERT INTO public.realtime_table_events (organization_id, table_schema, table_name, event_type, record_id, relation_id)
        VALUES (coalesce(new_org, old_org), TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_OP, coalesce(new_id, old_id), root);
    END IF;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION public.notify_organization_of_table_change() FROM PUBLIC;

-- A record id from a record as jsonb: booleans as the log writes them.
CREATE OR REPLACE FUNCTION rowcast.record_id_of(record jsonb, keys text[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN cardinality(keys) = 0 THEN NULL
        WHEN cardinality(keys) = 1 THEN min(t) ELSE '[' || string_agg(to_json(t)::text, ',' ORDER BY n) || ']' END
    FROM (SELECT n, CASE WHEN jsonb_typeof(record -> k) = 'boolean' THEN left(record ->> k, 1) ELSE record ->> k END AS t
          FROM unnest(keys) WITH ORDINALITY u(k, n)) parts
$$;
