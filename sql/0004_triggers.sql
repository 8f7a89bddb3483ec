-- Rowcast 0004: what the triggers say, and the SQL they are generated from.
--
-- Per table and operation one statement-level trigger with transition tables and static SQL. Reading
-- (look-ups that a later change of the schema may break) stands in an exception block, writing does
-- not: a block that writes would take a subtransaction id for each statement of the application.

SELECT pg_catalog.pg_advisory_xact_lock(7310868735422358133);

-- A log message about rows of several organizations, or rows that moved. Arrays run along the rows.
CREATE OR REPLACE FUNCTION rowcast.tell_by_log(
    relid oid, op text, orgs text[], old_orgs text[], users text[], old_users text[], ids text[], old_ids text[], changes text[]
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_logical_emit_message(true, 'rowcast',
        concat('{"v":1,"t":', relid, ',"op":"', op, '","n":', cardinality(orgs), ',"orgs":', array_to_json(orgs),
            ',"old":' || array_to_json(CASE WHEN old_orgs IS DISTINCT FROM orgs THEN old_orgs END)::text,
            ',"users":' || array_to_json(users)::text,
            ',"old_users":' || array_to_json(CASE WHEN old_users IS DISTINCT FROM users THEN old_users END)::text,
            ',"ids":' || array_to_json(ids)::text,
            ',"old_ids":' || array_to_json(CASE WHEN ids IS NOT NULL AND old_ids IS DISTINCT FROM ids THEN old_ids END)::text,
            ',"changed":' || array_to_json(changes)::text, '}'));
END $$;

-- The same as rows of realtime_table_events. A row that moved gives a DELETE and an INSERT; so does one
-- that has another key now, when the log has no row that says so.
CREATE OR REPLACE FUNCTION rowcast.tell_by_table(
    relid oid, schema_name text, table_name text, op text, by_user boolean,
    orgs text[], ids text[], users text[], old_orgs text[], old_ids text[], old_users text[], changes text[]
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    published boolean;
BEGIN
    IF old_orgs IS NULL THEN
        INSERT INTO public.realtime_table_events
            (organization_id, table_schema, table_name, event_type, record_id, relation_id, user_id, changed)
        SELECT e.o, schema_name, table_name, op, e.k, relid, e.u, e.c::text[]
        FROM unnest(orgs, ids, users, changes) AS e(o, k, u, c)
        WHERE e.o IS NOT NULL AND (e.u IS NOT NULL OR NOT by_user);
    ELSE
        published := coalesce((SELECT t.published FROM rowcast.tables t WHERE t.relid = relid), false);
        INSERT INTO public.realtime_table_events
            (organization_id, table_schema, table_name, event_type, record_id, relation_id, user_id, operation, changed)
        SELECT v.o, schema_name, table_name, v.event, v.k, relid, v.u, v.operation, v.c::text[]
        FROM unnest(orgs, ids, users, old_orgs, old_ids, old_users, changes) WITH ORDINALITY AS e(o, k, u, oo, ok, ou, c, i)
        CROSS JOIN LATERAL (VALUES
            (1, op, e.o, e.k, e.u, NULL, e.c),
            (2, 'DELETE', e.oo, e.ok, e.ou, op, NULL),
            (3, 'INSERT', e.o, e.k, e.u, op, NULL)) AS v(part, event, o, k, u, operation, c)
        WHERE v.o IS NOT NULL AND (v.u IS NOT NULL OR NOT by_user)
          AND (v.part = 1) = (e.o IS NOT DISTINCT FROM e.oo AND e.u IS NOT DISTINCT FROM e.ou
                                AND (published OR e.k IS NOT DISTINCT FROM e.ok))
        ORDER BY e.i, v.part;
    END IF;
END $$;

-- One event for each organization instead of one for each row. When nobody is told, that is said too: a
-- statement around this one must not take its rows for its own.
CREATE OR REPLACE FUNCTION rowcast.tell_bulk(
    relid oid, schema_name text, table_name text, op text, storage text, n bigint, orgs text[], changes text[]
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    IF storage = 'log' OR orgs IS NULL THEN
        PERFORM pg_logical_emit_message(true, 'rowcast', concat('{"v":1,"t":', relid, ',"op":"', op, '","n":', n,
            ',"bulk":', coalesce(array_to_json(orgs)::text, '[]'), ',"changed":' || array_to_json(changes)::text, '}'));
    ELSE
        INSERT INTO public.realtime_table_events
            (organization_id, table_schema, table_name, event_type, relation_id, row_count, changed)
        SELECT e.o, schema_name, table_name, op, relid, n, e.c::text[] FROM unnest(orgs, changes) AS e(o, c);
    END IF;
END $$;

-- SQL that says for each row of a partitioned table in which leaf it lies: of use where an UPDATE
-- moves a row to another partition, which the log shows as a DELETE and an INSERT.
CREATE OR REPLACE FUNCTION rowcast.leaf_sql(root oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'CASE ' || string_agg(format('WHEN %s THEN %s', coalesce(pg_get_partition_constraintdef(t.relid), 'true'), t.relid::oid), ' ') || ' END'
    FROM pg_partition_tree($1::regclass) t WHERE t.isleaf AND t.relid <> $1
$$;

-- The rest of an UPDATE in which rows changed partition: those are told as DELETE and INSERT.
CREATE OR REPLACE FUNCTION rowcast.tell_across(
    relid oid, schema_name text, table_name text, storage text, by_user boolean,
    orgs text[], ids text[], users text[], old_orgs text[], old_ids text[], old_users text[], changes text[], leaf bigint[], old_leaf bigint[]
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    part record;
BEGIN
    FOR part IN
        SELECT l IS DISTINCT FROM ol AS across, count(*) AS n,
            array_agg(o ORDER BY i) AS o, array_agg(k ORDER BY i) AS k, array_agg(u ORDER BY i) AS u,
            array_agg(oo ORDER BY i) AS oo, array_agg(ok ORDER BY i) AS ok, array_agg(ou ORDER BY i) AS ou,
            CASE WHEN changes IS NOT NULL THEN
                array_agg(CASE WHEN o IS NOT DISTINCT FROM oo AND u IS NOT DISTINCT FROM ou THEN c END ORDER BY i) END AS c
        FROM unnest(orgs, ids, users, old_orgs, old_ids, old_users, changes, leaf, old_leaf)
            WITH ORDINALITY AS e(o, k, u, oo, ok, ou, c, l, ol, i)
        GROUP BY 1 ORDER BY 1
    LOOP
        IF storage = 'log' THEN
            IF NOT part.across THEN
                PERFORM rowcast.tell_by_log(relid, 'UPDATE', part.o, part.oo, CASE WHEN by_user THEN part.u END,
                    CASE WHEN by_user THEN part.ou END, CASE WHEN ids IS NOT NULL THEN part.k END, CASE WHEN ids IS NOT NULL THEN part.ok END, part.c);
            ELSE
                PERFORM rowcast.tell_by_log(relid, 'DELETE', part.oo, NULL, CASE WHEN by_user THEN part.ou END, NULL,
                    CASE WHEN old_ids IS NOT NULL THEN part.ok END, NULL, part.c);
                PERFORM rowcast.tell_by_log(relid, 'INSERT', part.o, NULL, CASE WHEN by_user THEN part.u END, NULL,
                    CASE WHEN ids IS NOT NULL THEN part.k END, NULL, part.c);
            END IF;
        ELSIF NOT part.across THEN
            PERFORM rowcast.tell_by_table(relid, schema_name, table_name, 'UPDATE', by_user, part.o, part.k, part.u, part.oo, part.ok, part.ou, part.c);
        ELSE
            PERFORM rowcast.tell_by_table(relid, schema_name, table_name, 'DELETE', by_user, part.oo, part.ok, part.ou, NULL, NULL, NULL, part.c);
            PERFORM rowcast.tell_by_table(relid, schema_name, table_name, 'INSERT', by_user, part.o, part.k, part.u, NULL, NULL, NULL, part.c);
        END IF;
    END LOOP;
END $$;

-- The condition that `o` and `n` (old and new row) may lie in different partitions; null: not partitioned.
CREATE OR REPLACE FUNCTION rowcast.partition_key_sql(root oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN bool_or(k.attnum = 0) THEN 'true'
        ELSE string_agg(DISTINCT format('o.%1$I IS DISTINCT FROM n.%1$I', a.attname), ' OR ') END
    FROM pg_partition_tree($1::regclass) t
    JOIN pg_partitioned_table p ON p.partrelid = t.relid
    CROSS JOIN LATERAL unnest(p.partattrs::int2[]) AS k(attnum)
    LEFT JOIN pg_attribute a ON a.attrelid = t.relid AND a.attnum = k.attnum AND k.attnum > 0
$$;

-- Puts values into a template: «name» becomes the value of that name. One pass, so values stay as they are.
CREATE OR REPLACE FUNCTION rowcast.render(template text, given jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parts text[] := regexp_split_to_array(template, '«|»');
BEGIN
    FOR i IN 1 .. cardinality(parts) / 2 LOOP
        IF NOT given ? parts[2 * i] THEN
            RAISE EXCEPTION 'the template knows no value "%"', parts[2 * i];
        END IF;
        parts[2 * i] := coalesce(given ->> parts[2 * i], '');
    END LOOP;
    RETURN array_to_string(parts, '');
END $$;

-- For partitioned tables: a table that was detached keeps its triggers, and has nothing to say any more.
CREATE OR REPLACE FUNCTION rowcast.home_sql(relid oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN c.relkind = 'p' THEN
        format(E'\n    IF pg_partition_root(TG_RELID)::oid IS DISTINCT FROM %s THEN\n        RETURN NULL;\n    END IF;', $1) ELSE '' END
    FROM pg_class c WHERE c.oid = $1
$$;

-- SQL for what an UPDATE changed of a row, as far as somebody must not know: of the row `x` (new) and the row `y`
-- (old), the text of an array of the masked columns that changed. Null when a column changed that all may
-- see (or the record id, or the user, which are told whatever is hidden), and null for a table that hides
-- nothing: its statements pay nothing. Images are compared, as a value may be written anew and be equal.
CREATE OR REPLACE FUNCTION rowcast.changed_sql(rule rowcast.tables) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH known AS (
        SELECT a.attname AS name, a.attnum, $1.mask -> a.attname::text AS mask,
            a.attname = ANY ($1.key_columns) OR a.attname = $1.user_column AS told,
            coalesce(a.attname = ANY ($1.columns), true) AS shown
        FROM pg_attribute a
        WHERE a.attrelid = $1.relid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    )
    SELECT CASE WHEN $1.columns IS NOT NULL OR coalesce($1.mask, '{}') <> '{}' THEN format(
        'CASE WHEN %s THEN NULL ELSE array_remove(ARRAY[%s]::text[], NULL)::text END',
        coalesce((SELECT format('ROW(%s)::record *<> ROW(%s)::record', string_agg(format('x.%I', k.name), ', ' ORDER BY k.attnum),
                      string_agg(format('y.%I', k.name), ', ' ORDER BY k.attnum))
                  FROM known k WHERE coalesce(k.told, false) OR k.shown AND k.mask IS NULL), 'false'),
        (SELECT string_agg(format('CASE WHEN ROW(%1$s)::record *<> ROW(%2$s)::record THEN %3$L END',
                    concat_ws(', ', format('x.%I', k.name), w.new), concat_ws(', ', format('y.%I', k.name), w.old), k.name), ', ' ORDER BY k.attnum)
         FROM known k
         -- Who becomes the owner, or was, sees another value although it is the same.
         LEFT JOIN LATERAL (SELECT format('x.%I', coalesce($1.owner_column, '')) AS new, format('y.%I', coalesce($1.owner_column, '')) AS old
                            WHERE k.mask -> 'show' ->> 'or' = 'owner' AND $1.owner_column IS NOT NULL) w ON true
         WHERE k.shown AND k.mask IS NOT NULL)) END
$$;

-- The body of the trigger function of one table and operation.
--
-- First the one row that most statements write, by the cheapest query there is; INTO STRICT says
-- whether there are none or more. Then all rows at once: when they are of one organization only its
-- name and their number (and keys) are told, otherwise arrays that run along the rows.
--
-- In a transaction of one statement every expression of the function is set up anew, at half a
-- microsecond each and more in a cold cache. So the way of the one row has few: no variable starts
-- with a value, `lo` stays null when there are many rows, the privilege is asked by oid.
CREATE OR REPLACE FUNCTION rowcast.trigger_body(rule rowcast.tables, op text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    plan     jsonb := rowcast.plan(rule.relid, rule.organization_column, rule.organization_path);
    by_path  boolean := jsonb_array_length(plan -> 'hops') > 0;
    keyed    boolean := cardinality(rule.key_columns) > 0;
    by_log   boolean := rule.storage = 'log';
    by_user  boolean := rule.user_column IS NOT NULL;
    with_ids boolean := keyed AND (NOT by_log OR NOT rule.published);
    two      boolean := op = 'UPDATE';
    -- The log has no row that would say that its key changed.
    by_key   boolean := two AND with_ids AND NOT rule.published;
    crossing text := CASE WHEN two THEN rowcast.partition_key_sql(rule.relid) END;
    changed  text := CASE WHEN two THEN rowcast.changed_sql(rule) END;
    watched  boolean := changed IS NOT NULL;
    -- Rows of one UPDATE, side by side: both tables of a transition have them in the same order.
    pairs    text := '(SELECT row_number() OVER () AS "rowcast row", r.* FROM new_rows r) x'
        ' JOIN (SELECT row_number() OVER () AS "rowcast row", r.* FROM old_rows r) y USING ("rowcast row")';
    -- Whether one query brings arrays at once; otherwise they are read only when organizations differ.
    arrays   boolean := NOT by_log OR by_path OR by_user OR with_ids OR crossing IS NOT NULL;
    v        jsonb;
BEGIN
    v := jsonb_build_object(
        'relid', rule.relid, 'schema', quote_literal(rule.schema_name), 'table', quote_literal(rule.table_name),
        'op', op, 'storage', rule.storage, 'by_user', by_user, 'max', rule.max_rows, 'limit', rule.max_rows::bigint + 1,
        'rows', CASE op WHEN 'DELETE' THEN 'old_rows' ELSE 'new_rows' END,
        'org', rowcast.organization_sql(rule.relid, plan, 0, 'x', by_path AND op = 'DELETE'),
        'old_org', rowcast.organization_sql(rule.relid, plan, 0, 'x', by_path),
        'old_org_y', rowcast.organization_sql(rule.relid, plan, 0, 'y', by_path),
        'id', CASE WHEN keyed THEN rowcast.record_id_sql(rule.relid, rule.key_columns, 'x') ELSE 'NULL::text' END,
        'id_y', CASE WHEN keyed THEN rowcast.record_id_sql(rule.relid, rule.key_columns, 'y') ELSE 'NULL::text' END,
        'user', CASE WHEN by_user THEN rowcast.text_sql(rule.relid, rule.user_column, 'x') END,
        'user_y', CASE WHEN by_user THEN rowcast.text_sql(rule.relid, rule.user_column, 'y') END,
        'crossing', crossing, 'home', rowcast.home_sql(rule.relid), 'changed', changed, 'pairs', pairs,
        'guard', CASE WHEN by_log THEN '' ELSE $$
        IF has_table_privilege($$ || coalesce(to_regclass('public.realtime_table_events')::oid, 0) || $$::oid, 'INSERT') IS NOT TRUE THEN
            RAISE EXCEPTION 'public.realtime_table_events is not the table it was, or the owner of the trigger may not insert into it';
        END IF;$$ END);

    -- What happens to errors, and to rows that belong to nobody.
    v := v || jsonb_build_object(
        'failed', CASE WHEN rule."strict" THEN '' ELSE rowcast.render($$
    WHEN OTHERS THEN
        PERFORM rowcast.note_problem(«relid», '«op»', 'SQLSTATE ' || SQLSTATE
            || CASE WHEN SQLSTATE LIKE '42%' OR SQLSTATE = 'P0001' THEN ': ' || SQLERRM ELSE '' END);«give_up»
        RETURN NULL;$$, v || jsonb_build_object('give_up', CASE WHEN by_log THEN rowcast.render($$
        -- Says that these rows are nobody's: a statement around this one must not take them for its own.
        PERFORM pg_logical_emit_message(true, 'rowcast',
            concat('{"v":1,"t":«relid»,"op":"«op»","n":', (SELECT count(*) FROM «rows»), ',"bulk":[]}'));$$, v) END)) END,
        'unmapped', CASE WHEN rule."strict" THEN rowcast.render($$
        RAISE EXCEPTION 'rowcast: % of % rows of %.% belong to no organization («op», first record %)', n - mapped, n, «schema», «table», id
            USING ERRCODE = 'RC001', HINT = 'Fill the organization, or track the table again with strict => false.';$$, v)
        ELSE rowcast.render($$
        PERFORM rowcast.note_problem(«relid», '«op»', 'no organization', n - mapped, id);$$, v) END);

    -- One row.
    v := v || jsonb_build_object(
        'one_fields', concat_ws(', ', v ->> 'org', CASE WHEN by_log AND NOT with_ids THEN 'NULL::text' ELSE v ->> 'id' END, v ->> 'user',
            CASE WHEN two THEN concat_ws(', ', v ->> 'old_org_y', CASE WHEN by_log AND NOT with_ids THEN 'NULL::text' ELSE v ->> 'id_y' END, v ->> 'user_y') END,
            changed),
        'one_into', concat_ws(', ', 'lo, id', CASE WHEN by_user THEN 'usr' END,
            CASE WHEN two THEN concat_ws(', ', 'old_lo, old_id', CASE WHEN by_user THEN 'old_usr' END) END,
            CASE WHEN watched THEN 'change' END),
        'one_from', CASE WHEN two THEN 'new_rows x, old_rows y' ELSE v ->> 'rows' || ' x' END,
        'one_tell', CASE WHEN by_log THEN rowcast.render($$PERFORM pg_logical_emit_message(true, 'rowcast',
            concat('{"v":1,"t":«relid»,"op":"«op»","n":1,"org":', to_json(lo)«users»«ids»«changes», '}'));$$, v || jsonb_build_object(
                'changes', CASE WHEN watched THEN $$, ',"changed":[' || to_json(change)::text || ']'$$ END,
                'users', CASE WHEN by_user THEN $$, ',"users":[', coalesce(to_json(usr)::text, 'null'), ']'$$ END,
                'ids', CASE WHEN with_ids THEN $$, ',"ids":[', to_json(id), ']'$$ END))
        ELSE rowcast.render($$«unless»INSERT INTO public.realtime_table_events
            (organization_id, table_schema, table_name, event_type, record_id, relation_id«user_column»«changed_column»)
        VALUES (lo, «schema», «table», '«op»', id, «relid»«usr»«change»);$$, v || jsonb_build_object(
                'changed_column', CASE WHEN watched THEN ', changed' END, 'change', CASE WHEN watched THEN ', change::text[]' END,
                'unless', CASE WHEN by_user THEN E'IF usr IS NULL THEN RETURN NULL; END IF;\n        ' END,
                'user_column', CASE WHEN by_user THEN ', user_id' END, 'usr', CASE WHEN by_user THEN ', usr' END)) END,
        'one_arrays', concat_ws(', ', 'ARRAY[lo]', CASE WHEN two THEN 'ARRAY[old_lo]' ELSE 'NULL::text[]' END,
            CASE WHEN by_user THEN 'ARRAY[usr]' ELSE 'NULL::text[]' END, CASE WHEN by_user AND two THEN 'ARRAY[old_usr]' ELSE 'NULL::text[]' END,
            CASE WHEN with_ids THEN 'ARRAY[id]' ELSE 'NULL::text[]' END, CASE WHEN with_ids AND two THEN 'ARRAY[old_id]' ELSE 'NULL::text[]' END,
            CASE WHEN watched THEN 'ARRAY[change]' ELSE 'NULL::text[]' END),
        'one_same', concat_ws(' AND ', 'lo IS NOT NULL', CASE WHEN two THEN 'lo = old_lo' END,
            CASE WHEN two AND by_user THEN 'usr IS NOT DISTINCT FROM old_usr' END,
            CASE WHEN by_key THEN 'id IS NOT DISTINCT FROM old_id' END));
    -- What is said with arrays; the names of the arrays stand in one order for both storages.
    v := v || jsonb_build_object('tell', CASE
        WHEN by_log THEN rowcast.render($$PERFORM rowcast.tell_by_log(«relid», '«op»', a.orgs, a.old_orgs, a.users, a.old_users, a.ids, a.old_ids, a.changes)$$, v)
        ELSE rowcast.render($$PERFORM rowcast.tell_by_table(«relid», «schema», «table», '«op»', '«by_user»', a.orgs, a.ids, a.users, a.old_orgs, a.old_ids, a.old_users, a.changes)$$, v) END
        || ' FROM (SELECT %s) AS a(orgs, old_orgs, users, old_users, ids, old_ids, changes);');
    v := v || jsonb_build_object(
        'one_other', format(v ->> 'tell', v ->> 'one_arrays'),
        'all_changes', CASE WHEN watched THEN 'changes' ELSE 'NULL::text[]' END);
    v := v || jsonb_build_object('all_other', format(v ->> 'tell', 'orgs, old_orgs, users, old_users, ids, old_ids, ' || (v ->> 'all_changes')));
    v := v || jsonb_build_object('one', CASE WHEN NOT keyed OR crossing IS NOT NULL THEN '' ELSE rowcast.render($$
    BEGIN
        SELECT «one_fields» INTO STRICT «one_into» FROM «one_from»;«guard»
    EXCEPTION
    WHEN no_data_found THEN
        RETURN NULL;
    WHEN too_many_rows THEN
        many := true;«failed»
    END;
    IF «one_same» THEN
        «one_tell»
        RETURN NULL;
    ELSIF many IS NULL THEN
        IF lo IS NULL THEN
            n := 1; mapped := 0;
            SELECT «id» INTO id FROM «rows» x;«unmapped»
        END IF;
        «one_other»
        RETURN NULL;
    END IF;$$, v) END);

    -- All rows.
    v := v || jsonb_build_object(
        'some_arrays', concat(CASE WHEN arrays THEN ', array_agg(s.o) AS o' ELSE ', NULL::text[] AS o' END,
            CASE WHEN by_user THEN ', array_agg(s.u) AS u' ELSE ', NULL::text[] AS u' END),
        'some_ids', CASE WHEN with_ids THEN ', array_agg(s.k) AS k' ELSE ', NULL::text[] AS k' END,
        'and_id', CASE WHEN with_ids THEN ', ' || (v ->> 'id') || ' AS k' END,
        'and_user', CASE WHEN by_user THEN ', ' || (v ->> 'user') || ' AS u' END);
    v := v || jsonb_build_object('read', rowcast.render($$(
            SELECT count(*) AS n, count(s.o) AS mapped, min(s.o) AS lo, max(s.o) AS hi«some_arrays»«some_ids»
            FROM (SELECT («org») COLLATE "C" AS o«and_user»«and_id» FROM «rows» x LIMIT «limit») s)$$, v));
    v := v || jsonb_build_object('read', CASE WHEN two THEN rowcast.render($$SELECT a.n, a.mapped, a.lo, a.hi, a.o, a.u, a.k, b.mapped, b.lo, b.hi, b.o, b.u
        INTO n, mapped, lo, hi, orgs, users, ids, old_mapped, old_lo, old_hi, old_orgs, old_users
        FROM «read» a, (
            SELECT count(s.o) AS mapped, min(s.o) AS lo, max(s.o) AS hi«some_arrays»
            FROM (SELECT («old_org») COLLATE "C" AS o«and_user» FROM old_rows x LIMIT «limit») s) b;$$, v)
        || CASE WHEN by_key THEN rowcast.render($$
        SELECT array_agg(s.k) INTO old_ids FROM (SELECT «id» AS k FROM old_rows x LIMIT «limit») s;$$, v) ELSE '' END
        ELSE rowcast.render($$SELECT a.n, a.mapped, a.lo, a.hi, a.o, a.u, a.k INTO n, mapped, lo, hi, orgs, users, ids FROM «read» a;$$, v) END);
    v := v || jsonb_build_object(
        'too_many', CASE WHEN keyed THEN rowcast.render('n > «max»', v) ELSE 'true' END,
        'and_old_organizations', CASE WHEN two THEN rowcast.render($$
            SELECT array_agg(s.o ORDER BY s.o) INTO orgs
            FROM (SELECT unnest(orgs) AS o UNION SELECT o.o FROM (SELECT («old_org») COLLATE "C" AS o FROM old_rows x OFFSET 0) o) s WHERE s.o IS NOT NULL;$$, v) END,
        'same', concat_ws(' AND ', 'mapped = n AND lo = hi', CASE WHEN two THEN 'old_mapped = n AND lo = old_lo AND lo = old_hi' END,
            CASE WHEN two AND by_user THEN 'users IS NOT DISTINCT FROM old_users' END,
            CASE WHEN by_key THEN 'ids IS NOT DISTINCT FROM old_ids' END),
        'rest', concat(
            CASE WHEN NOT arrays THEN rowcast.render($$
            SELECT array_agg(s.o) INTO orgs FROM (SELECT «org» AS o FROM «rows» x) s;$$, v) END,
            CASE WHEN NOT arrays AND two THEN rowcast.render($$
            SELECT array_agg(s.o) INTO old_orgs FROM (SELECT «old_org» AS o FROM old_rows x) s;$$, v) END,
            CASE WHEN with_ids AND two THEN rowcast.render($$
            SELECT array_agg(s.k) INTO old_ids FROM (SELECT «id» AS k FROM old_rows x) s;$$, v) END,
            $$
            NULL;$$),
        'cross', CASE WHEN crossing IS NOT NULL THEN rowcast.render($$
        IF NOT bulk AND EXISTS (SELECT FROM (SELECT row_number() OVER () AS "rowcast row", x.* FROM old_rows x) o
                JOIN (SELECT row_number() OVER () AS "rowcast row", x.* FROM new_rows x) n USING ("rowcast row") WHERE «crossing») THEN
            EXECUTE 'SELECT array_agg(s.l), (SELECT array_agg(s.l) FROM (SELECT ' || rowcast.leaf_sql(«relid») || ' AS l FROM old_rows) s)'
                ' FROM (SELECT ' || rowcast.leaf_sql(«relid») || ' AS l FROM new_rows) s' INTO leaf, old_leaf;
            across := leaf IS DISTINCT FROM old_leaf;
        END IF;
«old_ids»$$, v || jsonb_build_object('old_ids', CASE WHEN with_ids THEN rowcast.render($$
        IF across AND old_ids IS NULL THEN
            SELECT array_agg(s.k) INTO old_ids FROM (SELECT «id» AS k FROM old_rows x) s;
        END IF;$$, v) END)) END,
        'tell_across', CASE WHEN crossing IS NOT NULL THEN rowcast.render($$
    IF across THEN
        PERFORM rowcast.tell_across(«relid», «schema», «table», '«storage»', '«by_user»', orgs, ids, users, old_orgs, old_ids, old_users, «all_changes», leaf, old_leaf);
        RETURN NULL;
    END IF;$$, v) END,
        'all_same', CASE WHEN by_log THEN rowcast.render($$PERFORM pg_logical_emit_message(true, 'rowcast',
            concat('{"v":1,"t":«relid»,"op":"«op»","n":', n, ',"org":', to_json(lo)«users»«ids»«changes», '}'));$$, v || jsonb_build_object(
                'changes', CASE WHEN watched THEN $$, ',"changed":' || array_to_json(changes)::text$$ END,
                'users', CASE WHEN by_user THEN $$, ',"users":', array_to_json(users)$$ END,
                'ids', CASE WHEN with_ids THEN $$, ',"ids":', array_to_json(ids)$$ END))
        ELSE rowcast.render($$INSERT INTO public.realtime_table_events
            (organization_id, table_schema, table_name, event_type, record_id, relation_id, user_id«changed_column»)
        SELECT lo, «schema», «table», '«op»', e.k, «relid», «user»«change» FROM unnest(«arrays») AS e(«names»)«where»;$$, v || jsonb_build_object(
            'changed_column', CASE WHEN watched THEN ', changed' END, 'change', CASE WHEN watched THEN ', e.c::text[]' END,
            'user', CASE WHEN by_user THEN 'e.u' ELSE 'NULL' END, 'where', CASE WHEN by_user THEN ' WHERE e.u IS NOT NULL' END,
            'arrays', concat_ws(', ', 'ids', CASE WHEN by_user THEN 'users' END, CASE WHEN watched THEN 'changes' END),
            'names', concat_ws(', ', 'k', CASE WHEN by_user THEN 'u' END, CASE WHEN watched THEN 'c' END))) END);

    -- What changed, where not all may know of it: by row, or of many rows by organization.
    v := v || jsonb_build_object('watch', CASE WHEN watched THEN rowcast.render($$
        IF bulk THEN
            SELECT array_agg(t.o ORDER BY t.o), array_agg(CASE WHEN NOT t.told THEN
                (SELECT array_agg(DISTINCT name) FROM unnest(t.c) c CROSS JOIN LATERAL unnest(c::text[]) name)::text END ORDER BY t.o)
            INTO orgs, changes
            FROM (SELECT s.o, bool_or(s.c IS NULL) AS told, array_agg(DISTINCT s.c) AS c
                  FROM (SELECT unnest(CASE WHEN p.o = p.old_o THEN ARRAY[p.o] ELSE ARRAY[p.o, p.old_o] END) AS o, CASE WHEN p.o = p.old_o THEN p.c END AS c
                        FROM (SELECT («org») COLLATE "C" AS o, («old_org_y») COLLATE "C" AS old_o, «changed» AS c FROM «pairs» OFFSET 0) p) s
                  WHERE s.o IS NOT NULL AND s.c IS DISTINCT FROM '{}' GROUP BY s.o) t;
        ELSE
            SELECT array_agg(s.c ORDER BY s.i) INTO changes FROM (SELECT "rowcast row" AS i, «changed» AS c FROM «pairs») s;
            IF cardinality(array_remove(changes, NULL)) = 0 THEN
                changes := NULL;
            END IF;
        END IF;$$, v) END, 'watch_names', CASE WHEN watched THEN E'\n    change text; changes text[];' END);

    RETURN rowcast.render($$DECLARE
    n bigint; mapped bigint; lo text; hi text; id text; usr text;
    old_mapped bigint; old_lo text; old_hi text; old_id text; old_usr text;
    orgs text[]; ids text[]; users text[]; old_orgs text[]; old_ids text[]; old_users text[];
    leaf bigint[]; old_leaf bigint[]; jit text;
    many boolean; bulk boolean; single boolean; across boolean;«watch_names»
BEGIN«home»«one»
    bulk := false; single := false; across := false;
    BEGIN
        -- Compiling these queries would cost more than running them.
        jit := current_setting('jit');
        id := set_config('jit', 'off', true);
        «read»
        IF n = 0 THEN
            jit := set_config('jit', jit, true);
            RETURN NULL;
        END IF;
        IF «too_many» THEN
            bulk := true;
            -- OFFSET 0 keeps the planner from asking for the organization once for each use.
            SELECT sum(g.c), coalesce(sum(g.c) FILTER (WHERE g.o IS NOT NULL), 0), array_agg(g.o ORDER BY g.o) FILTER (WHERE g.o IS NOT NULL)
            INTO n, mapped, orgs
            FROM (SELECT s.o, count(*) AS c FROM (SELECT («org») COLLATE "C" AS o FROM «rows» x OFFSET 0) s GROUP BY s.o) g;«and_old_organizations»
        ELSIF «same» THEN
            single := true;
        ELSE«rest»
        END IF;«cross»«watch»
        IF mapped < n THEN
            SELECT «id» INTO id FROM «rows» x WHERE («org») IS NULL LIMIT 1;
        END IF;«guard»
        jit := set_config('jit', jit, true);
    EXCEPTION
    WHEN no_data_found THEN
        RETURN NULL;«failed»
    END;
    IF mapped < n THEN«unmapped»
    END IF;«tell_across»
    IF bulk THEN
        PERFORM rowcast.tell_bulk(«relid», «schema», «table», '«op»', '«storage»', n, orgs, «all_changes»);
    ELSIF single THEN
        «all_same»
    ELSE
        «all_other»
    END IF;
    RETURN NULL;
END$$, v);
END $function$;

-- The body of the TRUNCATE trigger: told by a message whatever the storage, and noted for those who come back.
CREATE OR REPLACE FUNCTION rowcast.truncate_body(rule rowcast.tables) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format(E'BEGIN%s\n    PERFORM pg_logical_emit_message(true, ''rowcast'', ''{"v":1,"t":%s,"op":"TRUNCATE","n":0}'');'
        '\n    PERFORM rowcast.note_marks(''{%s}'', ''truncated'', ''{NULL}'');\n    RETURN NULL;\nEND',
        rowcast.home_sql($1.relid), $1.relid, $1.relid)
$$;
