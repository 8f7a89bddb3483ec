-- Rowcast 0007: memberships and keys of machines.

SELECT pg_catalog.pg_advisory_xact_lock(7310868735422358133);

CREATE OR REPLACE FUNCTION rowcast.use_memberships(
    table_name regclass, user_column text, organization_column text, role_column text DEFAULT NULL
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    class record;
    keys  text[] := rowcast.key_columns(table_name);
    service name;
BEGIN
    SELECT c.oid, c.relname, n.nspname, c.relkind, c.relpersistence, c.relispartition, c.relreplident INTO class
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = table_name;
    IF class.oid IS NULL OR class.relkind NOT IN ('r', 'p') OR class.relpersistence <> 'p' OR class.relispartition THEN
        RAISE EXCEPTION 'memberships must be in an ordinary table; % is not one', table_name USING ERRCODE = 'wrong_object_type';
    END IF;
    IF user_column IS NULL OR organization_column IS NULL THEN
        RAISE EXCEPTION 'user_column and organization_column are needed' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM rowcast.check_columns(table_name, 'user_column', ARRAY[user_column]);
    PERFORM rowcast.check_columns(table_name, 'organization_column', ARRAY[organization_column]);
    PERFORM rowcast.check_columns(table_name, 'role_column', ARRAY[role_column]) WHERE role_column IS NOT NULL;
    IF NOT rowcast.replica_identity_usable(table_name) THEN
        RAISE EXCEPTION '% cannot be published: without a replica identity its updates and deletes would fail', table_name
            USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = format('ALTER TABLE %1$s ADD PRIMARY KEY (%2$I, %3$I); or ALTER TABLE %1$s REPLICA IDENTITY FULL;', table_name, user_column, organization_column);
    END IF;
    IF cardinality(keys) = 0 THEN
        keys := ARRAY[user_column, organization_column];
    END IF;
    UPDATE rowcast.membership_source SET relid = class.oid, schema_name = class.nspname, table_name = class.relname,
        user_column = use_memberships.user_column, organization_column = use_memberships.organization_column,
        role_column = use_memberships.role_column, key_columns = keys;
    PERFORM rowcast.sync_publication();
    FOR service IN SELECT r.role_name FROM rowcast.service_roles r JOIN pg_roles p ON p.rolname = r.role_name LOOP
        PERFORM rowcast.grant_memberships(service);
    END LOOP;
END $$;
COMMENT ON FUNCTION rowcast.use_memberships(regclass, text, text, text) IS
    'Reads who belongs to which organization from a table of the application.';

-- The service reads the membership table once at its start; after that it follows the log.
CREATE OR REPLACE FUNCTION rowcast.grant_memberships(role_name name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source rowcast.membership_source;
BEGIN
    SELECT * INTO source FROM rowcast.membership_source;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', source.schema_name, role_name);
    EXECUTE format('GRANT SELECT (%s) ON %I.%I TO %I',
        (SELECT string_agg(DISTINCT quote_ident(c), ', ') FROM unnest(source.key_columns || ARRAY[source.user_column, source.organization_column]
            || CASE WHEN source.role_column IS NOT NULL THEN ARRAY[source.role_column] ELSE '{}' END) c),
        source.schema_name, source.table_name, role_name);
END $$;

CREATE OR REPLACE FUNCTION rowcast.create_api_key(organization_id text, roles text[] DEFAULT '{member}', name text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    id  text := substr(replace(gen_random_uuid()::text, '-', ''), 1, 12);
    -- Two random uuids: 244 bits from the operating system.
    key text := 'rk_' || id || '_' || replace(concat(gen_random_uuid(), gen_random_uuid()), '-', '');
BEGIN
    IF coalesce(organization_id, '') = '' THEN
        RAISE EXCEPTION 'an API key belongs to an organization' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO rowcast.api_keys (id, hash, organization_id, roles, name)
    VALUES (id, encode(sha256(convert_to(key, 'UTF8')), 'hex'), organization_id, coalesce(roles, '{}'), name);
    RETURN key;
END $$;
COMMENT ON FUNCTION rowcast.create_api_key(text, text[], text) IS 'Makes an API key and shows it this once; only its hash is kept.';

CREATE OR REPLACE FUNCTION rowcast.revoke_api_key(id text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE rowcast.api_keys k SET revoked_at = coalesce(k.revoked_at, now()) WHERE k.id = revoke_api_key.id;
    RETURN FOUND;
END $$;
COMMENT ON FUNCTION rowcast.revoke_api_key(text) IS 'Revokes an API key by its id; open sockets of it are closed at that point of the log.';
