//! `rowcast doctor`: says what is wrong with a database, each with the statement that mends it.
//!
//! Looking ([`facts`]) and judging ([`judge`]) are apart, so that every verdict is tested without a
//! database that has the fault.

mod facts;
mod judge;
mod provider;
mod report;

use crate::{
    config::Config,
    db,
    term::{Paint, line},
};

/// Looks, judges and prints. `Ok(false)`: something keeps the service from working.
pub async fn run(config: &Config, json: bool) -> anyhow::Result<bool> {
    let findings = match db::connect(config).await {
        Ok(client) => {
            let facts = facts::gather(&client, config)
                .await
                .map_err(|error| anyhow::anyhow!(crate::migrations::explain(&error)))?;
            judge::judge(&facts)
        }
        Err(error) => vec![judge::no_connection(&format!("{error:#}"))],
    };
    line(match json {
        true => report::json(&findings),
        false => report::text(&findings, Paint::detect()),
    });
    Ok(!findings
        .iter()
        .any(|finding| finding.level == judge::Level::Fail))
}
