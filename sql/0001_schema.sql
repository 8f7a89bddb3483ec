-- Rowcast 0001: the schema `rowcast`, the tables of its configuration, and who may touch them.
--
-- Every file of this folder may run any number of times, in order, with psql or any migration tool
-- (`psql -v ON_ERROR_STOP=1 -1 -f`), on PostgreSQL 14 to 18.

SELECT pg_catalog.pg_advisory_xact_lock(7310868735422358133);

CREATE SCHEMA IF NOT EXISTS rowcast;
REVOKE ALL ON SCHEMA rowcast FROM PUBLIC;
COMMENT ON SCHEMA rowcast IS 'Rowcast: which tables are published to whom. See docs/sql.md.';

-- One row per tracked table. Written by rowcast.track() and rowcast.untrack(), followed from the log.
CREATE TABLE IF NOT EXISTS rowcast.tables (
    relid               oid PRIMARY KEY,
    schema_name         text NOT NULL,
    table_name          text NOT NULL,
    organization_column text,
    organization_path   text,
    operations          text[] NOT NULL DEFAULT '{INSERT,UPDATE,DELETE,TRUNCATE}',
    columns             text[],
    required_roles      text[] NOT NULL DEFAULT '{}',
    user_column         text,
    owner_column        text,
    mask                jsonb,
    rows                boolean NOT NULL DEFAULT true,
    visibility          text NOT NULL DEFAULT 'organization',
    storage             text NOT NULL DEFAULT 'table',
    strict              boolean NOT NULL DEFAULT false,
    max_rows            integer NOT NULL DEFAULT 10000,
    key_columns         text[] NOT NULL DEFAULT '{}',
    published           boolean NOT NULL DEFAULT false,
    created_at          timestamptz NOT NULL DEFAULT now(),
    -- When this rule came into force, in microseconds since 1970; see rowcast.check_rule().
    changed_us          bigint,
    UNIQUE (schema_name, table_name) DEFERRABLE INITIALLY DEFERRED,
    CHECK ((organization_column IS NULL) <> (organization_path IS NULL)),
    CHECK (storage IN ('table', 'log')),
    CHECK (visibility IN ('organization', 'policies', 'everyone')),
    CHECK (max_rows > 0)
);

-- Who belongs to which organization, unless the application has a table of its own for that.
CREATE TABLE IF NOT EXISTS rowcast.memberships (
    user_id         text NOT NULL,
    organization_id text NOT NULL,
    role            text DEFAULT 'member',
    PRIMARY KEY (user_id, organization_id)
);

-- Which table memberships are read from; one row, changed by rowcast.use_memberships().
CREATE TABLE IF NOT EXISTS rowcast.membership_source (
    one                 boolean PRIMARY KEY DEFAULT true CHECK (one),
    relid               oid NOT NULL,
    schema_name         text NOT NULL,
    table_name          text NOT NULL,
    user_column         text NOT NULL,
    organization_column text NOT NULL,
    role_column         text,
    key_columns         text[] NOT NULL
);
INSERT INTO rowcast.membership_source
    (relid, schema_name, table_name, user_column, organization_column, role_column, key_columns)
SELECT 'rowcast.memberships'::regclass, 'rowcast', 'memberships', 'user_id', 'organization_id', 'role',
       '{user_id,organization_id}'
ON CONFLICT DO NOTHING;

-- Keys of machines. Only the SHA-256 of a key is kept.
CREATE TABLE IF NOT EXISTS rowcast.api_keys (
    id              text PRIMARY KEY,
    hash            text NOT NULL,
    organization_id text NOT NULL,
    roles           text[] NOT NULL DEFAULT '{}',
    name            text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    revoked_at      timestamptz
);

-- What is known of each replication slot; `generation` numbers the epochs of cursors.
CREATE TABLE IF NOT EXISTS rowcast.slots (
    slot_name         text PRIMARY KEY,
    generation        integer NOT NULL,
    system_identifier text NOT NULL,
    timeline          integer NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT now()
);

-- What the triggers could not map. `sample` is a record id, never other values of a row.
CREATE TABLE IF NOT EXISTS rowcast.problems (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT now(),
    relid     oid,
    operation text,
    reason    text NOT NULL,
    rows      bigint,
    sample    text
);
CREATE INDEX IF NOT EXISTS problems_relid_at ON rowcast.problems (relid, at);

-- Organizations of rows that this transaction deleted (or gave a new key), for the rows below them
-- that are deleted by cascade afterwards. Unlogged: it is of no use after the transaction.
CREATE UNLOGGED TABLE IF NOT EXISTS rowcast.gone (
    xid             xid8 NOT NULL,
    hop             text NOT NULL,
    key             text NOT NULL,
    organization_id text,
    PRIMARY KEY (xid, hop, key)
);

-- Roles that rowcast.grant_service() was called for, so that later changes reach them too.
CREATE TABLE IF NOT EXISTS rowcast.service_roles (
    role_name name PRIMARY KEY
);

REVOKE ALL ON ALL TABLES IN SCHEMA rowcast FROM PUBLIC;

-- Writes a problem down; never fails, and keeps to 100 a minute for each table.
CREATE OR REPLACE FUNCTION rowcast.note_problem(
    relid oid, operation text, reason text, rows bigint DEFAULT NULL, sample text DEFAULT NULL
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    BEGIN
        IF (SELECT count(*) FROM (SELECT FROM rowcast.problems p
                                  WHERE p.relid = relid AND p.at > now() - interval '1 minute'
                                  LIMIT 100) recent) < 100 THEN
            INSERT INTO rowcast.problems (relid, operation, reason, rows, sample)
            VALUES (relid, operation, reason, rows, left(sample, 200));
        END IF;
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'rowcast: % of table % could not be noted (%): %', operation, relid, SQLSTATE, reason;
    END;
END $$;
COMMENT ON FUNCTION rowcast.note_problem(oid, text, text, bigint, text) IS
    'Records that a change could not be told to an organization; for the generated triggers.';
