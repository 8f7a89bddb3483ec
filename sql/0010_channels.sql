-- Rowcast 0010: what an application says in its own words, and the channels it says it on.
--
-- Everything here is written into the log of the caller's transaction: what is rolled back was never said, and
-- what is said stands in the order of the writes around it. Whoever sends needs EXECUTE on these functions and
-- nothing else; they run as their owner, check their arguments, and write nothing but the message.

SELECT pg_catalog.pg_advisory_xact_lock(7310868735422358133);

-- Patterns ------------------------------------------------------------------------------------------------

-- What a pattern fits, as a regular expression: parts between colons, each a text, a beginning with a star,
-- a star alone, or {name}. The same rules as in the service.
CREATE OR REPLACE FUNCTION rowcast.pattern_matcher(pattern text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT '^' || string_agg(CASE
            WHEN part LIKE '{%}' THEN '[^:]+'
            WHEN part LIKE '%*' THEN regexp_replace(left(part, -1), '([][\\^$.|?*+(){}])', '\\\1', 'g') || '[^:]+'
            ELSE regexp_replace(part, '([][\\^$.|?*+(){}])', '\\\1', 'g') END, ':' ORDER BY i) || '$'
    FROM unnest(string_to_array($1, ':')) WITH ORDINALITY AS parts(part, i)
$$;

-- How much of each part is fixed: of the patterns that fit a name, the greatest is the most specific.
CREATE OR REPLACE FUNCTION rowcast.pattern_precedence(pattern text) RETURNS integer[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT array_agg(CASE WHEN part LIKE '{%}' THEN 0 WHEN part LIKE '%*' THEN octet_length(part) - 1 ELSE 1000 END ORDER BY i)
    FROM unnest(string_to_array($1, ':')) WITH ORDINALITY AS parts(part, i)
$$;

-- How two patterns stand to each other: apart, narrower, wider, ambiguous.
CREATE OR REPLACE FUNCTION rowcast.pattern_overlap(a text, b text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ours     text[] := string_to_array(a, ':');
    theirs   text[] := string_to_array(b, ':');
    -- What is fixed of a part that is open; null for a text.
    our_open text;
    their_open text;
    narrower boolean := false;
    wider    boolean := false;
BEGIN
    IF cardinality(ours) <> cardinality(theirs) THEN
        RETURN 'apart';
    END IF;
    FOR i IN 1 .. cardinality(ours) LOOP
        our_open := CASE WHEN ours[i] LIKE '{%}' THEN '' WHEN ours[i] LIKE '%*' THEN left(ours[i], -1) END;
        their_open := CASE WHEN theirs[i] LIKE '{%}' THEN '' WHEN theirs[i] LIKE '%*' THEN left(theirs[i], -1) END;
        IF our_open IS NULL AND their_open IS NULL THEN
            IF ours[i] <> theirs[i] THEN RETURN 'apart'; END IF;
        ELSIF our_open IS NULL THEN
            IF NOT starts_with(ours[i], their_open) OR ours[i] = their_open THEN RETURN 'apart'; END IF;
            narrower := true;
        ELSIF their_open IS NULL THEN
            IF NOT starts_with(theirs[i], our_open) OR theirs[i] = our_open THEN RETURN 'apart'; END IF;
            wider := true;
        ELSIF our_open <> their_open THEN
            IF starts_with(our_open, their_open) THEN narrower := true;
            ELSIF starts_with(their_open, our_open) THEN wider := true;
            ELSE RETURN 'apart'; END IF;
        END IF;
    END LOOP;
    RETURN CASE WHEN narrower = wider THEN 'ambiguous' WHEN narrower THEN 'narrower' ELSE 'wider' END;
END $$;

-- Tables --------------------------------------------------------------------------------------------------

-- One row per pattern. Written by rowcast.define_channel() and rowcast.drop_channel(), followed from the log.
CREATE TABLE IF NOT EXISTS rowcast.channels (
    pattern    text PRIMARY KEY,
    rule       text NOT NULL,
    parameter  text,
    roles      text[] NOT NULL DEFAULT '{}',
    scope      text NOT NULL DEFAULT 'organization',
    relay      boolean NOT NULL DEFAULT false,
    presence   boolean NOT NULL DEFAULT false,
    events     text[],
    parameters jsonb NOT NULL DEFAULT '{}',
    -- What the trigger below works out of the pattern. (A generated column would not do: PostgreSQL 18 refuses
    -- them in a replica identity.)
    matcher    text NOT NULL,
    precedence integer[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Where the rule is authorized: the function that is asked (schema.name, quoted), or the webhook; how long a yes
    -- holds when it does not say; whether clients may bring what the application has signed.
    authorizer  text,
    webhook     text,
    ttl_seconds integer NOT NULL DEFAULT 300,
    grants      boolean NOT NULL DEFAULT false,
    CONSTRAINT channels_rule_check CHECK (rule IN ('public', 'user', 'tenant', 'role', 'authorized')),
    CHECK (scope IN ('organization', 'global'))
);

-- What an earlier version made.
ALTER TABLE rowcast.channels ADD COLUMN IF NOT EXISTS authorizer text, ADD COLUMN IF NOT EXISTS webhook text,
    ADD COLUMN IF NOT EXISTS ttl_seconds integer NOT NULL DEFAULT 300, ADD COLUMN IF NOT EXISTS grants boolean NOT NULL DEFAULT false;
ALTER TABLE rowcast.channels DROP CONSTRAINT IF EXISTS channels_rule_check;
ALTER TABLE rowcast.channels ADD CONSTRAINT channels_rule_check CHECK (rule IN ('public', 'user', 'tenant', 'role', 'authorized'));
-- Where the table is older than these columns.
ALTER TABLE rowcast.channels ADD COLUMN IF NOT EXISTS presence boolean NOT NULL DEFAULT false;

CREATE OR REPLACE FUNCTION rowcast.fill_channel() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.matcher := rowcast.pattern_matcher(NEW.pattern);
    NEW.precedence := rowcast.pattern_precedence(NEW.pattern);
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER fill_channel BEFORE INSERT OR UPDATE ON rowcast.channels
    FOR EACH ROW EXECUTE FUNCTION rowcast.fill_channel();

-- Names of events that are declared: where a namespace stands here, only its events may be sent.
CREATE TABLE IF NOT EXISTS rowcast.event_namespaces (
    namespace   text PRIMARY KEY,
    events      text[] NOT NULL,
    description text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CHECK (cardinality(events) > 0)
);

-- Long lists that an UPDATE leaves alone are in the log with the old row, or not at all.
ALTER TABLE rowcast.channels REPLICA IDENTITY FULL;
ALTER TABLE rowcast.event_namespaces REPLICA IDENTITY FULL;
REVOKE ALL ON rowcast.channels, rowcast.event_namespaces FROM PUBLIC;

-- Checks --------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rowcast.check_name(what text, name text, most integer) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF name IS NULL OR name = '' OR octet_length(name) > most OR name ~ '[\x01-\x1f\x7f-\x9f]' THEN
        RAISE EXCEPTION '% must be a text of 1 to % bytes without control characters', what, most
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN name;
END $$;

-- The payload as text; null is JSON's null.
CREATE OR REPLACE FUNCTION rowcast.check_payload(payload jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    json text := coalesce(payload::text, 'null');
BEGIN
    IF octet_length(json) > 262144 THEN
        RAISE EXCEPTION 'the payload has % bytes; at most 262144 are allowed', octet_length(json)
            USING ERRCODE = 'program_limit_exceeded',
            HINT = 'Send ids, and let the clients fetch the rest.';
    END IF;
    RETURN json;
END $$;

-- The name of an event, if it is declared: among those of its channel, else those of its namespace.
CREATE OR REPLACE FUNCTION rowcast.check_event(event text, of_channel text[], pattern text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    declared text[];
BEGIN
    PERFORM rowcast.check_name('the name of the event', event, 128);
    IF of_channel IS NOT NULL THEN
        IF event <> ALL (of_channel) THEN
            RAISE EXCEPTION 'the channel pattern "%" declares no event "%"', pattern, event USING ERRCODE = 'invalid_parameter_value',
                HINT = format('It declares %s. To change that: rowcast.define_channel(%L, ..., events => ...).', array_to_string(of_channel, ', '), pattern);
        END IF;
    ELSIF strpos(event, ':') > 0 THEN
        SELECT n.events INTO declared FROM rowcast.event_namespaces n WHERE n.namespace = split_part(event, ':', 1);
        IF FOUND AND substr(event, strpos(event, ':') + 1) <> ALL (declared) THEN
            RAISE EXCEPTION 'the namespace "%" declares no event "%"', split_part(event, ':', 1), substr(event, strpos(event, ':') + 1)
                USING ERRCODE = 'invalid_parameter_value',
                HINT = format('It declares %s. To change that: rowcast.declare_events(%L, ...).', array_to_string(declared, ', '), split_part(event, ':', 1));
        END IF;
    END IF;
    RETURN event;
END $$;

-- The rule of a channel of the application, the values of whose parameters are what it wants.
CREATE OR REPLACE FUNCTION rowcast.channel_rule(channel text) RETURNS rowcast.channels
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    found_rule rowcast.channels;
    parts text[] := string_to_array(channel, ':');
    part  text;
    name  text;
    type  text;
    fits  boolean;
BEGIN
    SELECT c.* INTO found_rule FROM rowcast.channels c
    WHERE channel ~ c.matcher COLLATE "C" ORDER BY c.precedence DESC, c.pattern COLLATE "C" LIMIT 1;
    IF found_rule.pattern IS NULL THEN
        RAISE EXCEPTION 'no pattern of rowcast.channels fits the channel "%"', channel USING ERRCODE = 'invalid_parameter_value',
            HINT = format('SELECT rowcast.define_channel(%L, ''public'');', channel);
    END IF;
    FOR i IN 1 .. cardinality(parts) LOOP
        part := (string_to_array(found_rule.pattern, ':'))[i];
        CONTINUE WHEN part NOT LIKE '{%}';
        name := substr(part, 2, length(part) - 2);
        type := coalesce(found_rule.parameters -> name ->> 'type', found_rule.parameters ->> name, 'text');
        fits := CASE type
            WHEN 'int' THEN parts[i] ~ '^(0|-?[1-9][0-9]{0,18})$' AND parts[i]::numeric BETWEEN -9223372036854775808 AND 9223372036854775807
            WHEN 'uuid' THEN parts[i] ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
            ELSE octet_length(parts[i]) <= coalesce((found_rule.parameters -> name ->> 'maxLength')::integer, 128) END;
        IF NOT fits THEN
            RAISE EXCEPTION 'in the channel "%", % must be %', channel, name, CASE type WHEN 'int' THEN 'a whole number'
                    WHEN 'uuid' THEN 'a UUID in small letters'
                    ELSE format('a text of at most %s bytes', coalesce((found_rule.parameters -> name ->> 'maxLength')::integer, 128)) END
                USING ERRCODE = 'invalid_parameter_value', HINT = format('The pattern is %s.', found_rule.pattern);
        END IF;
    END LOOP;
    RETURN found_rule;
END $$;

-- The organization of a channel of the application: named by the name itself, by the caller, or by the setting
-- rowcast.organization; null for a global one.
CREATE OR REPLACE FUNCTION rowcast.organization_of_channel(rule rowcast.channels, channel text, organization text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    own text;
BEGIN
    IF (rule).rule = 'tenant' THEN
        own := (string_to_array(channel, ':'))[array_position(string_to_array((rule).pattern, ':'), '{' || (rule).parameter || '}')];
        IF organization IS NOT NULL AND organization <> own THEN
            RAISE EXCEPTION 'the channel "%" belongs to the organization "%", not to "%"', channel, own, organization
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave organization out; the name says it.';
        END IF;
        RETURN own;
    END IF;
    IF (rule).scope = 'global' THEN
        IF organization IS NOT NULL THEN
            RAISE EXCEPTION 'the channel "%" is global and belongs to no organization', channel USING ERRCODE = 'invalid_parameter_value',
                HINT = 'Leave organization out, or define the channel with scope => ''organization''.';
        END IF;
        RETURN NULL;
    END IF;
    own := coalesce(organization, nullif(current_setting('rowcast.organization', true), ''));
    IF own IS NULL THEN
        RAISE EXCEPTION 'the channel "%" is another one in each organization; say which', channel USING ERRCODE = 'invalid_parameter_value',
            HINT = format('rowcast.send(%L, ..., organization => ''...''), or SET LOCAL rowcast.organization = ''...''.', channel);
    END IF;
    RETURN rowcast.check_name('the organization', own, 255);
END $$;

-- Sending -------------------------------------------------------------------------------------------------

-- The first characters of a message are how the service knows it from one about rows. The mark, which ends with the
-- transaction, is how it knows that a handler told somebody.
CREATE OR REPLACE FUNCTION rowcast.say(kind text, fields text) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_logical_emit_message(true, 'rowcast', '{"v":1,"say":"' || $1 || '"' || $2 || '}'), set_config('rowcast.told', $1, true)
$$;

CREATE OR REPLACE FUNCTION rowcast.broadcast(
    organization text, event text, payload jsonb DEFAULT NULL, user_id text DEFAULT NULL, target_roles text[] DEFAULT NULL
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    PERFORM rowcast.check_name('the organization', organization, 255);
    PERFORM rowcast.check_event(event, NULL);
    IF user_id IS NOT NULL THEN
        PERFORM rowcast.check_name('user_id', user_id, 255);
    END IF;
    -- An empty list is somebody's mistake: nobody means everybody by it.
    IF cardinality(target_roles) NOT BETWEEN 1 AND 64 THEN
        RAISE EXCEPTION 'target_roles names % roles; 1 to 64 are allowed', cardinality(target_roles) USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Leave target_roles out to tell every member.';
    END IF;
    PERFORM rowcast.check_name('each of target_roles', role, 255) FROM unnest(target_roles) AS role;
    PERFORM rowcast.say('broadcast', concat(',"org":', to_json(organization), ',"event":', to_json(event),
        ',"payload":', rowcast.check_payload(payload), ',"user":' || to_json(user_id)::text,
        ',"roles":' || to_json(target_roles)::text));
END $$;
COMMENT ON FUNCTION rowcast.broadcast(text, text, jsonb, text, text[]) IS
    'Tells an organization, or one user or some roles in it, that something happened; at commit, not before.';

CREATE OR REPLACE FUNCTION rowcast.send(channel text, event text, payload jsonb DEFAULT NULL, organization text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    kind text := split_part(channel, ':', 1);
    rule rowcast.channels;
    of   text;
BEGIN
    PERFORM rowcast.check_name('the channel', channel, 255);
    IF kind IN ('org', 'user', 'tenant') THEN
        IF channel !~ (CASE kind WHEN 'tenant' THEN '^tenant:.+:[^:]+$' ELSE '^(org|user):.+$' END) THEN
            RAISE EXCEPTION '"%" is no channel', channel USING ERRCODE = 'invalid_parameter_value',
                HINT = 'Use org:<organization>, user:<user> or tenant:<organization>:<table>.';
        END IF;
        IF organization IS NOT NULL THEN
            RAISE EXCEPTION 'the channel "%" says by itself whose it is', channel USING ERRCODE = 'invalid_parameter_value',
                HINT = 'Leave organization out. For one user in an organization: rowcast.broadcast(organization, event, payload, user_id).';
        END IF;
        PERFORM rowcast.check_event(event, NULL);
    ELSE
        rule := rowcast.channel_rule(channel);
        PERFORM rowcast.check_event(event, rule.events, rule.pattern);
        of := rowcast.organization_of_channel(rule, channel, organization);
    END IF;
    PERFORM rowcast.say('send', concat(',"channel":', to_json(channel), ',"org":' || to_json(of)::text,
        ',"event":', to_json(event), ',"payload":', rowcast.check_payload(payload)));
END $$;
COMMENT ON FUNCTION rowcast.send(text, text, jsonb, text) IS
    'Tells everybody on a channel that something happened; at commit, not before.';

CREATE OR REPLACE FUNCTION rowcast.check_key(key text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM rowcast.check_name('the key', key, 200);
    IF strpos(key, ':') > 0 THEN
        RAISE EXCEPTION 'the key "%" holds a colon', key USING ERRCODE = 'invalid_parameter_value', HINT = 'Keys are dotted names, such as tasks.list.';
    END IF;
    RETURN key;
END $$;

CREATE OR REPLACE FUNCTION rowcast.invalidate(key text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM rowcast.say('invalidate', concat(',"key":', to_json(rowcast.check_key(key))));
END $$;
COMMENT ON FUNCTION rowcast.invalidate(text) IS
    'Tells everybody who follows a key to ask again, each with his own rights; at commit, not before.';

CREATE OR REPLACE FUNCTION rowcast.refresh(key text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM rowcast.say('refresh', concat(',"key":', to_json(rowcast.check_key(key))));
END $$;
COMMENT ON FUNCTION rowcast.refresh(text) IS
    'Has a query run again once for all who follow it; only for answers that everybody may see.';

CREATE OR REPLACE FUNCTION rowcast.emit(key text, data jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM rowcast.say('emit', concat(',"key":', to_json(rowcast.check_key(key)), ',"payload":', rowcast.check_payload(data)));
END $$;
COMMENT ON FUNCTION rowcast.emit(text, jsonb) IS
    'Gives everybody who follows a key this data; only for data that everybody may see.';

CREATE OR REPLACE FUNCTION rowcast.revoke(channel text, epoch bigint DEFAULT NULL, reason text DEFAULT NULL, organization text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    of text;
BEGIN
    PERFORM rowcast.check_name('the channel', channel, 255);
    IF split_part(channel, ':', 1) IN ('org', 'user', 'tenant') THEN
        RAISE EXCEPTION 'the channel "%" follows the memberships and cannot be revoked', channel USING ERRCODE = 'invalid_parameter_value',
            HINT = 'End the membership instead.';
    END IF;
    IF reason IS NOT NULL THEN
        PERFORM rowcast.check_name('the reason', reason, 255);
    END IF;
    of := rowcast.organization_of_channel(rowcast.channel_rule(channel), channel, organization);
    PERFORM rowcast.say('revoke', concat(',"channel":', to_json(channel), ',"org":' || to_json(of)::text,
        ',"epoch":' || epoch, ',"reason":' || to_json(reason)::text));
END $$;
COMMENT ON FUNCTION rowcast.revoke(text, bigint, text, text) IS
    'Ends who is on a channel at this place of the log; where the application says who may, those whom it still lets in lose nothing.';

-- How the application is asked, checked; the name of the function, quoted.
CREATE OR REPLACE FUNCTION rowcast.check_authorizer(rule text, authorizer regproc, webhook text, ttl_seconds integer, grants boolean) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF rule <> 'authorized' THEN
        IF authorizer IS NOT NULL OR webhook IS NOT NULL OR coalesce(grants, false) THEN
            RAISE EXCEPTION 'the rule % asks nobody; authorizer, webhook and grants are for the rule authorized', rule USING ERRCODE = 'invalid_parameter_value';
        END IF;
        RETURN NULL;
    END IF;
    IF authorizer IS NOT NULL AND webhook IS NOT NULL THEN
        RAISE EXCEPTION 'a channel has one authorizer: a function or a webhook' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF authorizer IS NULL AND webhook IS NULL AND NOT coalesce(grants, false) THEN
        RAISE EXCEPTION 'the rule authorized needs somebody who says who may: authorizer, webhook or grants' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'authorizer => ''app.may_join'' (a function), webhook => ''rooms'' (a name of the configuration), grants => true (signed by the application).';
    END IF;
    IF webhook !~ '^[a-z0-9_-]{1,63}$' THEN
        RAISE EXCEPTION '"%" is no name of a webhook', webhook USING ERRCODE = 'invalid_parameter_value',
            HINT = 'It is a name of the configuration, webhooks.<name>; the address stands there alone.';
    END IF;
    IF coalesce(ttl_seconds, 300) NOT BETWEEN 1 AND 86400 THEN
        RAISE EXCEPTION 'ttl_seconds is %; 1 to 86400 are allowed', ttl_seconds USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN rowcast.check_handler(authorizer);
END $$;

-- The name, schema.name and quoted, of a function that the service calls; it has to have the one form that these have.
CREATE OR REPLACE FUNCTION rowcast.check_handler(handler regproc) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_one record;
BEGIN
    IF handler IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT format('%I.%I', n.nspname, p.proname) AS name, p.prokind = 'f' AND NOT p.proretset AND p.prorettype = 'jsonb'::regtype
            AND oidvectortypes(p.proargtypes) = 'jsonb, text, jsonb, jsonb' AS fits
    INTO found_one FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.oid = handler;
    IF found_one.name IS NULL THEN
        RAISE EXCEPTION 'there is no function %', handler USING ERRCODE = 'undefined_function';
    END IF;
    IF NOT found_one.fits THEN
        RAISE EXCEPTION 'the function % must be (input jsonb, channel text, arguments jsonb, caller jsonb) returns jsonb', found_one.name
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN found_one.name;
END $$;

-- Defining ------------------------------------------------------------------------------------------------

-- The names of the parameters of a pattern, if it is one.
CREATE OR REPLACE FUNCTION rowcast.check_pattern(pattern text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    names text[];
    bad   text;
BEGIN
    PERFORM rowcast.check_name('the pattern', pattern, 255);
    IF cardinality(string_to_array(pattern, ':')) > 16 THEN
        RAISE EXCEPTION 'a pattern has at most 16 parts between colons' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT part INTO bad FROM unnest(string_to_array(pattern, ':')) part
    WHERE part !~ '^([^*{}]+|[^*{}]*\*|\{[A-Za-z_][A-Za-z0-9_]{0,62}\})$' LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '"%" is no part of a pattern', bad USING ERRCODE = 'invalid_parameter_value',
            HINT = 'A part is a text, a text with * at its end, * alone, or {name} alone.';
    END IF;
    IF split_part(pattern, ':', 1) IN ('org', 'user', 'tenant') THEN
        RAISE EXCEPTION 'channels that begin with "%:" are there without being defined', split_part(pattern, ':', 1)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT array_agg(substr(part, 2, length(part) - 2)) INTO names FROM unnest(string_to_array(pattern, ':')) part WHERE part LIKE '{%}';
    names := coalesce(names, '{}');
    IF cardinality(names) <> (SELECT count(DISTINCT n) FROM unnest(names) n) THEN
        RAISE EXCEPTION 'a parameter stands in the pattern "%" twice', pattern USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give each its own name.';
    END IF;
    RETURN names;
END $$;

DROP FUNCTION IF EXISTS rowcast.define_channel(text, text, text, text[], text, boolean, text[], jsonb);
DROP FUNCTION IF EXISTS rowcast.define_channel(text, text, text, text[], text, boolean, text[], jsonb, boolean);
CREATE OR REPLACE FUNCTION rowcast.define_channel(
    pattern text, rule text, parameter text DEFAULT NULL, roles text[] DEFAULT '{}', scope text DEFAULT NULL,
    relay boolean DEFAULT false, events text[] DEFAULT NULL, parameters jsonb DEFAULT '{}',
    presence boolean DEFAULT false,
    authorizer regproc DEFAULT NULL, webhook text DEFAULT NULL, ttl_seconds integer DEFAULT 300, grants boolean DEFAULT false
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    names text[];
    other record;
    bad   text;
    asked text;
BEGIN
    names := rowcast.check_pattern(pattern);
    FOR other IN SELECT c.pattern AS it FROM rowcast.channels c
                 WHERE c.pattern <> pattern AND rowcast.pattern_overlap(pattern, c.pattern) = 'ambiguous' LOOP
        RAISE EXCEPTION 'some names fit both "%" and "%", and neither is the more specific', pattern, other.it
            USING ERRCODE = 'invalid_parameter_value', HINT = format('Drop the other first: SELECT rowcast.drop_channel(%L);', other.it);
    END LOOP;

    IF jsonb_typeof(coalesce(parameters, '{}')) <> 'object' THEN
        RAISE EXCEPTION 'parameters must be an object, such as {"id": "int"}' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT p.key INTO bad FROM jsonb_each(coalesce(parameters, '{}')) p WHERE p.key <> ALL (names) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the pattern "%" has no parameter "%"', pattern, bad USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT p.key INTO bad FROM jsonb_each(coalesce(parameters, '{}')) p
    WHERE NOT CASE jsonb_typeof(p.value)
        WHEN 'string' THEN p.value #>> '{}' IN ('text', 'int', 'uuid')
        WHEN 'object' THEN coalesce(p.value ->> 'type', 'text') IN ('text', 'int', 'uuid')
            AND p.value - 'type' - 'maxLength' = '{}'
            AND CASE WHEN p.value ? 'maxLength' THEN coalesce(p.value ->> 'type', 'text') = 'text'
                AND jsonb_typeof(p.value -> 'maxLength') = 'number' AND p.value ->> 'maxLength' ~ '^[1-9][0-9]{0,2}$'
                AND (p.value ->> 'maxLength')::integer <= 255 ELSE true END
        ELSE false END LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the parameter "%" must be "text", "int", "uuid" or {"type": "text", "maxLength": 1 to 255}', bad
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

    roles := coalesce(roles, '{}');
    PERFORM rowcast.check_name('each of roles', r, 255) FROM unnest(roles) r;
    IF rule IS NULL OR rule NOT IN ('public', 'user', 'tenant', 'role', 'authorized') THEN
        RAISE EXCEPTION 'rule must be public, user, tenant, role or authorized, not %', coalesce(rule, 'null') USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF rule IN ('user', 'tenant') AND parameter IS NULL AND cardinality(names) = 1 THEN
        parameter := names[1];
    END IF;
    IF rule = 'public' AND (parameter IS NOT NULL OR cardinality(roles) > 0) THEN
        RAISE EXCEPTION 'the rule public lets in everybody; it takes no parameter and no roles' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF rule IN ('user', 'tenant') AND parameter IS NULL THEN
        RAISE EXCEPTION 'the rule % needs the parameter of the pattern that names the %', rule, CASE rule WHEN 'user' THEN 'user' ELSE 'organization' END
            USING ERRCODE = 'invalid_parameter_value', HINT = format('rowcast.define_channel(%L, %L, parameter => ''...'');', pattern, rule);
    END IF;
    IF rule = 'user' AND cardinality(roles) > 0 THEN
        RAISE EXCEPTION 'the rule user takes no roles' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF rule = 'role' AND (parameter IS NULL) = (cardinality(roles) = 0) THEN
        RAISE EXCEPTION 'the rule role needs roles, or the parameter of the pattern that names one' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF parameter IS NOT NULL AND parameter <> ALL (names) THEN
        RAISE EXCEPTION 'the pattern "%" has no parameter "%"', pattern, parameter USING ERRCODE = 'invalid_parameter_value';
    END IF;

    IF rule = 'authorized' AND (parameter IS NOT NULL OR cardinality(roles) > 0) THEN
        RAISE EXCEPTION 'the rule authorized takes no parameter and no roles; the application says who may' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    asked := rowcast.check_authorizer(rule, authorizer, webhook, ttl_seconds, grants);

    -- Keys of queries belong to no organization.
    scope := coalesce(scope, CASE WHEN split_part(pattern, ':', 1) = 'key' THEN 'global' ELSE 'organization' END);
    IF scope NOT IN ('organization', 'global') THEN
        RAISE EXCEPTION 'scope must be organization or global, not %', scope USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF split_part(pattern, ':', 1) = 'key' AND scope <> 'global' THEN
        RAISE EXCEPTION 'keys belong to no organization; their channels are global' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF rule IN ('tenant', 'role') AND scope = 'global' THEN
        RAISE EXCEPTION 'the rule % is about an organization; such a channel cannot be global', rule USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM rowcast.check_name('each of events', e, 128) FROM unnest(events) e;

    INSERT INTO rowcast.channels AS c (pattern, rule, parameter, roles, scope, relay, presence, events, parameters, authorizer, webhook, ttl_seconds, grants)
    VALUES (pattern, rule, parameter, roles, scope, coalesce(relay, false), coalesce(presence, false), events, coalesce(parameters, '{}'), asked, webhook,
        coalesce(ttl_seconds, 300), coalesce(grants, false))
    ON CONFLICT ON CONSTRAINT channels_pkey DO UPDATE SET rule = excluded.rule, parameter = excluded.parameter, roles = excluded.roles,
        scope = excluded.scope, relay = excluded.relay, presence = excluded.presence, events = excluded.events, parameters = excluded.parameters,
        authorizer = excluded.authorizer, webhook = excluded.webhook, ttl_seconds = excluded.ttl_seconds, grants = excluded.grants;
END $$;
COMMENT ON FUNCTION rowcast.define_channel(text, text, text, text[], text, boolean, text[], jsonb, boolean, regproc, text, integer, boolean) IS
    'Says who may be on the channels whose names fit a pattern, what may be sent there, and whether they see who is there.';

CREATE OR REPLACE FUNCTION rowcast.drop_channel(pattern text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM rowcast.channels c WHERE c.pattern = drop_channel.pattern;
    RETURN FOUND;
END $$;
COMMENT ON FUNCTION rowcast.drop_channel(text) IS 'Forgets a pattern; whoever is on such a channel is taken off it.';

CREATE OR REPLACE FUNCTION rowcast.declare_events(namespace text, events text[], description text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    PERFORM rowcast.check_name('the namespace', namespace, 63);
    IF strpos(namespace, ':') > 0 THEN
        RAISE EXCEPTION 'the namespace "%" holds a colon', namespace USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF coalesce(cardinality(events), 0) = 0 THEN
        DELETE FROM rowcast.event_namespaces n WHERE n.namespace = namespace;
        RETURN;
    END IF;
    PERFORM rowcast.check_name('each of events', e, 63) FROM unnest(events) e;
    INSERT INTO rowcast.event_namespaces AS n (namespace, events, description) VALUES (namespace, events, description)
    ON CONFLICT ON CONSTRAINT event_namespaces_pkey DO UPDATE SET events = excluded.events, description = excluded.description;
END $$;
COMMENT ON FUNCTION rowcast.declare_events(text, text[], text) IS
    'Declares the events of a namespace, such as extraction:started: others of it are refused. No events: forgets it.';

-- What a role of the application needs that sends.
CREATE OR REPLACE FUNCTION rowcast.grant_sender(role_name name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA rowcast TO %I', role_name);
    EXECUTE format('GRANT EXECUTE ON FUNCTION rowcast.broadcast(text, text, jsonb, text, text[]), rowcast.send(text, text, jsonb, text),'
        ' rowcast.invalidate(text), rowcast.refresh(text), rowcast.emit(text, jsonb), rowcast.revoke(text, bigint, text, text) TO %I', role_name);
    -- What sql/optional/supabase.sql made; of nobody else's schema.
    IF obj_description(to_regnamespace('realtime'), 'pg_namespace') LIKE 'Rowcast:%' THEN
        EXECUTE format('GRANT USAGE ON SCHEMA realtime TO %I', role_name);
        EXECUTE format('GRANT EXECUTE ON FUNCTION realtime.topic(), realtime.send(jsonb, text, text, boolean),'
            ' realtime.broadcast_changes(text, text, text, text, text, record, record, text) TO %I', role_name);
    END IF;
END $$;
COMMENT ON FUNCTION rowcast.grant_sender(name) IS 'Grants a role what it needs to send, and nothing else.';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA rowcast FROM PUBLIC;

SELECT rowcast.sync_publication();
SELECT rowcast.grant_service(r.role_name) FROM rowcast.service_roles r JOIN pg_catalog.pg_roles p ON p.rolname = r.role_name;
