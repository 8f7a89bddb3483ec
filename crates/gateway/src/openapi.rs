//! The HTTP addresses as an OpenAPI document: a table of routes beside the schemas of their answers. Codes and bounds
//! come from where they are used. Served with the AsyncAPI document of the sockets.

use axum::{Json, Router, routing::get};
use serde_json::{Map, Value, json};

use crate::admin::AdminError;

fn named(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn body(description: &str, schema: &Value) -> Value {
    json!({"description": description, "content": {"application/json": {"schema": schema}}})
}

fn refusals(statuses: &[u16]) -> Map<String, Value> {
    let of = |status: &u16| (status.to_string(), body("Refused.", &named("Error")));
    statuses.iter().map(of).collect()
}

fn operation(says: &str, security: &str, answer: &Value, statuses: &[u16]) -> Value {
    let mut answers = refusals(statuses);
    answers.insert("200".into(), answer.clone());
    json!({"summary": says, "security": [{security: []}], "responses": answers})
}

fn parameters(all: &[(&str, &str, &str)]) -> Vec<Value> {
    let of = |(name, place, says): &(&str, &str, &str)| {
        let number = matches!(*name, "limit" | "after");
        let kind = if number { "integer" } else { "string" };
        let schema = match *name {
            "channel" if says.starts_with("A channel") => {
                json!({"type": "array", "items": {"type": "string"}})
            }
            _ => json!({"type": kind}),
        };
        json!({"name": name, "in": place, "description": says, "required": false, "schema": schema})
    };
    all.iter().map(of).collect()
}

fn with(mut operation: Value, name: &str, more: Value) -> Value {
    operation[name] = more;
    operation
}

fn asks(operation: Value, schema: &str) -> Value {
    let content =
        json!({"required": true, "content": {"application/json": {"schema": named(schema)}}});
    with(operation, "requestBody", content)
}

fn text(nullable: bool) -> Value {
    match nullable {
        true => json!({"type": ["string", "null"]}),
        false => json!({"type": "string"}),
    }
}

/// An object of these fields, all of which are there.
fn object(fields: &[(&str, Value)]) -> Value {
    let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    let properties = fields
        .iter()
        .map(|(name, schema)| ((*name).to_owned(), schema.clone()));
    json!({"type": "object", "required": names, "properties": properties.collect::<Map<_, _>>()})
}

/// The same of a question, in which none has to be.
fn question(fields: &[(&str, Value)]) -> Value {
    let mut whole = object(fields);
    whole["required"] = json!([]);
    whole["additionalProperties"] = json!(false);
    whole
}

fn list(of: Value) -> Value {
    json!({"type": "array", "items": of})
}

fn schemas() -> Value {
    let whole = || json!({"type": "integer"});
    let maybe = || json!({"type": ["integer", "null"]});
    let flag = || json!({"type": "boolean"});
    let on = object(&[
        ("channel", text(false)),
        ("organizationId", text(true)),
        ("catchingUp", flag()),
    ]);
    let connection = object(&[
        ("id", whole()),
        ("userId", text(true)),
        ("apiKeyId", text(true)),
        ("channels", list(on)),
        ("queuedBytes", whole()),
    ]);
    let channel = object(&[
        ("channel", text(false)),
        ("organizationId", text(true)),
        ("connections", whole()),
    ]);
    let gate = object(&[
        ("gate", text(false)),
        ("verdict", json!({"enum": ["yes", "no", "unknown"]})),
        ("says", text(false)),
        ("mend", list(text(false))),
    ]);
    let event = object(&[
        ("cursor", text(true)),
        ("operation", text(false)),
        ("organizationId", text(true)),
    ]);
    let whose = [
        ("user", text(false)),
        ("apiKey", text(false)),
        ("organization", text(false)),
    ];
    let disconnect = [
        &whose[..],
        &[
            ("connection", whole()),
            ("code", whole()),
            ("reason", text(false)),
        ],
    ]
    .concat();
    let asked = ["channel", "table", "record", "operation"].map(|name| (name, text(false)));
    let explain = [&whose[..], &asked[..]].concat();
    let mut error = object(&[("code", text(false)), ("message", text(false))]);
    error["properties"]["number"] = whole();
    error["properties"]["index"] = whole();
    let mut event_or_none = event;
    event_or_none["type"] = json!(["object", "null"]);
    json!({
        "Error": object(&[("error", error)]),
        "AdminErrorCode": {"enum": AdminError::CODES},
        "Connections": object(&[("connections", list(connection)), ("next", maybe()), ("open", whole())]),
        "Channels": object(&[("channels", list(channel)), ("all", whole()), ("complete", flag())]),
        "Disconnect": question(&disconnect),
        "Disconnected": object(&[("disconnected", whole())]),
        "Revoke": question(&[("channel", text(false)), ("organization", text(false)), ("epoch", whole()), ("reason", text(false))]),
        "Revoked": object(&[("revoked", flag()), ("cursor", text(true))]),
        "Explain": question(&explain),
        "Explained": object(&[
            ("who", text(false)),
            ("channel", text(false)),
            ("delivered", json!({"type": ["boolean", "null"]})),
            ("stops", text(true)),
            ("event", event_or_none),
            ("gates", list(gate)),
        ]),
        "Broadcast": {"type": "object", "description": "One message, or `messages` with a list of them: docs/protocol.md."},
        "Said": {"type": "object", "properties": {
            "cursor": text(true), "sockets": whole(), "durable": flag(),
            "results": list(object(&[("cursor", text(false)), ("sockets", whole())])),
        }},
        "SupabaseBroadcast": {"type": "object", "required": ["messages"], "description": "docs/supabase.md", "properties": {
            "messages": list(json!({"type": "object", "required": ["topic", "event", "payload"], "properties": {
                "topic": text(false), "event": text(false), "payload": {"type": "object"}, "private": flag(),
            }})),
        }},
        "Payload": {"type": "object", "description": "The payload itself."},
        "SupabaseError": {"type": "object", "required": ["code", "message"], "properties": {
            "code": text(false), "message": text(false), "error": text(false),
            "errors": {"type": "object", "description": "What is wrong, by field.", "additionalProperties": list(text(false))},
        }},
        "Alive": object(&[("status", text(false))]),
    })
}

/// The document, OpenAPI 3.1.
pub fn openapi() -> Value {
    let get = |says, schema, statuses: &[u16]| {
        operation(
            says,
            "accessToken",
            &body("The answer.", &named(schema)),
            statuses,
        )
    };
    let page = ("limit", "query", "Entries of the answer, 1 to 1000.");
    let explain = || {
        get(
            "Says gate by gate why somebody gets an event, or nothing.",
            "Explained",
            &[400, 401, 404, 413],
        )
    };
    let asked = parameters(&[
        ("user", "query", "Who."),
        ("apiKey", "query", "Or which machine."),
        ("organization", "query", "In which organization."),
        ("channel", "query", "On which channel."),
        ("table", "query", "Of which table."),
        ("record", "query", "Of which record."),
        ("operation", "query", "INSERT, UPDATE or DELETE."),
    ]);
    let stream = json!({"description": "An event for each frame that a socket gets.", "content": {"text/event-stream": {"schema": {"type": "string"}}}});
    let events = with(
        operation(
            "What a socket receives, as server-sent events.",
            "userToken",
            &stream,
            &[400, 401, 403, 404, 405, 429, 503],
        ),
        "parameters",
        json!(parameters(&[
            (
                "channel",
                "query",
                "A channel; again for each further one, at most 16."
            ),
            ("organization", "query", "Which organization."),
            ("events", "query", "changes, invalidations, broadcasts."),
            ("mode", "query", "all or latest."),
            (
                "tables",
                "query",
                "Names, or the JSON list of a subscribe frame."
            ),
            ("presence", "query", "true or count."),
            ("cursor", "query", "The id to go on behind."),
            (
                "Last-Event-ID",
                "header",
                "The same; counts when both are there."
            ),
            ("X-Organization-Id", "header", "The organization."),
            (
                "Rowcast-Grant",
                "header",
                "What the application has signed about authorized channels; several with commas between them."
            ),
        ])),
    );
    let mut broadcast = asks(
        get(
            "Says something to those who may hear it.",
            "Said",
            &[400, 401, 404, 405, 408, 409, 413, 422, 503],
        ),
        "Broadcast",
    );
    let written = body("Written; not seen in the log yet.", &named("Said"));
    broadcast["responses"]["202"] = written;
    let connections = with(
        get("Who is connected.", "Connections", &[400, 401, 404, 503]),
        "parameters",
        json!(parameters(&[
            ("user", "query", "Of this user."),
            ("apiKey", "query", "Of this API key."),
            ("organization", "query", "Of this organization."),
            ("after", "query", "`next` of the page before."),
            page,
        ])),
    );
    let channels = with(
        get(
            "The channels with most on them.",
            "Channels",
            &[400, 401, 404, 503],
        ),
        "parameters",
        json!(parameters(&[
            ("prefix", "query", "Whose names begin so."),
            page
        ])),
    );
    let disconnect = asks(
        get(
            "Closes connections.",
            "Disconnected",
            &[400, 401, 404, 405, 413, 503],
        ),
        "Disconnect",
    );
    let revoke = asks(
        get(
            "Takes everybody off a channel.",
            "Revoked",
            &[400, 401, 404, 405, 413, 422, 503],
        ),
        "Revoke",
    );
    let rest = |says: &str, schema: &str, place: &[(&str, &str, &str)]| {
        let of = |status: &u16| {
            let refused = body("Refused.", &named("SupabaseError"));
            (status.to_string(), refused)
        };
        let statuses = [401, 403, 405, 408, 413, 415, 422, 429, 503];
        let mut answers: Map<String, Value> = statuses.iter().map(of).collect();
        answers.insert("202".into(), json!({"description": "Said."}));
        let query = [
            (
                "organization",
                "query",
                "Which organization, where the topic does not say one.",
            ),
            ("private", "query", "true or false; without effect."),
        ];
        let mut all = parameters(&[place, &query].concat());
        for one in all.iter_mut().filter(|one| one["in"] == "path") {
            one["required"] = true.into();
        }
        let operation = json!({"summary": says, "responses": answers, "parameters": all,
            "security": [{"userToken": []}, {"accessToken": []}, {"apikey": []}]});
        json!({"post": asks(operation, schema)})
    };
    let many = || {
        rest(
            "Says several things, as clients of Supabase do that are on no channel.",
            "SupabaseBroadcast",
            &[],
        )
    };
    let place = [
        ("topic", "path", "The channel."),
        ("event", "path", "The event."),
    ];
    let one = || {
        rest(
            "Says one thing, as clients of Supabase do.",
            "Payload",
            &place,
        )
    };
    let alive = json!({"summary": "The process is alive.", "security": [], "responses": {"200": body("It is.", &named("Alive"))}});
    let bearer = |says: &str| json!({"type": "http", "scheme": "bearer", "description": says});
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Rowcast", "version": env!("CARGO_PKG_VERSION"), "description": "Row changes of a PostgreSQL database, to the people who may see them. The sockets: /asyncapi.json."},
        "paths": {
            "/broadcast": {"post": broadcast},
            "/realtime/v1/events": {"get": events},
            "/realtime/v1/api/broadcast": many(),
            "/realtime/v1/api/broadcast/{topic}/events/{event}": one(),
            "/api/broadcast": many(),
            "/api/broadcast/{topic}/events/{event}": one(),
            "/admin/connections": {"get": connections},
            "/admin/channels": {"get": channels},
            "/admin/disconnect": {"post": disconnect},
            "/admin/revoke": {"post": revoke},
            "/admin/explain": {"get": with(explain(), "parameters", json!(asked)), "post": asks(explain(), "Explain")},
            "/healthz": {"get": alive},
        },
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "userToken": bearer("A JWT or an API key."),
                "accessToken": bearer("ACCESS_TOKEN of the service."),
                "apikey": {"type": "apiKey", "in": "header", "name": "apikey", "description": "The same token of a user, or API key, where clients of Supabase put it."},
            },
        },
    })
}

/// Both documents.
pub(crate) fn routes() -> Router {
    Router::new()
        .route("/openapi.json", get(async || Json(openapi())))
        .route(
            "/asyncapi.json",
            get(async || Json(rowcast_wire::asyncapi())),
        )
}
