-- Rowcast 0013: what organizations may use, by plan.
--
-- The service asks rowcast.limits_for(organization) when a socket of an organization says who it is. Replace that
-- function to work the limits out of tables of your own; what it does by itself is in rowcast.default_limits_for().

SELECT pg_catalog.pg_advisory_xact_lock(7310868735422358133);

-- `ws_connections`: open sockets of one organization; null: what the service is configured with.
-- `limits`: rates by level and kind, such as {"organization": {"messages": "500/s burst 2000"}}.
CREATE TABLE IF NOT EXISTS rowcast.plans (
    name           text PRIMARY KEY,
    ws_connections integer,
    limits         jsonb NOT NULL DEFAULT '{}',
    CHECK (ws_connections >= 0)
);

-- Once: who changed or removed one of these wants it so.
INSERT INTO rowcast.plans (name, ws_connections)
SELECT * FROM (VALUES ('free', NULL), ('hobby', 50), ('pro', 500), ('scale', 5000)) AS seed(name, ws_connections)
WHERE NOT EXISTS (SELECT FROM rowcast.plans);

-- The plan of an organization, where no table of the application says it.
CREATE TABLE IF NOT EXISTS rowcast.organization_plans (
    organization_id text PRIMARY KEY,
    plan            text NOT NULL
);
REVOKE ALL ON rowcast.plans, rowcast.organization_plans FROM PUBLIC;

-- What is wrong with the rates of a plan; null: nothing.
CREATE OR REPLACE FUNCTION rowcast.wrong_limits(limits jsonb) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN jsonb_typeof($1) <> 'object' THEN 'limits must be an object' ELSE (
        SELECT CASE
            WHEN level.key NOT IN ('connection', 'user', 'organization') THEN format('"%s" is none of connection, user, organization', level.key)
            WHEN jsonb_typeof(level.value) <> 'object' THEN format('"%s" must be an object', level.key)
            ELSE (SELECT format('"%s" of "%s" must be "off" or such as "20/s", "100/60 s" or "50/s burst 200", and its name connects, joins, messages, bytes or requests', kind.key, level.key)
                  FROM jsonb_each(level.value) kind
                  WHERE kind.key NOT IN ('connects', 'joins', 'messages', 'bytes', 'requests')
                     OR jsonb_typeof(kind.value) <> 'string'
                     OR kind.value #>> '{}' !~ '^(off|0*[1-9][0-9]{0,8} ?/ ?([1-9][0-9]{0,3} ?)?(ms|s|min|h)( burst [1-9][0-9]{0,8})?)$' LIMIT 1)
            END AS what
        FROM jsonb_each($1) level ORDER BY what NULLS LAST LIMIT 1) END
$$;

CREATE OR REPLACE FUNCTION rowcast.check_plan() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wrong text := rowcast.wrong_limits(NEW.limits);
BEGIN
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'the plan "%": %', NEW.name, wrong USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER check_plan BEFORE INSERT OR UPDATE ON rowcast.plans
    FOR EACH ROW EXECUTE FUNCTION rowcast.check_plan();

CREATE OR REPLACE FUNCTION rowcast.set_plan(organization_id text, plan text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    IF plan IS NULL THEN
        DELETE FROM rowcast.organization_plans o WHERE o.organization_id = organization_id;
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM rowcast.plans p WHERE p.name = plan) THEN
        RAISE EXCEPTION 'there is no plan "%"', plan USING ERRCODE = 'invalid_parameter_value',
            HINT = format('INSERT INTO rowcast.plans (name, ws_connections) VALUES (%L, ...);', plan);
    END IF;
    INSERT INTO rowcast.organization_plans AS o (organization_id, plan) VALUES (organization_id, plan)
    ON CONFLICT ON CONSTRAINT organization_plans_pkey DO UPDATE SET plan = excluded.plan;
END $$;
COMMENT ON FUNCTION rowcast.set_plan(text, text) IS 'Says which plan an organization has; null: what the application''s tables say.';

-- The first of some names of a column that a table has, with its type; null: the table or the column is not there.
CREATE OR REPLACE FUNCTION rowcast.column_of(of regclass, names text[]) RETURNS text[]
LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT ARRAY[quote_ident(a.attname), format_type(a.atttypid, a.atttypmod)] FROM pg_attribute a
    WHERE a.attrelid = $1 AND a.attname = ANY ($2) AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY array_position($2, a.attname::text) LIMIT 1
$$;

-- One value of a table of the application: `what` of the row whose `key` is `value`; null when there is no such thing.
CREATE OR REPLACE FUNCTION rowcast.look_up(of regclass, what text[], key text[], value text) RETURNS text
LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found text;
BEGIN
    BEGIN
        -- The value becomes one of the column's type, so that its index serves.
        EXECUTE format('SELECT t.%s::text FROM %s t WHERE t.%s = $1::%s ORDER BY 1 LIMIT 1', what[1], of, key[1], key[2])
        INTO found USING value;
    EXCEPTION WHEN data_exception THEN
        NULL; -- Not a value of that type: there is no such row.
    END;
    RETURN found;
END $$;

-- The plan of an organization ("app"): where it was said to Rowcast, else as the application's tables have it: the
-- credits of its owner, then itself, then free. Tables that are not there say nothing.
CREATE OR REPLACE FUNCTION rowcast.plan_of(organization_id text) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    plan        text := (SELECT o.plan FROM rowcast.organization_plans o WHERE o.organization_id = organization_id);
    credits     regclass := to_regclass('public.user_credits');
    apps        regclass := to_regclass('public.apps');
    app_key     text[] := rowcast.column_of(apps, '{organization_id,id}');
    credit_plan text[] := rowcast.column_of(credits, '{plan}');
    owner       text;
BEGIN
    IF plan IS NULL AND credit_plan IS NOT NULL THEN
        owner := rowcast.look_up(apps, rowcast.column_of(apps, '{owner_id,user_id,owner}'), app_key, organization_id);
        plan := coalesce(
            rowcast.look_up(credits, credit_plan, rowcast.column_of(credits, '{organization_id,app_id}'), organization_id),
            rowcast.look_up(credits, credit_plan, rowcast.column_of(credits, '{user_id,owner_id,id}'), owner));
    END IF;
    IF plan IS NULL THEN
        plan := rowcast.look_up(apps, rowcast.column_of(apps, '{plan}'), app_key, organization_id);
    END IF;
    RETURN coalesce(plan, 'free');
END $$;
COMMENT ON FUNCTION rowcast.plan_of(text) IS 'The plan of an organization: said to Rowcast, or user_credits.plan, apps.plan, free.';

-- The limits of a plan: pricing_tiers.features.wsConnections where the application has that, else rowcast.plans.
-- No row: null, and the service uses what it is configured with.
CREATE OR REPLACE FUNCTION rowcast.limits_of_plan(plan text) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    tiers    regclass := to_regclass('public.pricing_tiers');
    features jsonb := rowcast.look_up(tiers, rowcast.column_of(tiers, '{features}'), rowcast.column_of(tiers, '{plan,name,slug,tier,id}'), plan)::jsonb;
    ours     jsonb := (SELECT jsonb_build_object('connections', p.ws_connections) || p.limits FROM rowcast.plans p WHERE p.name = plan);
BEGIN
    IF jsonb_typeof(features -> 'wsConnections') = 'number' THEN
        ours := coalesce(ours, '{}') || jsonb_build_object('connections', features -> 'wsConnections');
    END IF;
    RETURN ours || jsonb_build_object('plan', plan);
END $$;
COMMENT ON FUNCTION rowcast.limits_of_plan(text) IS 'What a plan allows: open sockets and rates; null when there is no such plan.';

CREATE OR REPLACE FUNCTION rowcast.default_limits_for(organization_id text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT rowcast.limits_of_plan(rowcast.plan_of($1))
$$;
COMMENT ON FUNCTION rowcast.default_limits_for(text) IS 'What an organization may use, by its plan.';

-- This one is yours to replace, so it is made only where it is not there.
DO $$
BEGIN
    IF to_regprocedure('rowcast.limits_for(text)') IS NULL THEN
        CREATE FUNCTION rowcast.limits_for(organization_id text) RETURNS jsonb
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
        'SELECT rowcast.default_limits_for($1)';
        COMMENT ON FUNCTION rowcast.limits_for(text) IS
            'What an organization may use; asked by the service when a socket connects. Replace it as you like.';
    END IF;
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA rowcast FROM PUBLIC;

SELECT rowcast.sync_publication();
SELECT rowcast.grant_service(r.role_name) FROM rowcast.service_roles r JOIN pg_catalog.pg_roles p ON p.rolname = r.role_name;
