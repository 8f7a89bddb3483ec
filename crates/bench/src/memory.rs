//! What an idle, authenticated, subscribed socket costs the process.

use anyhow::Result;

use crate::{
    database::Database,
    process,
    report::{Figure, Goal},
    service::{SECRET, Service},
    sockets,
};

const SOCKETS: usize = 10_000;
/// Opened before the first reading: what the process needs anyway for its first sockets is not theirs.
const WARM: usize = 200;

/// Measures `memory_idle_connection`.
pub async fn run(rounds: usize) -> Result<Vec<Figure>> {
    let mut runs = Vec::new();
    for _ in 0..rounds {
        let db = Database::start(&[]).await?;
        let sql = db.client().await?;
        sql.batch_execute(
            "insert into rowcast.memberships (user_id, organization_id)
             select 'user_' || i, 'org_' || i % 100 from generate_series(0, 999) i",
        )
        .await?;
        let limits = [
            ("ROWCAST__LIMITS__CONNECTIONS", "20000"),
            ("ROWCAST__LIMITS__CONNECTIONS_PER_ORGANIZATION", "20000"),
            ("ROWCAST__LIMITS__UNAUTHENTICATED", "20000"),
        ];
        let service = Service::start(&db.url(), &limits).await?;
        let mut open = Vec::with_capacity(SOCKETS);
        let mut before = 0;
        for i in 0..SOCKETS + WARM {
            if i == WARM {
                before = process::resident_bytes(service.pid())?;
            }
            let user = i % 1000;
            let token = sockets::token(SECRET, &format!("user_{user}"))?;
            open.push(
                sockets::subscribe(&service.public, &token, &format!("org_{}", user % 100)).await?,
            );
        }
        let after = process::resident_bytes(service.pid())?;
        runs.push((
            after.saturating_sub(before) as f64 / 1024.0 / SOCKETS as f64,
            6.0,
        ));
    }
    Ok(vec![Figure::of(
        "memory_idle_connection",
        "KiB",
        Goal::AtMost(1.0),
        "growth of the resident memory of the service over 10,000 idle, authenticated sockets subscribed to their \
         organization and user channel, each; reference: the limit of 6 KiB",
        &runs,
    )])
}
