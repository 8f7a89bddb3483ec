//! Whether an answer is what the OpenAPI document says: the part of JSON Schema that it uses.

use std::sync::LazyLock;

use serde_json::Value;

/// Panics where an answer does not fit; statuses that the document does not list for the path do not, either.
pub fn fits(path: &str, method: &str, status: u16, answer: &Value) {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(rowcast_gateway::openapi);
    let document = &*DOCUMENT;
    let path = path.split('?').next().unwrap_or(path);
    let operation = &document["paths"][path][method.to_ascii_lowercase()];
    assert!(operation.is_object(), "{method} {path} is not documented");
    let schema =
        &operation["responses"][status.to_string()]["content"]["application/json"]["schema"];
    assert!(
        schema.is_object(),
        "{status} of {method} {path} is not documented: {answer}"
    );
    check(document, schema, answer, path);
}

fn check(document: &Value, schema: &Value, value: &Value, place: &str) {
    if let Some(target) = schema["$ref"].as_str() {
        let target = document.pointer(target.trim_start_matches('#')).unwrap();
        return check(document, target, value, place);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let allowed = match &schema["type"] {
        Value::Null => true,
        Value::Array(several) => several.iter().any(|one| one == kind),
        one => one == kind,
    };
    assert!(allowed, "{place}: {value} is no {}", schema["type"]);
    if let Some(several) = schema["enum"].as_array() {
        assert!(several.contains(value), "{place}: {value}");
    }
    for item in value.as_array().into_iter().flatten() {
        check(document, &schema["items"], item, place);
    }
    let Some(object) = value.as_object() else {
        return;
    };
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(
            object.contains_key(name.as_str().unwrap()),
            "{place}: {name} is missing"
        );
    }
    for (name, value) in object {
        let known = schema["properties"].get(name);
        let known = known.or_else(|| schema.get("additionalProperties"));
        let known = known.unwrap_or_else(|| panic!("{place}: {name} is not documented"));
        check(document, known, value, &format!("{place}.{name}"));
    }
}
