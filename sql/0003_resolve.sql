-- Rowcast 0003: keys, text forms, and the way from a row to its organization.
--
-- A "plan" is {"column": <organization column of the last table>, "hops": [{"from", "from_columns", "to",
-- "to_columns", "operators"}, ...]}: how a row is followed over foreign keys. No hops: the row has it.

SELECT pg_catalog.pg_advisory_xact_lock(7310868735422358133);

-- The columns that record ids are made of: those that the log holds of an old row. With
-- REPLICA IDENTITY USING INDEX the columns of that index, otherwise the primary key; else none.
CREATE OR REPLACE FUNCTION rowcast.key_columns(relid oid) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((
        SELECT array_agg(a.attname::text ORDER BY k.ordinality)
        FROM pg_class c
        JOIN pg_index i ON i.indrelid = c.oid AND i.indisvalid
         AND CASE WHEN c.relreplident = 'i' THEN i.indisreplident ELSE i.indisprimary END
        CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, ordinality)
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
        WHERE c.oid = $1 AND k.ordinality <= i.indnkeyatts
    ), '{}')
$$;

-- Whether UPDATE and DELETE on the table go through while it is published.
CREATE OR REPLACE FUNCTION rowcast.replica_identity_usable(relid oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(bool_and(
        c.relreplident = 'f'
        OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid
                   AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END)
    ), false)
    FROM pg_class c
    WHERE c.relkind IN ('r', 'p') AND (c.oid = $1 OR c.oid IN (SELECT t.relid FROM pg_partition_tree($1::regclass) t))
$$;

-- Types whose cast to text gives what the log shows whatever the settings of the session are.
CREATE OR REPLACE FUNCTION rowcast.plain_type(type oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE base(oid, typbasetype, typtype) AS (
        SELECT t.oid, t.typbasetype, t.typtype FROM pg_type t WHERE t.oid = $1
        UNION ALL
        SELECT t.oid, t.typbasetype, t.typtype FROM base b JOIN pg_type t ON t.oid = b.typbasetype
        WHERE b.typtype = 'd'
    )
    SELECT coalesce(bool_or(typtype = 'e' OR oid = ANY ('{int2,int4,int8,oid,numeric,text,varchar,uuid,name}'::regtype[]::oid[])), false)
    FROM base WHERE typtype <> 'd'
$$;

-- SQL for the text form of a column as the log shows it: a cast differs for some types (boolean,
-- character, inet), so those go through their output function.
CREATE OR REPLACE FUNCTION rowcast.text_sql(relid oid, column_name text, alias text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN rowcast.plain_type(a.atttypid) THEN format('%s.%I::text', $3, $2)
                ELSE format('CASE WHEN %1$s.%2$I IS NULL THEN NULL ELSE concat(%1$s.%2$I) END', $3, $2) END
    FROM pg_attribute a WHERE a.attrelid = $1 AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped
$$;

-- SQL for a record id: one column, its text form; several, a JSON array of the text forms.
CREATE OR REPLACE FUNCTION rowcast.record_id_sql(relid oid, columns text[], alias text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE cardinality($2)
        WHEN 0 THEN 'NULL::text'
        WHEN 1 THEN rowcast.text_sql($1, $2[1], $3)
        ELSE (SELECT '''['' || ' || string_agg(format('to_json(%s)::text', rowcast.text_sql($1, c, $3)),
                                              ' || '','' || ' ORDER BY n) || ' || '']'''
              FROM unnest($2) WITH ORDINALITY AS u(c, n)) END
$$;

-- SET clauses that pin text forms, only where a type needs them: each costs the write a little.
CREATE OR REPLACE FUNCTION rowcast.pins(relid oid, columns text[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN bool_and(rowcast.plain_type(a.atttypid)) IS NOT FALSE THEN ''
        ELSE ' SET datestyle = ''ISO, YMD'' SET timezone = ''UTC'' SET intervalstyle = ''postgres'''
             ' SET extra_float_digits = 1 SET bytea_output = ''hex''' END
    FROM pg_attribute a WHERE a.attrelid = $1 AND a.attname = ANY ($2) AND NOT a.attisdropped
$$;

CREATE OR REPLACE FUNCTION rowcast.has_column(relid oid, column_name text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM pg_attribute a
                   WHERE a.attrelid = $1 AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped)
$$;

-- A column list as it stands in a path: `a` or `(a, b)`.
CREATE OR REPLACE FUNCTION rowcast.column_list(columns text[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE cardinality($1) WHEN 1 THEN format('%I', $1[1])
        ELSE '(' || (SELECT string_agg(format('%I', c), ', ' ORDER BY n) FROM unnest($1) WITH ORDINALITY u(c, n)) || ')' END
$$;

-- One part of a path: its identifiers. `a`, `t.a`, `s.t.a`, `(a, b)`, `t.(a, b)`, `s.t.(a, b)`.
CREATE OR REPLACE FUNCTION rowcast.path_part(part text, OUT relation text[], OUT columns text[])
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    split text[] := regexp_match(btrim(part), '^(?:(.*)\.)?\s*\(([^()]*)\)$');
    idents text[];
BEGIN
    IF split IS NOT NULL THEN
        relation := CASE WHEN split[1] IS NULL THEN '{}' ELSE parse_ident(split[1]) END;
        SELECT array_agg((parse_ident(c))[1] ORDER BY n) INTO columns
        FROM unnest(string_to_array(split[2], ',')) WITH ORDINALITY u(c, n);
    ELSE
        idents := parse_ident(btrim(part));
        relation := idents[:cardinality(idents) - 1];
        columns := idents[cardinality(idents):];
    END IF;
    IF cardinality(relation) > 2 THEN
        RAISE EXCEPTION 'too many names';
    END IF;
END $$;

-- The plan of a path such as `task_id -> tasks.project_id -> projects.organization_id`.
CREATE OR REPLACE FUNCTION rowcast.parse_path(relid oid, path text) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    parts    text[] := pg_catalog.string_to_array(path, '->');
    hops     jsonb := '[]';
    from_rel oid := relid;
    from_cols text[];
    to_rel   oid;
    to_cols  text[];
    operators text[];
    part     record;
    how      text := 'write it as: parent_id -> projects.organization_id';
    found_fk record;
BEGIN
    IF pg_catalog.cardinality(parts) < 2 THEN
        RAISE EXCEPTION 'organization_path "%" has no "->"', path USING ERRCODE = 'invalid_parameter_value', HINT = how;
    END IF;
    FOR i IN 1 .. pg_catalog.cardinality(parts) LOOP
        BEGIN
            SELECT p.relation, p.columns INTO part FROM rowcast.path_part(parts[i]) p;
        EXCEPTION WHEN OTHERS THEN
            RAISE EXCEPTION 'organization_path "%": "%" is not a column', path, pg_catalog.btrim(parts[i])
                USING ERRCODE = 'invalid_parameter_value', HINT = how;
        END;
        IF i = 1 THEN
            IF pg_catalog.cardinality(part.relation) > 0 THEN
                RAISE EXCEPTION 'organization_path "%" begins with a table; begin with a column of %', path, relid::pg_catalog.regclass
                    USING ERRCODE = 'invalid_parameter_value', HINT = how;
            END IF;
        ELSE
            IF pg_catalog.cardinality(part.relation) = 0 THEN
                RAISE EXCEPTION 'organization_path "%": "%" does not say of which table', path, pg_catalog.btrim(parts[i])
                    USING ERRCODE = 'invalid_parameter_value', HINT = how;
            END IF;
            -- A foreign key of these columns to a table of that name says it best.
            SELECT c.confrelid, c.operators, c.to_columns, c.from_columns INTO found_fk
            FROM rowcast.foreign_keys(from_rel) c
            JOIN pg_catalog.pg_class t ON t.oid = c.confrelid
            WHERE t.relname = part.relation[pg_catalog.cardinality(part.relation)]
              AND (pg_catalog.cardinality(part.relation) = 1 OR t.relnamespace::pg_catalog.regnamespace::text
                    = pg_catalog.quote_ident(part.relation[1]))
              AND c.from_columns @> from_cols
            ORDER BY pg_catalog.cardinality(c.from_columns) LIMIT 1;
            IF FOUND THEN
                to_rel := found_fk.confrelid;
                to_cols := found_fk.to_columns;
                operators := found_fk.operators;
                from_cols := found_fk.from_columns;
            ELSE
                to_rel := CASE pg_catalog.cardinality(part.relation)
                    WHEN 2 THEN pg_catalog.to_regclass(pg_catalog.format('%I.%I', part.relation[1], part.relation[2]))
                    ELSE coalesce(
                        (SELECT pg_catalog.to_regclass(pg_catalog.format('%s.%I', c.relnamespace::pg_catalog.regnamespace, part.relation[1]))
                         FROM pg_catalog.pg_class c WHERE c.oid = from_rel),
                        pg_catalog.to_regclass(pg_catalog.format('%I', part.relation[1]))) END;
                IF to_rel IS NULL THEN
                    RAISE EXCEPTION 'organization_path "%": there is no table %', path, pg_catalog.array_to_string(part.relation, '.')
                        USING ERRCODE = 'undefined_table', HINT = how;
                END IF;
                to_cols := (SELECT pg_catalog.array_agg(a.attname::text ORDER BY k.n) FROM pg_catalog.pg_index x
                    CROSS JOIN LATERAL pg_catalog.unnest(x.indkey::pg_catalog.int2[]) WITH ORDINALITY k(attnum, n)
                    JOIN pg_catalog.pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.attnum
                    WHERE x.indrelid = to_rel AND x.indisprimary AND k.n <= x.indnkeyatts);
                IF to_cols IS NULL OR pg_catalog.cardinality(to_cols) <> pg_catalog.cardinality(from_cols) THEN
                    RAISE EXCEPTION 'organization_path "%": no foreign key leads from %.% to %, and its primary key does not fit',
                        path, from_rel::pg_catalog.regclass, rowcast.column_list(from_cols), to_rel::pg_catalog.regclass
                        USING ERRCODE = 'invalid_parameter_value',
                        HINT = pg_catalog.format('ALTER TABLE %s ADD FOREIGN KEY (%s) REFERENCES %s', from_rel::pg_catalog.regclass,
                            pg_catalog.array_to_string(from_cols, ', '), to_rel::pg_catalog.regclass);
                END IF;
                operators := NULL;
            END IF;
            hops := hops || pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object('from', from_rel::bigint,
                'from_columns', from_cols, 'to', to_rel::bigint, 'to_columns', to_cols, 'operators', operators));
            from_rel := to_rel;
        END IF;
        from_cols := part.columns;
        FOR k IN 1 .. pg_catalog.cardinality(from_cols) LOOP
            IF NOT rowcast.has_column(from_rel, from_cols[k]) THEN
                RAISE EXCEPTION 'organization_path "%": table % has no column "%"', path, from_rel::pg_catalog.regclass, from_cols[k]
                    USING ERRCODE = 'undefined_column', HINT = how;
            END IF;
        END LOOP;
    END LOOP;
    IF pg_catalog.cardinality(from_cols) <> 1 THEN
        RAISE EXCEPTION 'organization_path "%" must end with one column', path
            USING ERRCODE = 'invalid_parameter_value', HINT = how;
    END IF;
    RETURN pg_catalog.jsonb_build_object('column', from_cols[1], 'hops', hops);
END $$;

-- The foreign keys of a table, with the equality operators that need naming.
CREATE OR REPLACE FUNCTION rowcast.foreign_keys(relid oid)
RETURNS TABLE (confrelid oid, from_columns text[], to_columns text[], operators text[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.confrelid,
        array_agg(f.attname::text ORDER BY k.n), array_agg(t.attname::text ORDER BY k.n),
        array_agg(format('OPERATOR(%I.%s)', s.nspname, o.oprname) ORDER BY k.n)
    FROM pg_constraint c
    CROSS JOIN LATERAL unnest(c.conkey, c.confkey, c.conpfeqop) WITH ORDINALITY AS k(f, t, op, n)
    JOIN pg_attribute f ON f.attrelid = c.conrelid AND f.attnum = k.f
    JOIN pg_attribute t ON t.attrelid = c.confrelid AND t.attnum = k.t
    JOIN pg_operator o ON o.oid = k.op
    JOIN pg_namespace s ON s.oid = o.oprnamespace
    WHERE c.contype = 'f' AND c.conrelid = $1
      -- A reference to a partitioned table has a shadow for each partition; the shadow is not the way.
      AND NOT EXISTS (SELECT FROM pg_constraint up WHERE up.oid = c.conparentid AND up.conrelid = c.conrelid)
    GROUP BY c.oid, c.confrelid
$$;

-- The shortest ways over foreign keys to a table with a column organization_id, as paths.
CREATE OR REPLACE FUNCTION rowcast.shortest_paths(relid oid) RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE walk(rel, seen, path, depth) AS (
        SELECT $1, ARRAY[$1], NULL::text, 0
        UNION ALL
        SELECT f.confrelid, w.seen || f.confrelid,
            coalesce(w.path || format(' -> %s.', w.rel::regclass), '') || rowcast.column_list(f.from_columns),
            w.depth + 1
        FROM walk w CROSS JOIN LATERAL rowcast.foreign_keys(w.rel) f
        WHERE w.depth < 8 AND f.confrelid <> ALL (w.seen) AND NOT rowcast.has_column(w.rel, 'organization_id')
    ), ends AS (
        SELECT DISTINCT w.path || format(' -> %s.organization_id', w.rel::regclass) AS path, w.depth
        FROM walk w WHERE w.depth > 0 AND rowcast.has_column(w.rel, 'organization_id')
    )
    SELECT e.path FROM ends e WHERE e.depth = (SELECT min(depth) FROM ends) ORDER BY 1
$$;

-- The plan of a rule.
CREATE OR REPLACE FUNCTION rowcast.plan(relid oid, organization_column text, organization_path text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN $2 IS NOT NULL THEN jsonb_build_object('column', $2, 'hops', '[]'::jsonb)
                ELSE rowcast.parse_path($1, $3) END
$$;

-- The same, or null when the rule no longer fits the tables: one broken rule must not break the others.
CREATE OR REPLACE FUNCTION rowcast.plan_if_fits(relid oid, organization_column text, organization_path text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF organization_column IS NOT NULL AND NOT rowcast.has_column(relid, organization_column) THEN
        RETURN NULL;
    END IF;
    RETURN rowcast.plan(relid, organization_column, organization_path);
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END $$;

-- The name of hop `step` of a plan, for rowcast.gone: the table it leads to, by which columns, and the rest.
CREATE OR REPLACE FUNCTION rowcast.hop_name(plan jsonb, step int) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('%s %s', $1 -> 'hops' -> $2 ->> 'to', $1 -> 'hops' -> $2 ->> 'to_columns')
        || coalesce((SELECT string_agg(format(' > %s %s %s', h ->> 'from_columns', h ->> 'to', h ->> 'to_columns'), '' ORDER BY n)
                     FROM jsonb_array_elements($1 -> 'hops') WITH ORDINALITY e(h, n) WHERE n > $2 + 1), '')
        || ' > ' || ($1 ->> 'column')
$$;

CREATE OR REPLACE FUNCTION rowcast.names(list jsonb) RETURNS text[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS
$$ SELECT array_agg(e ORDER BY n) FROM jsonb_array_elements_text($1) WITH ORDINALITY u(e, n) $$;

-- SQL for the organization of row `alias` of the table that hop `step` starts from. `with_gone`: also
-- where a table on the way lost its row earlier in this transaction.
CREATE OR REPLACE FUNCTION rowcast.organization_sql(relid oid, plan jsonb, step int, alias text, with_gone boolean)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    hop   jsonb := plan -> 'hops' -> step;
    inner_alias text := 'p' || step;
    target oid;
    live  text;
BEGIN
    IF hop IS NULL THEN
        RETURN rowcast.text_sql(relid, plan ->> 'column', alias);
    END IF;
    target := (hop ->> 'to')::oid;
    live := format('(SELECT %s FROM %s %s WHERE %s)',
        rowcast.organization_sql(target, plan, step + 1, inner_alias, with_gone),
        target::regclass, inner_alias,
        (SELECT string_agg(format('%s.%I %s %s.%I', inner_alias, t.c, coalesce(o.c, '='), alias, f.c), ' AND ' ORDER BY f.n)
         FROM unnest(rowcast.names(hop -> 'from_columns')) WITH ORDINALITY f(c, n)
         JOIN unnest(rowcast.names(hop -> 'to_columns')) WITH ORDINALITY t(c, n) USING (n)
         LEFT JOIN unnest(rowcast.names(nullif(hop -> 'operators', 'null'))) WITH ORDINALITY o(c, n) USING (n)));
    IF NOT with_gone THEN
        RETURN live;
    END IF;
    RETURN format('coalesce(%s, (SELECT g.organization_id FROM rowcast.gone g '
        'WHERE g.xid = pg_current_xact_id() AND g.hop = %L AND g.key = %s))',
        live, rowcast.hop_name(plan, step),
        rowcast.record_id_sql(relid, rowcast.names(hop -> 'from_columns'), alias));
END $$;
