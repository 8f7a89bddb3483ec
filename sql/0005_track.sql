-- Rowcast 0005: rowcast.track(), rowcast.untrack() and the triggers they put up and take down.

SELECT pg_catalog.pg_advisory_xact_lock(7310868735422358133);

-- Changes of rules, one after another: they share triggers of parents and the publication.
CREATE OR REPLACE FUNCTION rowcast.take_turn() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT pg_advisory_xact_lock(7310868735422358133) $$;

-- A table and, when it is partitioned, every table below it: a statement fires the triggers of the
-- table that it names, whichever that is. Foreign partitions are not in the log.
CREATE OR REPLACE FUNCTION rowcast.table_and_partitions(relid oid) RETURNS SETOF oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT $1 UNION
    SELECT c.oid FROM pg_partition_tree($1::regclass) t JOIN pg_class c ON c.oid = t.relid WHERE c.relkind IN ('r', 'p')
$$;

-- Takes down the triggers of a table (`rowcast_insert` ...) or, with 'rowcast_path', those that follow parents.
CREATE OR REPLACE FUNCTION rowcast.drop_triggers(relid oid, names text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_trigger record;
BEGIN
    FOR found_trigger IN SELECT t.tgname, t.tgrelid FROM pg_trigger t
             WHERE t.tgrelid IN (SELECT rowcast.table_and_partitions($1)) AND t.tgname = ANY (names) AND t.tgparentid = 0 LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', found_trigger.tgname, found_trigger.tgrelid::regclass);
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION rowcast.write_function(name text, body text, pins text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('CREATE OR REPLACE FUNCTION rowcast.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER'
        ' SET search_path = pg_catalog, pg_temp%s AS %L', name, pins, body);
    EXECUTE format('REVOKE ALL ON FUNCTION rowcast.%I() FROM PUBLIC', name);
END $$;

CREATE OR REPLACE FUNCTION rowcast.put_trigger(relid oid, op text, leaf oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s %s FOR EACH STATEMENT EXECUTE FUNCTION rowcast.%I()',
        'rowcast_' || lower(op), op, leaf::regclass,
        CASE op WHEN 'INSERT' THEN 'REFERENCING NEW TABLE AS new_rows'
                WHEN 'UPDATE' THEN 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows'
                WHEN 'DELETE' THEN 'REFERENCING OLD TABLE AS old_rows' ELSE '' END,
        'on_' || lower(op) || '_' || relid);
END $$;

-- Gives partitions that are new the triggers of their root. What cannot be had at once is left for the
-- next time.
CREATE OR REPLACE FUNCTION rowcast.adopt_partitions() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    missing record;
BEGIN
    FOR missing IN
        SELECT t.relid, op, p.leaf FROM rowcast.tables t
        JOIN pg_class c ON c.oid = t.relid AND c.relkind = 'p'
        CROSS JOIN LATERAL (SELECT rowcast.table_and_partitions(t.relid) AS leaf) p
        CROSS JOIN LATERAL unnest(t.operations) op
        WHERE NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = p.leaf AND g.tgname = 'rowcast_' || lower(op))
    LOOP
        BEGIN
            PERFORM rowcast.put_trigger(missing.relid, missing.op, missing.leaf);
        EXCEPTION WHEN OTHERS THEN
            NULL; -- rowcast.check() says that it is missing.
        END;
    END LOOP;
END $$;

-- Puts the triggers of one rule up, or brings them up to date.
CREATE OR REPLACE FUNCTION rowcast.install(relid oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rule rowcast.tables;
    op   text;
    leaf oid;
    pins text;
    plan jsonb;
BEGIN
    SELECT * INTO STRICT rule FROM rowcast.tables t WHERE t.relid = $1;
    -- Also from tables that were partitions once.
    FOR leaf IN SELECT DISTINCT t.tgrelid FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
                WHERE p.pronamespace = 'rowcast'::regnamespace AND p.proname ~ ('^on_[a-z]+_' || $1 || '$') LOOP
        PERFORM rowcast.drop_triggers(leaf, '{rowcast_insert,rowcast_update,rowcast_delete,rowcast_truncate}');
    END LOOP;
    PERFORM rowcast.drop_triggers($1, '{rowcast_insert,rowcast_update,rowcast_delete,rowcast_truncate}');
    plan := rowcast.plan($1, rule.organization_column, rule.organization_path);
    pins := rowcast.pins($1, rule.key_columns || rule.user_column
        || CASE WHEN rule.organization_column IS NOT NULL THEN ARRAY[rule.organization_column] ELSE rowcast.names(plan -> 'hops' -> 0 -> 'from_columns') END);
    FOREACH op IN ARRAY '{INSERT,UPDATE,DELETE,TRUNCATE}'::text[] LOOP
        IF op <> ALL (rule.operations) THEN
            EXECUTE format('DROP FUNCTION IF EXISTS rowcast.%I()', 'on_' || lower(op) || '_' || $1);
            CONTINUE;
        END IF;
        PERFORM rowcast.write_function('on_' || lower(op) || '_' || $1,
            CASE op WHEN 'TRUNCATE' THEN rowcast.truncate_body(rule) ELSE rowcast.trigger_body(rule, op) END,
            CASE op WHEN 'TRUNCATE' THEN '' ELSE pins END);
        FOR leaf IN SELECT rowcast.table_and_partitions($1) LOOP
            PERFORM rowcast.put_trigger($1, op, leaf);
        END LOOP;
    END LOOP;
END $$;

-- Every step of every path: the table it leads to, and which tracked tables depend on it.
CREATE OR REPLACE FUNCTION rowcast.hops()
RETURNS TABLE (parent oid, hop text, key_columns text[], rest jsonb, watched text[], dependents oid[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH plans AS (
        SELECT t.relid, rowcast.plan_if_fits(t.relid, t.organization_column, t.organization_path) AS plan
        FROM rowcast.tables t
        WHERE t.organization_path IS NOT NULL AND EXISTS (SELECT FROM pg_class c WHERE c.oid = t.relid)
    ), steps AS (
        SELECT p.relid, (h.value ->> 'to')::oid AS parent, rowcast.hop_name(p.plan, h.n::int - 1) AS hop,
            rowcast.names(h.value -> 'to_columns') AS key_columns,
            jsonb_build_object('column', p.plan ->> 'column', 'hops',
                coalesce((SELECT jsonb_agg(r.value ORDER BY r.n) FROM jsonb_array_elements(p.plan -> 'hops') WITH ORDINALITY r(value, n)
                          WHERE r.n > h.n), '[]')) AS rest
        FROM plans p CROSS JOIN LATERAL jsonb_array_elements(p.plan -> 'hops') WITH ORDINALITY h(value, n)
        WHERE p.plan IS NOT NULL
    )
    SELECT s.parent, s.hop, s.key_columns, s.rest,
        coalesce(rowcast.names(s.rest -> 'hops' -> 0 -> 'from_columns'), ARRAY[s.rest ->> 'column']),
        array_agg(DISTINCT s.relid)
    FROM steps s GROUP BY 1, 2, 3, 4
$$;

-- Tells dependents once in a transaction that rows above them went from one organization to another.
CREATE OR REPLACE FUNCTION rowcast.tell_moved(dependents oid[], old_org text, new_org text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    told text := coalesce(current_setting('rowcast.moved', true), '');
    mark text := md5(concat(dependents::text, '/', to_json(old_org), '/', to_json(new_org)));
    orgs text[] := array_remove(ARRAY[old_org, new_org], NULL);
BEGIN
    IF old_org IS NOT DISTINCT FROM new_org OR told LIKE '%' || pg_current_xact_id() || ':' || mark || '%' THEN
        RETURN;
    END IF;
    PERFORM pg_logical_emit_message(true, 'rowcast', concat('{"v":1,"t":', d, ',"op":"UPDATE","n":0,"bulk":', array_to_json(orgs), '}'))
    FROM unnest(dependents) AS d;
    PERFORM rowcast.note_marks(dependents, 'moved', orgs);
    IF length(told) < 8000 THEN
        PERFORM set_config('rowcast.moved', concat(told, pg_current_xact_id(), ':', mark, ' '), true);
    END IF;
END $$;

-- Forgets what finished transactions remembered. Never fails, never waits.
CREATE OR REPLACE FUNCTION rowcast.sweep() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM rowcast.gone g WHERE g.ctid = ANY (ARRAY(
        SELECT o.ctid FROM rowcast.gone o WHERE o.xid < pg_snapshot_xmin(pg_current_snapshot())
        LIMIT 5000 FOR UPDATE SKIP LOCKED));
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END $$;

-- Puts up the triggers that remember and follow the rows above tracked tables, and takes down those no
-- longer needed.
CREATE OR REPLACE FUNCTION rowcast.install_parents() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mine   text[] := '{rowcast_path_delete,rowcast_path_key,rowcast_path_move,rowcast_path_sweep}';
    above oid;
    step   record;
    reads  text; writes text; moves text; pins text;
    changed_key text; changed_way text;
    fn     oid;
    n      int;
BEGIN
    FOR above IN SELECT DISTINCT t.tgrelid FROM pg_trigger t WHERE t.tgname = ANY (mine) AND t.tgparentid = 0
                  EXCEPT SELECT h.parent FROM rowcast.hops() h LOOP
        PERFORM rowcast.drop_triggers(above, mine);
        EXECUTE format('DROP FUNCTION IF EXISTS rowcast.%I()', 'remember_' || above);
        EXECUTE format('DROP FUNCTION IF EXISTS rowcast.%I()', 'moved_' || above);
    END LOOP;
    FOR above IN SELECT DISTINCT h.parent FROM rowcast.hops() h LOOP
        reads := ''; writes := ''; moves := ''; n := 0; pins := '';
        changed_key := NULL; changed_way := NULL;
        FOR step IN SELECT * FROM rowcast.hops() h WHERE h.parent = above ORDER BY h.hop LOOP
            n := n + 1;
            reads := reads || format(E'        keys[%s] := %s;\n        orgs[%s] := %s;\n', n,
                rowcast.record_id_sql(above, step.key_columns, 'OLD'), n, rowcast.organization_sql(above, step.rest, 0, 'OLD', true));
            writes := writes || format(E'    IF keys[%1$s] IS NOT NULL AND orgs[%1$s] IS NOT NULL THEN\n'
                '        INSERT INTO rowcast.gone AS g (xid, hop, key, organization_id) VALUES (pg_current_xact_id(), %2$L, keys[%1$s], orgs[%1$s])\n'
                '        ON CONFLICT (xid, hop, key) DO UPDATE SET organization_id = EXCLUDED.organization_id;\n    END IF;\n', n, step.hop);
            moves := moves || format(E'        old_orgs[%1$s] := %2$s;\n        new_orgs[%1$s] := %3$s;\n', n,
                rowcast.organization_sql(above, step.rest, 0, 'OLD', true), rowcast.organization_sql(above, step.rest, 0, 'NEW', false));
            changed_key := concat_ws(' OR ', changed_key, (SELECT string_agg(format('OLD.%1$I IS DISTINCT FROM NEW.%1$I', c), ' OR ') FROM unnest(step.key_columns) c));
            changed_way := concat_ws(' OR ', changed_way, (SELECT string_agg(format('OLD.%1$I IS DISTINCT FROM NEW.%1$I', c), ' OR ') FROM unnest(step.watched) c));
            IF rowcast.pins(above, step.key_columns || step.watched) <> '' THEN
                pins := rowcast.pins(above, step.key_columns || step.watched);
            END IF;
        END LOOP;
        PERFORM rowcast.write_function('remember_' || above, format(
            E'DECLARE\n    keys text[] := ''{}''; orgs text[] := ''{}'';\nBEGIN\n    BEGIN\n%s'
            '        IF NOT has_table_privilege(''rowcast.gone'', ''INSERT'') THEN RAISE EXCEPTION ''no privilege on rowcast.gone''; END IF;\n'
            '    EXCEPTION WHEN OTHERS THEN\n        PERFORM rowcast.note_problem(%s, TG_OP, ''parent: SQLSTATE '' || SQLSTATE);\n        keys := ''{}'';\n    END;\n%s'
            '    IF TG_OP = ''DELETE'' THEN RETURN OLD; END IF;\n    RETURN NEW;\nEND', reads, above, writes), pins);
        PERFORM rowcast.write_function('moved_' || above, format(
            E'DECLARE\n    old_orgs text[] := ''{}''; new_orgs text[] := ''{}'';\nBEGIN\n    BEGIN\n%s'
            '    EXCEPTION WHEN OTHERS THEN\n        PERFORM rowcast.note_problem(%s, TG_OP, ''parent: SQLSTATE '' || SQLSTATE);\n        RETURN NULL;\n    END;\n%s    RETURN NULL;\nEND',
            moves, above,
            (SELECT string_agg(format(E'    PERFORM rowcast.tell_moved(%L, old_orgs[%s], new_orgs[%s]);\n', s.dependents, s.i, s.i), '')
             FROM (SELECT h.dependents, row_number() OVER (ORDER BY h.hop) AS i FROM rowcast.hops() h WHERE h.parent = above) s)), pins);
        PERFORM rowcast.drop_triggers(above, mine);
        EXECUTE format('CREATE TRIGGER rowcast_path_delete BEFORE DELETE ON %s FOR EACH ROW EXECUTE FUNCTION rowcast.%I()', above::regclass, 'remember_' || above);
        EXECUTE format('CREATE TRIGGER rowcast_path_key BEFORE UPDATE ON %s FOR EACH ROW WHEN (%s) EXECUTE FUNCTION rowcast.%I()', above::regclass, changed_key, 'remember_' || above);
        EXECUTE format('CREATE TRIGGER rowcast_path_move AFTER UPDATE ON %s FOR EACH ROW WHEN (%s) EXECUTE FUNCTION rowcast.%I()', above::regclass, changed_way, 'moved_' || above);
        EXECUTE format('CREATE TRIGGER rowcast_path_sweep AFTER DELETE ON %s FOR EACH STATEMENT EXECUTE FUNCTION rowcast.sweep()', above::regclass);
    END LOOP;
    FOR fn IN SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'rowcast'::regnamespace AND p.proname ~ '^(on_(insert|update|delete|truncate)|remember|moved)_[0-9]+$'
              AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = p.oid) LOOP
        EXECUTE format('DROP FUNCTION %s', fn::regprocedure);
    END LOOP;
END $$;

-- A path as it is kept: tables of another schema with it, others without.
CREATE OR REPLACE FUNCTION rowcast.path_text(relid oid, plan jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(rowcast.column_list(rowcast.names(h.value -> 'from_columns')) || ' -> '
        || CASE WHEN c.relnamespace = f.relnamespace THEN format('%I', c.relname) ELSE format('%I.%I', s.nspname, c.relname) END, '.' ORDER BY h.n)
        || '.' || quote_ident(plan ->> 'column')
    FROM jsonb_array_elements(plan -> 'hops') WITH ORDINALITY h(value, n)
    JOIN pg_class f ON f.oid = (h.value ->> 'from')::oid
    JOIN pg_class c ON c.oid = (h.value ->> 'to')::oid
    JOIN pg_namespace s ON s.oid = c.relnamespace
$$;

CREATE OR REPLACE FUNCTION rowcast.check_columns(relid oid, what text, names text[]) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    missing text;
BEGIN
    SELECT c INTO missing FROM unnest(names) c WHERE NOT rowcast.has_column(relid, c) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '% names "%", which is not a column of %', what, missing, relid::regclass
            USING ERRCODE = 'undefined_column', HINT = (SELECT 'its columns are: ' || string_agg(a.attname, ', ' ORDER BY a.attnum)
                FROM pg_attribute a WHERE a.attrelid = relid AND a.attnum > 0 AND NOT a.attisdropped);
    END IF;
END $$;

-- The mask of a rule, checked; says what is wrong and what mends it.
CREATE OR REPLACE FUNCTION rowcast.check_mask(rule rowcast.tables) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    example CONSTANT text := 'Write it as {"email": {"type": "email", "show": {"roles": ["admin"], "or": "owner"}}}.';
    bad  record;
    word text;
BEGIN
    IF rule.mask IS NULL THEN
        RETURN;
    END IF;
    IF jsonb_typeof(rule.mask) <> 'object' THEN
        RAISE EXCEPTION 'mask is not an object' USING ERRCODE = 'invalid_parameter_value', HINT = example;
    END IF;
    PERFORM rowcast.check_columns(rule.relid, 'mask', ARRAY(SELECT jsonb_object_keys(rule.mask)));
    IF (SELECT count(*) FROM jsonb_object_keys(rule.mask)) > 64 THEN
        RAISE EXCEPTION 'mask names more than 64 columns' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Hide columns with columns => ... instead.';
    END IF;
    FOR bad IN SELECT m.key AS name, m.value AS given, m.value -> 'show' AS show FROM jsonb_each(rule.mask) m ORDER BY m.key LOOP
        IF jsonb_typeof(bad.given) <> 'object' OR coalesce(bad.given ->> 'type', '') NOT IN ('email', 'phone', 'ssn', 'creditCard', 'name', 'redact') THEN
            RAISE EXCEPTION 'the mask of "%" has no known type', bad.name USING ERRCODE = 'invalid_parameter_value',
                HINT = 'Use one of: email, phone, ssn, creditCard, name, redact. ' || example;
        END IF;
        SELECT k INTO word FROM jsonb_object_keys(bad.given) k WHERE k NOT IN ('type', 'show');
        IF FOUND THEN
            RAISE EXCEPTION 'the mask of "%" has a field "%"', bad.name, word USING ERRCODE = 'invalid_parameter_value',
                HINT = 'It has type and show. ' || example;
        END IF;
        IF bad.name = ANY (rule.key_columns) THEN
            RAISE EXCEPTION 'the mask of "%" would hide a part of the key, which record ids show', bad.name USING ERRCODE = 'invalid_parameter_value',
                HINT = 'Take it out of mask, and give the table a key that need not be hidden.';
        END IF;
        CONTINUE WHEN NOT bad.given ? 'show';
        IF jsonb_typeof(bad.show) <> 'object' THEN
            RAISE EXCEPTION 'show in the mask of "%" is not an object', bad.name USING ERRCODE = 'invalid_parameter_value', HINT = example;
        END IF;
        SELECT k INTO word FROM jsonb_object_keys(bad.show) k WHERE k NOT IN ('roles', 'or');
        IF FOUND THEN
            RAISE EXCEPTION 'show in the mask of "%" has a field "%"', bad.name, word USING ERRCODE = 'invalid_parameter_value',
                HINT = 'It has roles and or. ' || example;
        END IF;
        IF bad.show ? 'roles' AND (jsonb_typeof(bad.show -> 'roles') <> 'array'
                OR EXISTS (SELECT FROM jsonb_array_elements(bad.show -> 'roles') r WHERE jsonb_typeof(r) <> 'string' OR r = '""')) THEN
            RAISE EXCEPTION 'show.roles in the mask of "%" is not a list of roles', bad.name USING ERRCODE = 'invalid_parameter_value', HINT = example;
        END IF;
        IF bad.show ? 'or' AND bad.show -> 'or' IS DISTINCT FROM '"owner"' THEN
            RAISE EXCEPTION 'show.or in the mask of "%" is %', bad.name, bad.show -> 'or' USING ERRCODE = 'invalid_parameter_value',
                HINT = 'It can only be "owner". ' || example;
        END IF;
        IF bad.show ? 'or' AND rule.owner_column IS NULL THEN
            RAISE EXCEPTION 'the mask of "%" is open to the owner, but there is no owner_column', bad.name
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Add owner_column => ''...''.';
        END IF;
    END LOOP;
END $$;

-- Checks a rule before it is written, whoever writes it, and notes when it comes into force. The lock lets
-- nobody write to the table until then: what was committed before belongs to the former rule, what is
-- committed afterwards to this one.
CREATE OR REPLACE FUNCTION rowcast.check_rule() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bad text;
    own CONSTANT text[] := '{relid,schema_name,table_name,key_columns,published,created_at,changed_us}';
BEGIN
    -- Of a table that is not here (yet) a restore knows better.
    IF NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = NEW.relid AND (c.relname = NEW.table_name OR TG_OP = 'UPDATE')) THEN
        RETURN NEW;
    END IF;
    NEW.operations := ARRAY(SELECT upper(o) FROM unnest(NEW.operations) o);
    SELECT o INTO bad FROM unnest(NEW.operations) o WHERE o IS NULL OR o NOT IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE');
    IF FOUND OR cardinality(NEW.operations) = 0 THEN
        RAISE EXCEPTION 'operations names %, which is none', coalesce(quote_literal(bad), 'nothing')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Use some of: INSERT, UPDATE, DELETE, TRUNCATE.';
    END IF;
    NEW.operations := ARRAY(SELECT o FROM unnest('{INSERT,UPDATE,DELETE,TRUNCATE}'::text[]) WITH ORDINALITY u(o, n) WHERE o = ANY (NEW.operations) ORDER BY n);
    PERFORM rowcast.check_columns(NEW.relid, 'columns', NEW.columns);
    IF cardinality(NEW.columns) = 0 THEN
        RAISE EXCEPTION 'columns is empty' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Leave it out for all columns, or say rows => false for events without values.';
    END IF;
    PERFORM rowcast.check_columns(NEW.relid, 'user_column', ARRAY[NEW.user_column]) WHERE NEW.user_column IS NOT NULL;
    PERFORM rowcast.check_columns(NEW.relid, 'owner_column', ARRAY[NEW.owner_column]) WHERE NEW.owner_column IS NOT NULL;
    IF array_position(NEW.required_roles, NULL) IS NOT NULL OR '' = ANY (NEW.required_roles) THEN
        RAISE EXCEPTION 'required_roles holds an empty role' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Name the roles of which one is needed, or leave it empty for every member.';
    END IF;
    PERFORM rowcast.check_mask(NEW);
    IF TG_OP = 'INSERT' OR to_jsonb(NEW) - own IS DISTINCT FROM to_jsonb(OLD) - own THEN
        EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', NEW.relid::regclass);
        NEW.changed_us := floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    ELSE
        NEW.changed_us := OLD.changed_us;
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER check_rule BEFORE INSERT OR UPDATE OF organization_column, organization_path, operations, columns, required_roles,
    user_column, owner_column, mask, rows, visibility, storage, strict, max_rows ON rowcast.tables
    FOR EACH ROW EXECUTE FUNCTION rowcast.check_rule();

-- A rule that was changed by hand is put up like one that came by rowcast.track().
CREATE OR REPLACE FUNCTION rowcast.follow_rule() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM rowcast.take_turn();
    PERFORM rowcast.install(NEW.relid);
    PERFORM rowcast.install_parents();
    PERFORM rowcast.sync_publication();
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER follow_rule AFTER UPDATE OF organization_column, organization_path, operations, columns, required_roles,
    user_column, owner_column, mask, rows, visibility, storage, strict, max_rows ON rowcast.tables
    FOR EACH ROW WHEN (OLD.changed_us IS DISTINCT FROM NEW.changed_us) EXECUTE FUNCTION rowcast.follow_rule();

CREATE OR REPLACE FUNCTION rowcast.track(
    table_name          regclass,
    organization_column text    DEFAULT NULL,
    organization_path   text    DEFAULT NULL,
    operations          text[]  DEFAULT '{INSERT,UPDATE,DELETE,TRUNCATE}',
    columns             text[]  DEFAULT NULL,
    required_roles      text[]  DEFAULT '{}',
    user_column         text    DEFAULT NULL,
    owner_column        text    DEFAULT NULL,
    mask                jsonb   DEFAULT NULL,
    rows                boolean DEFAULT true,
    visibility          text    DEFAULT 'organization',
    storage             text    DEFAULT 'table',
    strict              boolean DEFAULT false,
    max_rows            integer DEFAULT 10000
) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    class  record;
    ways   text[];
    plan   jsonb;
    keys   text[] := rowcast.key_columns(table_name);
    usable boolean := rowcast.replica_identity_usable(table_name);
BEGIN
    PERFORM rowcast.take_turn();
    SELECT c.oid, c.relname, n.nspname, c.relkind, c.relpersistence, c.relispartition INTO class
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = table_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no table with oid %', table_name::oid USING ERRCODE = 'undefined_table';
    END IF;
    IF class.relkind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION '% is not a table', table_name
            USING ERRCODE = 'wrong_object_type', HINT = 'Views and foreign tables are not in the log; track the tables that they read.';
    END IF;
    IF class.relpersistence <> 'p' THEN
        RAISE EXCEPTION '% is temporary or unlogged, so its changes are not in the log', table_name
            USING ERRCODE = 'wrong_object_type', HINT = format('ALTER TABLE %s SET LOGGED;', table_name);
    END IF;
    IF class.relispartition THEN
        RAISE EXCEPTION '% is a partition', table_name USING ERRCODE = 'wrong_object_type',
            HINT = format('SELECT rowcast.track(%L);', pg_partition_root(table_name));
    END IF;
    IF class.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = table_name) THEN
        RAISE EXCEPTION '% has tables that inherit from it; the log names those, not it', table_name
            USING ERRCODE = 'feature_not_supported', HINT = 'Track each of the inheriting tables, or make it a partitioned table.';
    END IF;
    IF class.nspname IN ('rowcast', 'pg_catalog', 'information_schema') OR table_name = to_regclass('public.realtime_table_events') THEN
        RAISE EXCEPTION '% belongs to the machinery and cannot be tracked', table_name USING ERRCODE = 'wrong_object_type';
    END IF;

    -- The organization.
    IF organization_column IS NOT NULL AND organization_path IS NOT NULL THEN
        RAISE EXCEPTION 'give organization_column or organization_path, not both' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF organization_column IS NOT NULL THEN
        PERFORM rowcast.check_columns(table_name, 'organization_column', ARRAY[organization_column]);
    ELSIF organization_path IS NULL AND rowcast.has_column(table_name, 'organization_id') THEN
        organization_column := 'organization_id';
    ELSIF organization_path IS NULL THEN
        ways := ARRAY(SELECT rowcast.path_text(table_name, rowcast.parse_path(table_name, p)) FROM rowcast.shortest_paths(table_name) p ORDER BY 1);
        IF cardinality(ways) > 1 THEN
            RAISE EXCEPTION '% has several equally short ways to an organization: %', table_name, array_to_string(ways, '; ')
                USING ERRCODE = 'ambiguous_column',
                HINT = 'Choose one: ' || (SELECT string_agg(format('SELECT rowcast.track(%L, organization_path => %L);', table_name::text, w), ' or ') FROM unnest(ways) w);
        ELSIF cardinality(ways) = 0 THEN
            RAISE EXCEPTION '% has no column organization_id and no foreign keys that lead to a table with one', table_name
                USING ERRCODE = 'undefined_column', HINT = format(
                    'Say where the organization is: SELECT rowcast.track(%1$L, organization_column => ''...''); or '
                    'SELECT rowcast.track(%1$L, organization_path => ''parent_id -> parents.organization_id''); '
                    'a table that belongs to no organization cannot be tracked.', table_name::text);
        END IF;
        organization_path := ways[1];
    END IF;
    plan := rowcast.plan(table_name, organization_column, organization_path);
    IF organization_path IS NOT NULL THEN
        organization_path := rowcast.path_text(table_name, plan);
    END IF;

    -- The other options; what stands in the row is checked when it is written.
    IF coalesce(visibility, '') NOT IN ('organization', 'policies', 'everyone') THEN
        RAISE EXCEPTION 'visibility is %', quote_nullable(visibility) USING ERRCODE = 'invalid_parameter_value', HINT = 'Use organization.';
    ELSIF visibility = 'everyone' THEN
        RAISE EXCEPTION 'visibility => ''everyone'' is not available in this version'
            USING ERRCODE = 'feature_not_supported', HINT = 'Use organization.';
    ELSIF visibility = 'policies' THEN
        RAISE NOTICE 'visibility => ''policies'' tells in this version only that % changed, and nothing of its rows', table_name;
    END IF;
    IF coalesce(storage, '') NOT IN ('table', 'log') THEN
        RAISE EXCEPTION 'storage is %', quote_nullable(storage) USING ERRCODE = 'invalid_parameter_value', HINT = 'Use table or log.';
    END IF;
    IF max_rows IS NULL OR max_rows NOT BETWEEN 1 AND 1000000 THEN
        RAISE EXCEPTION 'max_rows is %', coalesce(max_rows::text, 'null') USING ERRCODE = 'invalid_parameter_value', HINT = 'Use 1 to 1000000.';
    END IF;
    IF cardinality(keys) = 0 THEN
        RAISE WARNING '% has no primary key: its changes are told table by table, without rows or record ids', table_name
            USING HINT = format('ALTER TABLE %s ADD PRIMARY KEY (...);', table_name);
    ELSIF rows AND NOT usable THEN
        RAISE WARNING '% has no replica identity that publishing needs: its changes are told as invalidations, without rows', table_name
            USING HINT = format('ALTER TABLE %s REPLICA IDENTITY DEFAULT;', table_name);
    END IF;

    -- Rules of tables that were dropped, and names of tables that were renamed, must not stand in the way.
    DELETE FROM rowcast.tables t WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.relid);
    UPDATE rowcast.tables t SET schema_name = n.nspname, table_name = c.relname
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = t.relid AND (t.schema_name, t.table_name) <> (n.nspname, c.relname);
    INSERT INTO rowcast.tables AS t (relid, schema_name, table_name, organization_column, organization_path, operations,
        columns, required_roles, user_column, owner_column, mask, rows, visibility, storage, strict, max_rows, key_columns, published)
    VALUES (class.oid, class.nspname, class.relname, organization_column, organization_path, operations,
        columns, coalesce(required_roles, '{}'), user_column, owner_column, mask, coalesce(rows, true), visibility, storage, coalesce(strict, false),
        max_rows, keys, coalesce(rows, true) AND usable AND cardinality(keys) > 0)
    ON CONFLICT (relid) DO UPDATE SET (schema_name, table_name, organization_column, organization_path, operations,
        columns, required_roles, user_column, owner_column, mask, rows, visibility, storage, strict, max_rows, key_columns, published)
      = (EXCLUDED.schema_name, EXCLUDED.table_name, EXCLUDED.organization_column, EXCLUDED.organization_path, EXCLUDED.operations,
        EXCLUDED.columns, EXCLUDED.required_roles, EXCLUDED.user_column, EXCLUDED.owner_column, EXCLUDED.mask, EXCLUDED.rows, EXCLUDED.visibility,
        EXCLUDED.storage, EXCLUDED.strict, EXCLUDED.max_rows, EXCLUDED.key_columns, EXCLUDED.published);
    PERFORM rowcast.install(class.oid);
    PERFORM rowcast.install_parents();
    PERFORM rowcast.sync_publication();
    RETURN format('%s: organization by %s', table_name, coalesce(organization_column, organization_path));
END $$;
COMMENT ON FUNCTION rowcast.track(regclass, text, text, text[], text[], text[], text, text, jsonb, boolean, text, text, boolean, integer) IS
    'Publishes the changes of a table to the organizations they belong to; called again, it changes how.';

CREATE OR REPLACE FUNCTION rowcast.untrack(table_name regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM rowcast.take_turn();
    DELETE FROM rowcast.tables t WHERE t.relid = untrack.table_name;
    PERFORM rowcast.drop_triggers(t.tgrelid, '{rowcast_insert,rowcast_update,rowcast_delete,rowcast_truncate}')
    FROM (SELECT DISTINCT t.tgrelid FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
          WHERE p.pronamespace = 'rowcast'::regnamespace AND p.proname ~ ('^on_[a-z]+_' || untrack.table_name::oid || '$')) t;
    PERFORM rowcast.install_parents();
    PERFORM rowcast.sync_publication();
END $$;
COMMENT ON FUNCTION rowcast.untrack(regclass) IS 'Takes back rowcast.track(): triggers, rule and publication.';

-- After a dump and restore, a renamed table, a new partition, a new primary key: everything anew.
CREATE OR REPLACE FUNCTION rowcast.repair() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rule rowcast.tables;
    now_is oid;
BEGIN
    PERFORM rowcast.take_turn();
    FOR rule IN SELECT * FROM rowcast.tables LOOP
        -- A table that carries our triggers for this oid is the one, whatever it is called now.
        SELECT t.tgrelid INTO now_is FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
        WHERE t.tgrelid = rule.relid AND p.pronamespace = 'rowcast'::regnamespace AND p.proname ~ ('_' || rule.relid || '$') LIMIT 1;
        now_is := coalesce(now_is, to_regclass(format('%I.%I', rule.schema_name, rule.table_name)));
        IF now_is IS NULL THEN
            DELETE FROM rowcast.tables t WHERE t.relid = rule.relid;
        ELSE
            UPDATE rowcast.tables t SET relid = now_is, schema_name = n.nspname, table_name = c.relname, key_columns = rowcast.key_columns(now_is)
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE t.relid = rule.relid AND c.oid = now_is
              AND (t.relid, t.schema_name, t.table_name, t.key_columns) IS DISTINCT FROM (now_is, n.nspname::text, c.relname::text, rowcast.key_columns(now_is));
        END IF;
    END LOOP;
    UPDATE rowcast.membership_source s SET relid = to_regclass(format('%I.%I', s.schema_name, s.table_name))
    WHERE to_regclass(format('%I.%I', s.schema_name, s.table_name)) <> s.relid;
    PERFORM rowcast.sync_publication();
    FOR rule IN SELECT * FROM rowcast.tables LOOP
        BEGIN
            PERFORM rowcast.install(rule.relid);
        EXCEPTION WHEN undefined_column OR undefined_table OR invalid_parameter_value THEN
            PERFORM rowcast.note_problem(rule.relid, NULL, 'the rule no longer fits the table: ' || SQLERRM);
            RAISE WARNING 'rowcast: the rule of %.% no longer fits: %', rule.schema_name, rule.table_name, SQLERRM;
        END;
    END LOOP;
    PERFORM rowcast.install_parents();
END $$;
COMMENT ON FUNCTION rowcast.repair() IS 'Puts every trigger and the publication up anew, after a restore, a rename, a new partition or key.';
