//! `rowcast explain`: asks the running service why somebody gets an event, or nothing, and prints the answer.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Map, Value};

use super::healthcheck::{local, with_path};
use crate::{
    cli::ExplainArgs,
    config::Config,
    term::{Colour, Paint, line},
};

/// Asks and prints; `Ok(false)`: the event is not delivered.
pub async fn run(config: &Config, args: &ExplainArgs) -> anyhow::Result<bool> {
    let token = config.auth.access_token.as_ref().context(
        "the service answers whoever holds its access token: set ACCESS_TOKEN (auth.access_token)",
    )?;
    let url = match &args.url {
        Some(url) => with_path(url, "admin/explain"),
        None => local(config.listen_host(), config.server.port, "admin/explain"),
    };
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(15))
        .build()?;
    let answer = client
        .post(&url)
        .bearer_auth(token.expose())
        .header("content-type", "application/json")
        .body(question(args).to_string())
        .send()
        .await
        .with_context(|| format!("{url} does not answer"))?;
    let status = answer.status();
    let text = answer.text().await?;
    let answer: Value = serde_json::from_str(&text)
        .with_context(|| format!("{url} answers {status}, and not in JSON"))?;
    if let Some(error) = answer.get("error") {
        let say = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        anyhow::bail!("{} [{}]", say("message"), say("code"));
    }
    match args.json {
        true => line(&answer),
        false => line(told(&answer, Paint::detect())),
    }
    Ok(answer["delivered"] != Value::Bool(false))
}

fn question(args: &ExplainArgs) -> Value {
    let fields = [
        ("user", &args.user),
        ("apiKey", &args.api_key),
        ("organization", &args.organization),
        ("channel", &args.channel),
        ("table", &args.table),
        ("record", &args.record),
        ("operation", &args.operation),
    ];
    let given = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), Value::from(value.clone()?))));
    Value::Object(given.collect::<Map<_, _>>())
}

/// For people.
fn told(answer: &Value, paint: Paint) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = Vec::new();
    let event = &answer["event"];
    let what = match (event.is_null(), event["cursor"].as_str()) {
        (true, _) => "no event".to_owned(),
        (false, Some(cursor)) => format!("the last {} at {cursor}", text(&event["operation"])),
        (false, None) => format!("an {} that would come now", text(&event["operation"])),
    };
    lines.push(format!(
        "{} on {}: {what}",
        paint.paint(Colour::Bold, text(&answer["who"])),
        paint.paint(Colour::Bold, text(&answer["channel"]))
    ));
    let gates = answer["gates"].as_array().into_iter().flatten();
    for gate in gates {
        let mark = match gate["verdict"].as_str() {
            Some("yes") => paint.paint(Colour::Green, "yes"),
            Some("no") => paint.paint(Colour::Red, "NO "),
            _ => paint.paint(Colour::Yellow, "?  "),
        };
        let name = format!("{:<15}", text(&gate["gate"]));
        let name = paint.paint(Colour::Blue, name);
        lines.push(format!("{mark}  {name} {}", text(&gate["says"])));
        for step in gate["mend"].as_array().into_iter().flatten() {
            lines.push(format!("        {}", paint.paint(Colour::Bold, text(step))));
        }
    }
    lines.push(String::new());
    lines.push(match answer["delivered"].as_bool() {
        Some(true) => paint.paint(Colour::Green, "It is delivered."),
        Some(false) => paint.paint(
            Colour::Red,
            format!("It is not delivered: {} says no.", text(&answer["stops"])),
        ),
        None => paint.paint(
            Colour::Yellow,
            "Nothing stands against it, but not everything is known.",
        ),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn people_read_the_gates_in_order_and_what_mends_them() {
        let answer = json!({
            "who": "anna", "channel": "org:a", "delivered": false, "stops": "membership",
            "event": {"cursor": "00000001-1-0", "operation": "UPDATE", "organizationId": "a"},
            "gates": [
                {"gate": "tracked", "verdict": "yes", "says": "it is", "mend": []},
                {"gate": "membership", "verdict": "no", "says": "she is not", "mend": ["INSERT …;"]},
                {"gate": "filter", "verdict": "unknown", "says": "who knows", "mend": []},
            ],
        });
        assert_eq!(
            told(&answer, Paint::plain()),
            "anna on org:a: the last UPDATE at 00000001-1-0\n\
             yes  tracked         it is\n\
             NO   membership      she is not\n\
             \x20       INSERT …;\n\
             ?    filter          who knows\n\
             \n\
             It is not delivered: membership says no."
        );
    }
}
