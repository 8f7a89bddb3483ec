-- Rowcast 0011: what functions of the application that the service calls say to the service: no, and that nobody has to know.

SELECT pg_catalog.pg_advisory_xact_lock(7310868735422358133);

-- The same as RAISE EXCEPTION '<message>' USING ERRCODE = 'RCREF', DETAIL = '<code>', which needs no right at all.
CREATE OR REPLACE FUNCTION rowcast.refuse(code text, message text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF code IS NULL OR code !~ '^[A-Za-z0-9_.:-]{1,64}$' THEN
        RAISE EXCEPTION 'the code of a refusal has 1 to 64 letters, digits and _ . : -' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RAISE EXCEPTION USING MESSAGE = coalesce(message, code), ERRCODE = 'RCREF', DETAIL = code;
END $$;
COMMENT ON FUNCTION rowcast.refuse(text, text) IS
    'Says no to the caller of the function that calls it, with a code and a sentence that reach him.';

-- The same as set_config('rowcast.told', 'nobody', true), which needs no right at all.
CREATE OR REPLACE FUNCTION rowcast.tell_nobody() RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$ SELECT set_config('rowcast.told', 'nobody', true) $$;
COMMENT ON FUNCTION rowcast.tell_nobody() IS
    'Says that nobody has to know what the handler changes, so that the service does not warn of it.';

-- What the database role needs as which functions are called.
CREATE OR REPLACE FUNCTION rowcast.grant_caller(role_name name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA rowcast TO %I', role_name);
    EXECUTE format('GRANT EXECUTE ON FUNCTION rowcast.refuse(text, text), rowcast.tell_nobody() TO %I', role_name);
END $$;
COMMENT ON FUNCTION rowcast.grant_caller(name) IS 'Grants a role, as which functions of the application are called, what it needs of Rowcast.';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA rowcast FROM PUBLIC;
