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

-- Keys ----------------------------------------------------------------------------------------------------

ALTER TABLE rowcast.api_keys
    -- Other organizations it is for, beside organization_id.
    ADD COLUMN IF NOT EXISTS organizations     text[] NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS may_send          boolean NOT NULL DEFAULT true,
    ADD COLUMN IF NOT EXISTS expires_at        timestamptz,
    ADD COLUMN IF NOT EXISTS rotated_at        timestamptz,
    -- The secret before the last rotation, and until when it counts.
    ADD COLUMN IF NOT EXISTS previous_hash     text,
    ADD COLUMN IF NOT EXISTS previous_until    timestamptz,
    -- Both times in microseconds since 1970, for the service: the log writes a timestamp as its session likes.
    ADD COLUMN IF NOT EXISTS expires_us        bigint,
    ADD COLUMN IF NOT EXISTS previous_until_us bigint;

CREATE OR REPLACE FUNCTION rowcast.fill_api_key() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.revoked_at IS NOT NULL OR (NEW.previous_hash IS NULL) <> (NEW.previous_until IS NULL) THEN
        NEW.previous_hash := NULL;
        NEW.previous_until := NULL;
    END IF;
    NEW.expires_us := CASE WHEN isfinite(NEW.expires_at) THEN (extract(epoch FROM NEW.expires_at) * 1000000)::bigint
        WHEN NEW.expires_at = '-infinity' THEN 0 END;
    NEW.previous_until_us := CASE WHEN isfinite(NEW.previous_until) THEN (extract(epoch FROM NEW.previous_until) * 1000000)::bigint
        WHEN NEW.previous_until = '-infinity' THEN 0 END;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER fill_api_key BEFORE INSERT OR UPDATE ON rowcast.api_keys
    FOR EACH ROW EXECUTE FUNCTION rowcast.fill_api_key();

-- Long lists that an UPDATE leaves alone are in the log with the old row, or not at all.
ALTER TABLE rowcast.api_keys REPLICA IDENTITY FULL;

-- When a key was used last; apart from the keys, and not published: the service writes it now and then.
CREATE TABLE IF NOT EXISTS rowcast.api_key_uses (
    id           text PRIMARY KEY REFERENCES rowcast.api_keys ON DELETE CASCADE,
    last_used_at timestamptz NOT NULL
) WITH (fillfactor = 50);
REVOKE ALL ON rowcast.api_key_uses FROM PUBLIC;

-- A new key with this id: two random uuids make 244 bits from the operating system.
CREATE OR REPLACE FUNCTION rowcast.new_api_key(id text) RETURNS text
LANGUAGE sql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'rk_' || id || '_' || replace(concat(gen_random_uuid(), gen_random_uuid()), '-', '')
$$;

-- Its hash, which is all that is kept.
CREATE OR REPLACE FUNCTION rowcast.api_key_hash(key text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT encode(sha256(convert_to(key, 'UTF8')), 'hex')
$$;

DROP FUNCTION IF EXISTS rowcast.create_api_key(text, text[], text);
CREATE OR REPLACE FUNCTION rowcast.create_api_key(
    organization_id text, roles text[] DEFAULT '{member}', name text DEFAULT NULL,
    organizations text[] DEFAULT '{}', expires_at timestamptz DEFAULT NULL, may_send boolean DEFAULT true
) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    id  text := substr(replace(gen_random_uuid()::text, '-', ''), 1, 12);
    key text := rowcast.new_api_key(id);
BEGIN
    IF coalesce(organization_id, '') = '' OR '' = ANY (organizations) OR array_position(organizations, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'an API key belongs to an organization' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF cardinality(organizations) > 1000 THEN
        RAISE EXCEPTION 'an API key is for 1000 organizations at most' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF expires_at <= now() THEN
        RAISE EXCEPTION 'expires_at is over already' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO rowcast.api_keys (id, hash, organization_id, roles, name, organizations, expires_at, may_send)
    VALUES (id, rowcast.api_key_hash(key), organization_id, coalesce(roles, '{}'), name, coalesce(organizations, '{}'),
        expires_at, coalesce(may_send, true));
    RETURN key;
END $$;
COMMENT ON FUNCTION rowcast.create_api_key(text, text[], text, text[], timestamptz, boolean) IS
    'Makes an API key and shows it this once; only its hash is kept.';

CREATE OR REPLACE FUNCTION rowcast.rotate_api_key(id text, grace interval DEFAULT '1 hour') RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    key   text := rowcast.new_api_key(id);
    until timestamptz := now() + grace;
BEGIN
    IF grace IS NULL OR grace < '0' THEN
        RAISE EXCEPTION 'grace is how long the old secret still counts: zero or more' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    UPDATE rowcast.api_keys k SET hash = rowcast.api_key_hash(key), rotated_at = now(),
        previous_hash = CASE WHEN grace > '0' THEN k.hash END, previous_until = CASE WHEN grace > '0' THEN until END
    WHERE k.id = id AND k.revoked_at IS NULL AND coalesce(k.expires_at > now(), true);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no API key "%" that still counts', id USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Make another: SELECT rowcast.create_api_key(...);';
    END IF;
    RETURN key;
END $$;
COMMENT ON FUNCTION rowcast.rotate_api_key(text, interval) IS
    'Gives an API key another secret and shows it this once; the one before counts for the grace period, also on open sockets.';

CREATE OR REPLACE FUNCTION rowcast.expire_api_key(id text, at timestamptz DEFAULT now()) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE rowcast.api_keys k SET expires_at = expire_api_key.at WHERE k.id = expire_api_key.id AND k.revoked_at IS NULL;
    RETURN FOUND;
END $$;
COMMENT ON FUNCTION rowcast.expire_api_key(text, timestamptz) IS
    'Says when an API key ends, null for never; its sockets are closed then.';

CREATE OR REPLACE FUNCTION rowcast.revoke_api_key(id text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE rowcast.api_keys k SET revoked_at = coalesce(k.revoked_at, now()) WHERE k.id = revoke_api_key.id;
    RETURN FOUND;
END $$;
COMMENT ON FUNCTION rowcast.revoke_api_key(text) IS 'Revokes an API key by its id; open sockets of it are closed at that point of the log.';

CREATE OR REPLACE FUNCTION rowcast.list_api_keys(organization_id text DEFAULT NULL)
RETURNS TABLE (
    id text, name text, state text, organizations text[], roles text[], may_send boolean, created_at timestamptz,
    expires_at timestamptz, rotated_at timestamptz, previous_until timestamptz, revoked_at timestamptz, last_used_at timestamptz
) LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.id, k.name,
        CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked' WHEN k.expires_at <= now() THEN 'expired'
             WHEN k.previous_until > now() THEN 'rotating' ELSE 'active' END,
        array_prepend(k.organization_id, array_remove(k.organizations, k.organization_id)), k.roles, k.may_send, k.created_at,
        k.expires_at, k.rotated_at, k.previous_until, k.revoked_at, u.last_used_at
    FROM rowcast.api_keys k LEFT JOIN rowcast.api_key_uses u USING (id)
    WHERE $1 IS NULL OR k.organization_id = $1 OR $1 = ANY (k.organizations)
    ORDER BY k.created_at, k.id
$$;
COMMENT ON FUNCTION rowcast.list_api_keys(text) IS 'API keys of an organization, or all; never their secrets.';

-- For the service: these were used. Ten minutes are exact enough, so that a busy key costs a write in ten minutes.
CREATE OR REPLACE FUNCTION rowcast.note_api_keys_used(ids text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO rowcast.api_key_uses AS u (id, last_used_at)
    SELECT k.id, now() FROM rowcast.api_keys k WHERE k.id = ANY ($1) ORDER BY k.id FOR KEY SHARE
    ON CONFLICT (id) DO UPDATE SET last_used_at = now() WHERE u.last_used_at < now() - interval '10 minutes'
$$;
COMMENT ON FUNCTION rowcast.note_api_keys_used(text[]) IS 'Notes that API keys were used, ten minutes apart at most.';
