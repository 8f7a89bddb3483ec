-- Rowcast 0012: what clients may send, and what becomes of it: a function of the database, a webhook, or the
-- others on the channel.

SELECT pg_catalog.pg_advisory_xact_lock(7310868735422358133);

-- One row per pattern and event. Written by rowcast.define_client_event() and rowcast.drop_client_event(),
-- followed from the log.
CREATE TABLE IF NOT EXISTS rowcast.client_events (
    pattern             text NOT NULL,
    event               text NOT NULL,
    -- One of the three: schema and name of a function, the name of a webhook, the name the others get it under.
    handler             text,
    webhook             text,
    relay               text,
    required_roles      text[] NOT NULL DEFAULT '{}',
    input               jsonb,
    max_bytes           integer NOT NULL DEFAULT 16384,
    throttle_per_second integer,
    throttle_edge       text NOT NULL DEFAULT 'trailing',
    rate_limit          integer,
    rate_window_ms      integer NOT NULL DEFAULT 60000,
    rate_key            text NOT NULL DEFAULT 'rate',
    created_at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pattern, event),
    CHECK (num_nonnulls(handler, webhook, relay) = 1),
    CHECK (throttle_edge IN ('trailing', 'leading'))
);
ALTER TABLE rowcast.client_events REPLICA IDENTITY FULL;
REVOKE ALL ON rowcast.client_events FROM PUBLIC;

-- What is wrong with a schema of fields; null: nothing.
CREATE OR REPLACE FUNCTION rowcast.check_input(input jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    field record;
    spec  jsonb;
    kind  text;
    bad   text;
    most  integer;
BEGIN
    IF jsonb_typeof(input) <> 'object' OR (SELECT count(*) FROM jsonb_object_keys(input)) > 64 THEN
        RETURN 'input must be an object of at most 64 fields, such as {"room_id": "int"}';
    END IF;
    FOR field IN SELECT f.key, f.value FROM jsonb_each(input) f LOOP
        IF field.key = '' OR octet_length(field.key) > 255 THEN
            RETURN 'the name of a field has 1 to 255 bytes';
        END IF;
        spec := CASE jsonb_typeof(field.value) WHEN 'string' THEN jsonb_build_object('type', field.value) ELSE field.value END;
        IF jsonb_typeof(spec) <> 'object' THEN
            RETURN format('the field "%s" must be a type, such as "text", or an object', field.key);
        END IF;
        kind := coalesce(spec ->> 'type', 'text');
        IF kind NOT IN ('text', 'int', 'number', 'boolean', 'uuid', 'object', 'array', 'any') THEN
            RETURN format('the type of the field "%s" must be text, int, number, boolean, uuid, object, array or any', field.key);
        END IF;
        SELECT o.key INTO bad FROM jsonb_each(spec) o WHERE NOT CASE
            WHEN o.key = 'type' THEN jsonb_typeof(o.value) = 'string'
            WHEN o.key = 'required' OR (o.key = 'trim' AND kind = 'text') THEN jsonb_typeof(o.value) = 'boolean'
            WHEN (o.key IN ('minLength', 'maxLength') AND kind = 'text') OR (o.key = 'maxItems' AND kind = 'array')
                THEN jsonb_typeof(o.value) = 'number' AND o.value #>> '{}' ~ '^[0-9]{1,6}$'
            ELSE false END LIMIT 1;
        IF FOUND THEN
            RETURN format('"%s" of the field "%s" cannot be used: there are type, required, for text trim, minLength and maxLength, for array maxItems',
                bad, field.key);
        END IF;
        most := coalesce((spec ->> 'maxLength')::integer, 1024);
        IF kind = 'text' AND most < coalesce((spec ->> 'minLength')::integer, 0) THEN
            RETURN format('minLength of the field "%s" is more than its maxLength, which is %s', field.key, most);
        END IF;
    END LOOP;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION rowcast.define_client_event(
    pattern text, event text, handler regproc DEFAULT NULL, webhook text DEFAULT NULL, relay text DEFAULT NULL,
    required_roles text[] DEFAULT '{}', input jsonb DEFAULT NULL, max_bytes integer DEFAULT 16384,
    throttle_per_second integer DEFAULT NULL, throttle_edge text DEFAULT 'trailing',
    rate_limit integer DEFAULT NULL, rate_window interval DEFAULT '60 seconds', rate_key text DEFAULT 'rate'
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    other     record;
    wrong     text;
    called    text;
    window_ms numeric;
BEGIN
    PERFORM rowcast.check_pattern(pattern);
    PERFORM rowcast.check_name('the name of the event', event, 128);
    FOR other IN SELECT c.pattern AS it FROM rowcast.client_events c
                 WHERE c.event = event AND c.pattern <> pattern AND rowcast.pattern_overlap(pattern, c.pattern) = 'ambiguous' LOOP
        RAISE EXCEPTION 'for the event "%", some names fit both "%" and "%", and neither is the more specific', event, pattern, other.it
            USING ERRCODE = 'invalid_parameter_value',
            HINT = format('Drop the other first: SELECT rowcast.drop_client_event(%L, %L);', other.it, event);
    END LOOP;

    IF num_nonnulls(handler, webhook, relay) <> 1 THEN
        RAISE EXCEPTION 'a client event has one of handler, webhook and relay' USING ERRCODE = 'invalid_parameter_value',
            HINT = format('rowcast.define_client_event(%L, %L, handler => ''app.on_%s'');', pattern, event, event);
    END IF;
    -- The service says these itself, when somebody comes to a channel or leaves it.
    IF starts_with(event, 'presence.') AND (relay IS NOT NULL OR event NOT IN ('presence.join', 'presence.leave')) THEN
        RAISE EXCEPTION 'the event "%" is no client''s: of those that begin with "presence." there are presence.join and presence.leave, for a handler or a webhook', event
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give the event another name.';
    END IF;
    IF handler IS NOT NULL THEN
        SELECT format('%I.%I', n.nspname, p.proname) INTO called
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.oid = handler;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no function %', handler USING ERRCODE = 'undefined_function';
        END IF;
        IF NOT EXISTS (SELECT FROM pg_proc p WHERE p.oid = handler AND p.prokind = 'f' AND NOT p.proretset
                       AND p.proargtypes::text = concat_ws(' ', 'jsonb'::regtype::oid, 'text'::regtype::oid, 'jsonb'::regtype::oid, 'jsonb'::regtype::oid)
                       AND p.prorettype IN ('jsonb'::regtype, 'json'::regtype)) THEN
            RAISE EXCEPTION '% cannot handle a client event', called USING ERRCODE = 'invalid_function_definition',
                HINT = format('It has to be %s(input jsonb, channel text, arguments jsonb, caller jsonb) RETURNS jsonb.', called);
        END IF;
    END IF;
    IF webhook IS NOT NULL THEN
        PERFORM rowcast.check_name('webhook', webhook, 63);
    END IF;
    IF relay IS NOT NULL THEN
        PERFORM rowcast.check_name('relay', relay, 128);
    END IF;

    required_roles := coalesce(required_roles, '{}');
    PERFORM rowcast.check_name('each of required_roles', r, 255) FROM unnest(required_roles) r;
    wrong := rowcast.check_input(input);
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION '%', wrong USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF relay IS NOT NULL AND input ? 'user_id' THEN
        RAISE EXCEPTION 'user_id of a relayed event is put in by the service' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Leave it out of input; what a client sends under this name is dropped.';
    END IF;
    max_bytes := coalesce(max_bytes, 16384);
    IF max_bytes NOT BETWEEN 2 AND 262144 THEN
        RAISE EXCEPTION 'max_bytes must be 2 to 262144, not %', max_bytes USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF throttle_per_second NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'throttle_per_second must be 1 to 1000, not %', throttle_per_second USING ERRCODE = 'invalid_parameter_value';
    END IF;
    throttle_edge := coalesce(throttle_edge, 'trailing');
    IF throttle_edge NOT IN ('trailing', 'leading') THEN
        RAISE EXCEPTION 'throttle_edge must be trailing or leading, not %', throttle_edge USING ERRCODE = 'invalid_parameter_value',
            HINT = 'trailing: the last of those that come too fast is handled when its time has come. leading: all of them are dropped.';
    END IF;
    IF rate_limit < 1 THEN
        RAISE EXCEPTION 'rate_limit must be 1 or more, not %', rate_limit USING ERRCODE = 'invalid_parameter_value';
    END IF;
    window_ms := extract(epoch FROM coalesce(rate_window, '60 seconds')) * 1000;
    IF window_ms NOT BETWEEN 100 AND 86400000 THEN
        RAISE EXCEPTION 'rate_window must be 100 ms to 1 day, not %', rate_window USING ERRCODE = 'invalid_parameter_value';
    END IF;
    rate_key := rowcast.check_name('rate_key', coalesce(rate_key, 'rate'), 63);

    INSERT INTO rowcast.client_events AS c (pattern, event, handler, webhook, relay, required_roles, input, max_bytes,
        throttle_per_second, throttle_edge, rate_limit, rate_window_ms, rate_key)
    VALUES (pattern, event, called, webhook, relay, required_roles, input, max_bytes,
        throttle_per_second, throttle_edge, rate_limit, window_ms::integer, rate_key)
    ON CONFLICT ON CONSTRAINT client_events_pkey DO UPDATE SET handler = excluded.handler, webhook = excluded.webhook,
        relay = excluded.relay, required_roles = excluded.required_roles, input = excluded.input, max_bytes = excluded.max_bytes,
        throttle_per_second = excluded.throttle_per_second, throttle_edge = excluded.throttle_edge,
        rate_limit = excluded.rate_limit, rate_window_ms = excluded.rate_window_ms, rate_key = excluded.rate_key;
END $$;
COMMENT ON FUNCTION rowcast.define_client_event(text, text, regproc, text, text, text[], jsonb, integer, integer, text, integer, interval, text) IS
    'Says what becomes of an event that a client sends on a channel whose name fits a pattern.';

CREATE OR REPLACE FUNCTION rowcast.drop_client_event(pattern text, event text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM rowcast.client_events c WHERE c.pattern = drop_client_event.pattern AND c.event = drop_client_event.event;
    RETURN FOUND;
END $$;
COMMENT ON FUNCTION rowcast.drop_client_event(text, text) IS 'Forgets a client event: from here on it is refused.';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA rowcast FROM PUBLIC;

SELECT rowcast.sync_publication();
SELECT rowcast.grant_service(r.role_name) FROM rowcast.service_roles r JOIN pg_catalog.pg_roles p ON p.rolname = r.role_name;
