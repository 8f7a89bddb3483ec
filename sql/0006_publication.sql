-- Rowcast 0006: the publication `rowcast`, kept in step with the rules.

SELECT pg_catalog.pg_advisory_xact_lock(7310868735422358133);

-- What belongs into the publication. A table without a usable replica identity never does: every
-- UPDATE and DELETE of the application on it would fail.
CREATE OR REPLACE FUNCTION rowcast.publication_tables() RETURNS SETOF oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r::oid FROM unnest(ARRAY['public.realtime_table_events', 'rowcast.tables', 'rowcast.memberships',
        'rowcast.membership_source', 'rowcast.api_keys',
        'rowcast.channels', 'rowcast.event_namespaces', 'rowcast.client_events',
        'rowcast.plans', 'rowcast.organization_plans']) name CROSS JOIN LATERAL to_regclass(name) r WHERE r IS NOT NULL
    UNION
    SELECT s.relid FROM rowcast.membership_source s JOIN pg_class c ON c.oid = s.relid
    WHERE rowcast.replica_identity_usable(s.relid)
    UNION
    SELECT t.relid FROM rowcast.tables t JOIN pg_class c ON c.oid = t.relid
    WHERE t.rows AND cardinality(rowcast.key_columns(t.relid)) > 0 AND rowcast.replica_identity_usable(t.relid)
$$;

CREATE OR REPLACE FUNCTION rowcast.sync_publication() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    publication record;
    names text;
    changed oid;
BEGIN
    PERFORM rowcast.take_turn();
    SELECT p.oid, p.puballtables, p.pubviaroot INTO publication FROM pg_publication p WHERE p.pubname = 'rowcast';
    IF NOT FOUND THEN
        CREATE PUBLICATION rowcast WITH (publish_via_partition_root = true);
        SELECT p.oid, p.puballtables, p.pubviaroot INTO publication FROM pg_publication p WHERE p.pubname = 'rowcast';
    END IF;
    IF NOT publication.pubviaroot THEN
        ALTER PUBLICATION rowcast SET (publish_via_partition_root = true);
    END IF;
    IF NOT publication.puballtables THEN
        -- Add before dropping: a table's rule and its place in the publication change in one transaction.
        SELECT string_agg(w::regclass::text, ', ') INTO names FROM rowcast.publication_tables() w
        WHERE w NOT IN (SELECT r.prrelid FROM pg_publication_rel r WHERE r.prpubid = publication.oid);
        IF names IS NOT NULL THEN
            EXECUTE 'ALTER PUBLICATION rowcast ADD TABLE ' || names;
        END IF;
        SELECT string_agg(r.prrelid::regclass::text, ', ') INTO names FROM pg_publication_rel r
        WHERE r.prpubid = publication.oid AND r.prrelid NOT IN (SELECT rowcast.publication_tables());
        IF names IS NOT NULL THEN
            EXECUTE 'ALTER PUBLICATION rowcast DROP TABLE ' || names;
        END IF;
    END IF;
    FOR changed IN
        UPDATE rowcast.tables t SET published = t.relid IN (SELECT rowcast.publication_tables()),
            key_columns = rowcast.key_columns(t.relid)
        FROM pg_class c
        WHERE c.oid = t.relid AND (t.published IS DISTINCT FROM (t.relid IN (SELECT rowcast.publication_tables()))
            OR t.key_columns <> rowcast.key_columns(t.relid))
        RETURNING t.relid
    LOOP
        IF rowcast.plan_if_fits(changed, (SELECT t.organization_column FROM rowcast.tables t WHERE t.relid = changed),
            (SELECT t.organization_path FROM rowcast.tables t WHERE t.relid = changed)) IS NOT NULL THEN
            PERFORM rowcast.install(changed);
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION rowcast.sync_publication() IS 'Brings the publication rowcast in step with what is tracked.';

SELECT rowcast.sync_publication();
