//! `rowcast migrate`: applies what is missing, and says what it did.

use crate::{
    config::Config,
    db, migrations,
    term::{Colour, Paint, line},
};

/// Prints the SQL of all migrations, for other tools, and of the optional one if that is wanted.
pub fn print(supabase: bool) {
    for migration in migrations::all() {
        line(format!("-- {}", migration.name));
        line(migration.sql);
    }
    if supabase {
        line(format!("-- {}", migrations::SUPABASE.0));
        line(migrations::SUPABASE.1);
    }
}

/// Applies what is missing to the configured database, and the optional file if that is wanted.
pub async fn run(config: &Config, supabase: bool) -> anyhow::Result<()> {
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
    if supabase {
        migrations::apply_supabase(&mut client).await?;
        let applied = paint.paint(Colour::Green, "applied ");
        line(format!("{applied} {}", migrations::SUPABASE.0));
    } else if count == 0 {
        line("nothing to do: the database is up to date");
    }
    Ok(())
}
