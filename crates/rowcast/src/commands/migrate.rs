//! `rowcast migrate`: applies what is missing, and says what it did.

use crate::{
    config::Config,
    db, migrations,
    term::{Colour, Paint, line},
};

/// Prints the SQL of all migrations, for other tools.
pub fn print() {
    for migration in migrations::all() {
        line(format!("-- {}", migration.name));
        line(migration.sql);
    }
}

/// Applies what is missing to the configured database.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    let paint = Paint::detect();
    let mut client = db::connect(config).await?;
    let count = migrations::apply(&mut client, |migration, again| {
        let what = match again {
            true => paint.paint(Colour::Yellow, "again   "),
            false => paint.paint(Colour::Green, "applied "),
        };
        line(format!("{what} {}", migration.name));
    })
    .await?;
    if count == 0 {
        line("nothing to do: the database is up to date");
    }
    Ok(())
}
