//! `rowcast healthcheck`: asks the local service, for container health checks without curl.

use std::time::Duration;

use crate::{config::Config, term};

/// Asks; `Ok(false)` is an answer that is not well.
pub async fn run(config: &Config, ready: bool, url: Option<&str>) -> anyhow::Result<bool> {
    let url = match (url, ready) {
        (Some(url), _) => with_path(url, if ready { "readyz" } else { "healthz" }),
        (None, false) => local(config.listen_host(), config.server.port, "healthz"),
        (None, true) => local(
            &config.server.internal_host,
            config.server.internal_port,
            "readyz",
        ),
    };
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(5))
        .build()?;
    let answer = match client.get(&url).send().await {
        Ok(answer) => answer,
        Err(error) => {
            let error = anyhow::Error::from(error);
            term::line(format!("{url} does not answer: {:#}", error));
            return Ok(false);
        }
    };
    let status = answer.status();
    let body = answer.text().await.unwrap_or_default();
    term::line(format!("{} {}", status.as_u16(), body.trim()));
    Ok(status.is_success())
}

/// The address with a path, unless it has one.
pub(super) fn with_path(url: &str, path: &str) -> String {
    let base = url.trim_end_matches('/');
    let authority = base.split_once("://").map_or(base, |(_, rest)| rest);
    match authority.contains('/') {
        true => base.to_owned(),
        false => format!("{base}/{path}"),
    }
}

pub(super) fn local(host: &str, port: u16, path: &str) -> String {
    let host = match host {
        "0.0.0.0" | "" => "127.0.0.1".to_owned(),
        "::" | "[::]" => "[::1]".to_owned(),
        host if host.contains(':') && !host.starts_with('[') => format!("[{host}]"),
        host => host.to_owned(),
    };
    format!("http://{host}:{port}/{path}")
}

#[cfg(test)]
mod tests {
    use super::{local, with_path};

    #[test]
    fn asks_this_machine() {
        assert_eq!(local("0.0.0.0", 1, "healthz"), "http://127.0.0.1:1/healthz");
        assert_eq!(with_path("http://x:1/", "healthz"), "http://x:1/healthz");
        assert_eq!(with_path("http://x:1/a", "healthz"), "http://x:1/a");
        assert_eq!(local("::", 1, "x"), "http://[::1]:1/x");
        assert_eq!(local("fe80::1", 1, "x"), "http://[fe80::1]:1/x");
    }
}
