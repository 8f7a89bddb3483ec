-- Rowcast 0004: what the triggers say, and the SQL they are generated from.
--
-- Per table and operation one statement-level trigger with transition tables and static SQL. Reading
-- (look-ups that a later change of the schema may break) stands in an exception block, writing does
-- not: a block that writes would take a subtransaction id for each statement of the application.

SELECT pg_catalog.pg_advisory_xact_lock(7310868735422358133);

-- A log message about rows of several organizations, or rows that moved. Arrays run along the rows.
CREATE OR REPLACE FUNCTION rowcast.tell_by_log(
    relid oid, op text, orgs text[], old_orgs text[], users text[], old_users text[], ids text[]
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_logical_emit_message(true, 'rowcast',
        concat('{"v":1,"t":', relid, ',"op":"', op, '","n":', cardinality(orgs), ',"orgs":', array_to_json(orgs),
            ',"old":' || array_to_json(CASE WHEN old_orgs IS DISTINCT FROM orgs THEN old_orgs END)::text,
            ',"users":' || array_to_json(users)::text,
            ',"old_users":' || array_to_json(CASE WHEN old_users IS DISTINCT FROM users THEN old_users END)::text,
            ',"ids":' || array_to_json(ids)::text, '}'));
END $$;

-- The same as rows of realtime_table_events. A row that moved gives a DELETE and an INSERT.
CREATE OR REPLACE FUNCTION rowcast.tell_by_table(
    relid oid, schema_name text, table_name text, op text, by_user boolean,
    orgs text[], ids text[], users text[], old_orgs text[], old_ids text[], old_users text[]
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    IF old_orgs IS NULL THEN
        INSERT INTO public.realtime_table_events
            (organization_id, table_schema, table_name, event_type, record_id, relation_id, user_id)
        SELECT e.o, schema_name, table_name, op, e.k, relid, e.u
        FROM unnest(orgs, ids, users) AS e(o, k, u)
        WHERE e.o IS NOT NULL AND (e.u IS NOT NULL OR NOT by_user);
    ELSE
        INSERT INTO public.realtime_table_events
            (organization_id, table_schema, table_name, event_type, record_id, relation_id, user_id, operation)
        SELECT v.o, schema_name, table_name, v.event, v.k, relid, v.u, v.operation
        FROM unnest(orgs, ids, users, old_orgs, old_ids, old_users) WITH ORDINALITY AS e(o, k, u, oo, ok, ou, i)
        CROSS JOIN LATERAL (VALUES
            (1, op, e.o, e.k, e.u, NULL),
            (2, 'DELETE', e.oo, e.ok, e.ou, op),
            (3, 'INSERT', e.o, e.k, e.u, op)) AS v(part, event, o, k, u, operation)
        WHERE v.o IS NOT NULL AND (v.u IS NOT NULL OR NOT by_user)
          AND (v.part = 1) = (e.o IS NOT DISTINCT FROM e.oo AND e.u IS NOT DISTINCT FROM e.ou)
        ORDER BY e.i, v.part;
    END IF;
END $$;

-- One event for each organization instead of one for each row.
CREATE OR REPLACE FUNCTION rowcast.tell_bulk(
    relid oid, schema_name text, table_name text, op text, storage text, n bigint, orgs text[]
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    IF storage = 'log' THEN
        PERFORM pg_logical_emit_message(true, 'rowcast', concat('{"v":1,"t":', relid, ',"op":"', op, '","n":', n,
            ',"bulk":', coalesce(array_to_json(orgs)::text, '[]'), '}'));
    ELSE
        INSERT INTO public.realtime_table_events
            (organization_id, table_schema, table_name, event_type, relation_id, row_count)
        SELECT o, schema_name, table_name, op, relid, n FROM unnest(orgs) AS o;
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
    orgs text[], ids text[], users text[], old_orgs text[], old_ids text[], old_users text[], leaf bigint[], old_leaf bigint[]
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    part record;
BEGIN
    FOR part IN
        SELECT l IS DISTINCT FROM ol AS across, count(*) AS n,
            array_agg(o ORDER BY i) AS o, array_agg(k ORDER BY i) AS k, array_agg(u ORDER BY i) AS u,
            array_agg(oo ORDER BY i) AS oo, array_agg(ok ORDER BY i) AS ok, array_agg(ou ORDER BY i) AS ou
        FROM unnest(orgs, ids, users, old_orgs, old_ids, old_users, leaf, old_leaf) WITH ORDINALITY AS e(o, k, u, oo, ok, ou, l, ol, i)
        GROUP BY 1 ORDER BY 1
    LOOP
        IF storage = 'log' THEN
            IF NOT part.across THEN
                PERFORM rowcast.tell_by_log(relid, 'UPDATE', part.o, part.oo, CASE WHEN by_user THEN part.u END,
                    CASE WHEN by_user THEN part.ou END, CASE WHEN ids IS NOT NULL THEN part.k END);
            ELSE
                PERFORM rowcast.tell_by_log(relid, 'DELETE', part.oo, NULL, CASE WHEN by_user THEN part.ou END, NULL,
                    CASE WHEN old_ids IS NOT NULL THEN part.ok END);
                PERFORM rowcast.tell_by_log(relid, 'INSERT', part.o, NULL, CASE WHEN by_user THEN part.u END, NULL,
                    CASE WHEN ids IS NOT NULL THEN part.k END);
            END IF;
        ELSIF NOT part.across THEN
            PERFORM rowcast.tell_by_table(relid, schema_name, table_name, 'UPDATE', by_user, part.o, part.k, part.u, part.oo, part.ok, part.ou);
        ELSE
            PERFORM rowcast.tell_by_table(relid, schema_name, table_name, 'DELETE', by_user, part.oo, part.ok, part.ou, NULL, NULL, NULL);
            PERFORM rowcast.tell_by_table(relid, schema_name, table_name, 'INSERT', by_user, part.o, part.k, part.u, NULL, NULL, NULL);
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

-- The body of the trigger function of one table and operation.
CREATE OR REPLACE FUNCTION rowcast.trigger_body(rule rowcast.tables, op text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    plan    jsonb := rowcast.plan(rule.relid, rule.organization_column, rule.organization_path);
    by_path boolean := jsonb_array_length(plan -> 'hops') > 0;
    keyed   boolean := cardinality(rule.key_columns) > 0;
    by_log  boolean := rule.storage = 'log';
    by_user boolean := rule.user_column IS NOT NULL;
    with_ids boolean := keyed AND (rule.storage = 'table' OR NOT rule.published);
    org_new text := rowcast.organization_sql(rule.relid, plan, 0, 'x', false);
    org_old text := rowcast.organization_sql(rule.relid, plan, 0, 'x', by_path);
    id      text := CASE WHEN keyed THEN rowcast.record_id_sql(rule.relid, rule.key_columns, 'x') ELSE 'NULL::text' END;
    usr     text := CASE WHEN by_user THEN rowcast.text_sql(rule.relid, rule.user_column, 'x') ELSE 'NULL::text' END;
    moving  text := CASE WHEN op = 'UPDATE' THEN rowcast.partition_key_sql(rule.relid) END;
    side    text;
    body    text;
    read    text;
    tell    text;
    place   text := format('%s, %L, %L', rule.relid, rule.schema_name, rule.table_name);
    -- Columns a side needs: always count and range of organizations, arrays where they may be wanted.
    arrays  boolean := NOT by_log OR by_path OR by_user OR with_ids OR moving IS NOT NULL;
    quick   text;
    sample  text;
    most    int := rule.max_rows;
BEGIN
    side := '(SELECT count(*) AS n, count(s.o) AS mapped, min(s.o) AS lo, max(s.o) AS hi'
        || CASE WHEN arrays THEN ', array_agg(s.o) AS o' ELSE ', NULL::text[] AS o' END
        || CASE WHEN with_ids THEN ', array_agg(s.k) AS k' ELSE ', NULL::text[] AS k' END
        || CASE WHEN by_user THEN ', array_agg(s.u) AS u' ELSE ', NULL::text[] AS u' END
        || ' FROM (SELECT (%s) COLLATE "C" AS o'
        || CASE WHEN with_ids THEN ', %s AS k' ELSE '%.0s' END
        || CASE WHEN by_user THEN ', %s AS u' ELSE '%.0s' END
        || ' FROM %s x LIMIT ' || (most::bigint + 1) || ') s)';
    -- format() knows no empty argument, so leave out what is not wanted.
    side := replace(side, '%.0s', '');

    IF op = 'UPDATE' THEN
        read := format('SELECT a.n, a.mapped, a.lo, a.hi, a.o, a.k, a.u, b.mapped, b.lo, b.hi, b.o, b.u'
            ' INTO n, mapped, lo, hi, orgs, ids, users, old_mapped, old_lo, old_hi, old_orgs, old_users FROM %s a, %s b;',
            rowcast.fill(side, org_new, CASE WHEN with_ids THEN id END, CASE WHEN by_user THEN usr END, 'new_rows'),
            rowcast.fill(replace(replace(side, ', array_agg(s.k) AS k', ''), ', %s AS k', ''), org_old, NULL, CASE WHEN by_user THEN usr END, 'old_rows'));
    ELSE
        read := format('SELECT a.n, a.mapped, a.lo, a.hi, a.o, a.k, a.u INTO n, mapped, lo, hi, orgs, ids, users FROM %s a;',
            rowcast.fill(side, CASE op WHEN 'DELETE' THEN org_old ELSE org_new END, CASE WHEN with_ids THEN id END,
                CASE WHEN by_user THEN usr END, CASE op WHEN 'DELETE' THEN 'old_rows' ELSE 'new_rows' END));
    END IF;
    sample := format('SELECT %s INTO sample FROM %s x WHERE (%s) IS NULL LIMIT 1;', id,
        CASE op WHEN 'DELETE' THEN 'old_rows' ELSE 'new_rows' END, CASE op WHEN 'DELETE' THEN org_old ELSE org_new END);

    read := read || E'\n    IF n = 0 THEN RETURN NULL; END IF;';
    -- Above the limit, or without a key, the statement is told once for each organization.
    read := read || format(E'\n    IF %s THEN\n        bulk := true;\n        SELECT count(*), count(s.o), array_agg(DISTINCT s.o) FILTER (WHERE s.o IS NOT NULL)'
        ' INTO n, mapped, orgs FROM (SELECT (%s) COLLATE "C" AS o FROM %s x) s;',
        CASE WHEN keyed THEN 'n > ' || most ELSE 'true' END,
        CASE op WHEN 'DELETE' THEN org_old ELSE org_new END, CASE op WHEN 'DELETE' THEN 'old_rows' ELSE 'new_rows' END);
    IF op = 'UPDATE' THEN
        read := read || format(E'\n        SELECT array_agg(DISTINCT s.o) INTO orgs FROM (SELECT unnest(orgs) AS o UNION SELECT (%s) COLLATE "C" FROM old_rows x) s WHERE s.o IS NOT NULL;', org_old);
        read := read || format(E'\n    ELSIF mapped = n AND old_mapped = n AND lo = hi AND lo = old_lo AND lo = old_hi%s THEN\n        single := true;',
            CASE WHEN by_user THEN ' AND users IS NOT DISTINCT FROM old_users' ELSE '' END);
        read := read || E'\n    ELSE';
        IF NOT arrays THEN
            read := read || format(E'\n        SELECT array_agg(s.o) INTO orgs FROM (SELECT %s AS o FROM new_rows x) s;\n        SELECT array_agg(s.o) INTO old_orgs FROM (SELECT %s AS o FROM old_rows x) s;', org_new, org_old);
        END IF;
        IF with_ids THEN
            read := read || format(E'\n        SELECT array_agg(s.k) INTO old_ids FROM (SELECT %s AS k FROM old_rows x) s;', id);
        ELSE
            read := read || E'\n        NULL;';
        END IF;
        read := read || E'\n    END IF;';
    ELSE
        read := read || E'\n    ELSIF mapped = n AND lo = hi THEN\n        single := true;';
        IF NOT arrays THEN
            read := read || format(E'\n    ELSE\n        SELECT array_agg(s.o) INTO orgs FROM (SELECT %s AS o FROM %s x) s;',
                CASE op WHEN 'DELETE' THEN org_old ELSE org_new END, CASE op WHEN 'DELETE' THEN 'old_rows' ELSE 'new_rows' END);
        END IF;
        read := read || E'\n    END IF;';
    END IF;
    IF moving IS NOT NULL THEN
        read := read || format($moving$
    IF NOT bulk AND EXISTS (SELECT FROM (SELECT row_number() OVER () AS i, x.* FROM old_rows x) o
            JOIN (SELECT row_number() OVER () AS i, x.* FROM new_rows x) n USING (i) WHERE %s) THEN
        EXECUTE 'SELECT array_agg(s.l), (SELECT array_agg(s.l) FROM (SELECT ' || rowcast.leaf_sql(%s) || ' AS l FROM old_rows) s)'
            ' FROM (SELECT ' || rowcast.leaf_sql(%s) || ' AS l FROM new_rows) s' INTO leaf, old_leaf;
        across := leaf IS DISTINCT FROM old_leaf;%s
    END IF;$moving$, moving, rule.relid, rule.relid,
            CASE WHEN with_ids THEN format(E'\n        IF across THEN SELECT array_agg(s.k) INTO old_ids FROM (SELECT %s AS k FROM old_rows x) s; END IF;', id) ELSE '' END);
    END IF;
    read := read || format(E'\n    IF mapped < n THEN\n        %s\n    END IF;', sample);
    IF NOT by_log THEN
        -- Raises inside the block when the table is gone or closed, so that the insert below does not.
        read := read || E'\n    IF NOT has_table_privilege(''public.realtime_table_events'', ''INSERT'') THEN\n'
            '        RAISE EXCEPTION ''no privilege to insert into public.realtime_table_events'';\n    END IF;';
    END IF;

    quick := CASE
        WHEN by_log THEN format(E'PERFORM pg_logical_emit_message(true, ''rowcast'', concat(''{"v":1,"t":%s,"op":"%s","n":'', n, '',"org":'', to_json(lo)%s%s, ''}''));',
            rule.relid, op,
            CASE WHEN by_user THEN ', '',"users":'', array_to_json(users)' ELSE '' END,
            CASE WHEN with_ids THEN ', '',"ids":'', array_to_json(ids)' ELSE '' END)
        ELSE format(E'IF n = 1 THEN\n%s            INSERT INTO public.realtime_table_events (organization_id, table_schema, table_name, event_type, record_id, relation_id%s)'
            '\n            VALUES (lo, %L, %L, %L, ids[1], %s%s);\n%s        ELSE'
            '\n            INSERT INTO public.realtime_table_events (organization_id, table_schema, table_name, event_type, record_id, relation_id%s)'
            '\n            SELECT lo, %L, %L, %L, e.k, %s%s FROM unnest(ids%s) AS e(k%s)%s;\n        END IF;',
            CASE WHEN by_user THEN E'            IF users[1] IS NULL THEN RETURN NULL; END IF;\n' ELSE '' END,
            CASE WHEN by_user THEN ', user_id' ELSE '' END,
            rule.schema_name, rule.table_name, op, rule.relid, CASE WHEN by_user THEN ', users[1]' ELSE '' END, '',
            CASE WHEN by_user THEN ', user_id' ELSE '' END,
            rule.schema_name, rule.table_name, op, rule.relid, CASE WHEN by_user THEN ', e.u' ELSE '' END,
            CASE WHEN by_user THEN ', users' ELSE '' END, CASE WHEN by_user THEN ', u' ELSE '' END,
            CASE WHEN by_user THEN ' WHERE e.u IS NOT NULL' ELSE '' END) END;

    tell := CASE WHEN moving IS NOT NULL THEN format(E'    IF across THEN\n        PERFORM rowcast.tell_across(%s, %L, %L, orgs, ids, users, old_orgs, old_ids, old_users, leaf, old_leaf);\n        RETURN NULL;\n    END IF;\n',
            place, rule.storage, by_user) ELSE '' END
        || format(E'    IF bulk THEN\n        PERFORM rowcast.tell_bulk(%s, %L, %L, n, orgs);\n    ELSIF single THEN\n        %s\n    ELSE\n        %s\n    END IF;\n    RETURN NULL;',
            place, op, rule.storage, quick,
            CASE WHEN by_log THEN format('PERFORM rowcast.tell_by_log(%s, %L, orgs, old_orgs, users, old_users, ids);', rule.relid, op)
                 ELSE format('PERFORM rowcast.tell_by_table(%s, %L, %L, orgs, ids, users, old_orgs, old_ids, old_users);', place, op, by_user) END);

    body := E'DECLARE\n    n bigint; mapped bigint; lo text; hi text; orgs text[]; ids text[]; users text[];\n'
        '    old_mapped bigint; old_lo text; old_hi text; old_orgs text[]; old_ids text[]; old_users text[];\n'
        '    bulk boolean := false; single boolean := false; across boolean := false; leaf bigint[]; old_leaf bigint[]; sample text;\n'
        'BEGIN\n';
    IF rule."strict" THEN
        body := body || '    ' || read || format(E'\n    IF mapped < n THEN\n'
            '        RAISE EXCEPTION ''rowcast: %% of %% rows of %s belong to no organization (%s, first record %%)'', n - mapped, n, sample\n'
            '            USING ERRCODE = ''RC001'', HINT = %L;\n    END IF;\n', replace(rule.relid::regclass::text, '%', '%%'), op,
            'Fill the organization, or track the table again with strict => false.');
    ELSE
        body := body || E'    BEGIN\n    ' || read || format(E'\n    EXCEPTION WHEN OTHERS THEN\n'
            '        PERFORM rowcast.note_problem(%s, %L, ''SQLSTATE '' || SQLSTATE || CASE WHEN SQLSTATE LIKE ''42%%'' OR SQLSTATE = ''P0001'' THEN '': '' || SQLERRM ELSE '''' END);\n'
            '        RETURN NULL;\n    END;\n'
            '    IF mapped < n THEN\n        PERFORM rowcast.note_problem(%s, %L, ''no organization'', n - mapped, sample);\n    END IF;\n',
            rule.relid, op, rule.relid, op);
    END IF;
    RETURN body || tell || E'\nEND';
END $$;

-- format() with the arguments that are there.
CREATE OR REPLACE FUNCTION rowcast.fill(template text, VARIADIC arguments text[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS
$$ SELECT format($1, VARIADIC (SELECT array_agg(a ORDER BY n) FROM unnest($2) WITH ORDINALITY u(a, n) WHERE a IS NOT NULL)) $$;

-- The body of the TRUNCATE trigger: told by a message whatever the storage.
CREATE OR REPLACE FUNCTION rowcast.truncate_body(rule rowcast.tables) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format(E'BEGIN\n    PERFORM pg_logical_emit_message(true, ''rowcast'', ''{"v":1,"t":%s,"op":"TRUNCATE","n":0}'');\n    RETURN NULL;\nEND', $1.relid)
$$;
