-- Rowcast 0014: what is known of one row, for `rowcast explain`.

SELECT pg_catalog.pg_advisory_xact_lock(7310868735422358133);

-- How a table is published and where one row of it belongs, without showing the row: its organization, and who it is for. `schema` may be
-- left out. Never raises for what is asked; what cannot be read is null, and `failed` says why.
CREATE OR REPLACE FUNCTION rowcast.explain_row(schema_name text, table_name text, record_id text) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_variable
DECLARE
    found oid;
    rule rowcast.tables;
    answer jsonb;
    keys text[];
    given text[];
    wanted text;
    record jsonb;
BEGIN
    SELECT c.oid INTO found FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relname = table_name AND c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\_%'
      AND (schema_name IS NULL OR n.nspname = schema_name)
    ORDER BY EXISTS (SELECT FROM rowcast.tables t WHERE t.relid = c.oid) DESC, n.nspname = 'public' DESC, n.nspname LIMIT 1;
    IF found IS NULL THEN
        RETURN '{"there": false}';
    END IF;
    SELECT * INTO rule FROM rowcast.tables t WHERE t.relid = found;
    answer := jsonb_build_object(
        'there', true,
        'relid', found::bigint,
        'name', found::regclass::text,
        'schema', (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = found),
        'tracked', rule.relid IS NOT NULL,
        'by_hand', EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = found AND g.tgname = 'trigger_notify_org_change'),
        'in_publication', EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                                  WHERE p.pubname = 'rowcast' AND r.prrelid = found)
            OR EXISTS (SELECT FROM pg_publication p WHERE p.pubname = 'rowcast' AND p.puballtables),
        'triggers', (SELECT count(*) FROM pg_trigger g WHERE g.tgrelid = found AND NOT g.tgisinternal
                     AND g.tgenabled <> 'D' AND g.tgname LIKE 'rowcast\_%'),
        'problem', (SELECT p.reason FROM rowcast.problems p WHERE p.relid = found AND p.sample = record_id ORDER BY p.at DESC LIMIT 1),
        'problems', (SELECT count(*) FROM rowcast.problems p WHERE p.relid = found AND p.at > now() - interval '1 day'));
    IF record_id IS NULL THEN
        RETURN answer;
    END IF;
    BEGIN
        keys := CASE WHEN cardinality(rule.key_columns) > 0 THEN rule.key_columns ELSE rowcast.key_columns(found) END;
        given := CASE cardinality(keys) WHEN 1 THEN ARRAY[record_id] ELSE ARRAY(SELECT jsonb_array_elements_text(record_id::jsonb)) END;
        IF cardinality(keys) = 0 OR cardinality(given) <> cardinality(keys) THEN
            RETURN answer || jsonb_build_object('failed', 'the record id does not fit the key (' || array_to_string(keys, ', ') || ')');
        END IF;
        SELECT string_agg(format('t.%I = ($1)[%s]::%s', k.name, k.number, format_type(a.atttypid, a.atttypmod)), ' AND ')
        INTO wanted FROM unnest(keys) WITH ORDINALITY AS k(name, number)
        JOIN pg_attribute a ON a.attrelid = found AND a.attname = k.name;
        EXECUTE format('SELECT to_jsonb(t) FROM %s t WHERE %s LIMIT 1', found::regclass, wanted) INTO record USING given;
    EXCEPTION WHEN OTHERS THEN
        RETURN answer || jsonb_build_object('failed', SQLERRM);
    END;
    RETURN answer || jsonb_build_object(
        'found', record IS NOT NULL,
        'organization', rowcast.organization_of(found, record),
        'user', record ->> rule.user_column,
        'owner', record ->> rule.owner_column);
END $$;
COMMENT ON FUNCTION rowcast.explain_row(text, text, text) IS
    'How a table is published and where one row of it belongs, without showing the row. For rowcast explain.';

REVOKE ALL ON FUNCTION rowcast.explain_row(text, text, text) FROM PUBLIC;

SELECT rowcast.grant_service(r.role_name) FROM rowcast.service_roles r JOIN pg_catalog.pg_roles p ON p.rolname = r.role_name;
