//! The command line: names and meanings of commands and flags, nothing else.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Pushes every committed row change of a PostgreSQL database to the people who may see it.
#[derive(Debug, Parser)]
#[command(name = "rowcast", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Flags that every command knows.
    #[command(flatten)]
    pub common: Common,
}

/// Flags that every command knows.
#[derive(Debug, Default, Args)]
pub struct Common {
    /// Configuration file (TOML).
    #[arg(long, global = true, value_name = "PATH", env = "ROWCAST_CONFIG")]
    pub config: Option<PathBuf>,
    /// Set any key of the configuration; may be repeated.
    #[arg(long = "set", global = true, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// Address of the database (database.url).
    #[arg(long, global = true, value_name = "URL")]
    pub database_url: Option<String>,
    /// How much to log (log.level).
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// How log lines look: text or json (log.format).
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Work without a key of your own: for development on one machine.
    #[arg(long, global = true)]
    pub insecure_development: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service.
    Serve(ServeArgs),
    /// Bring the database to the state this version needs.
    Migrate {
        /// Print the SQL instead, for other tools.
        #[arg(long)]
        print: bool,
        /// Make realtime.send, broadcast_changes and topic, too: for triggers written for Supabase Realtime.
        #[arg(long)]
        supabase: bool,
    },
    /// Say what is wrong with a database, and what mends it.
    Doctor {
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Print the live events of a channel, through the real protocol.
    Tail(TailArgs),
    /// Say why somebody gets an event, or gets nothing: each gate's verdict, asked of the running service.
    Explain(ExplainArgs),
    /// Write code for servers of the application, from what is tracked and declared in the database.
    #[command(subcommand)]
    Generate(Generate),
    /// Make a token for development, signed with JWT_SECRET.
    Token(TokenArgs),
    /// Run everything on this machine, with an example page.
    Demo(DemoArgs),
    /// Print the configuration that is in force, secrets hidden.
    Config {
        /// Print the reference of all keys instead (markdown).
        #[arg(long)]
        reference: bool,
        /// Print how much memory the service may take with it instead, line by line.
        #[arg(long, conflicts_with = "reference")]
        memory: bool,
    },
    /// Ask the local service how it is; for containers.
    Healthcheck {
        /// Ask whether it is ready (streaming and current), not only alive.
        #[arg(long)]
        ready: bool,
        /// Address of the service instead of the configured port.
        #[arg(long, value_name = "URL")]
        url: Option<String>,
    },
}

/// What `generate` writes.
#[derive(Debug, Subcommand)]
pub enum Generate {
    /// A TypeScript module with createRealtime(env): typed tables, and a method for each declared event.
    Helper(HelperArgs),
}

/// Flags of `generate helper`.
#[derive(Debug, Args)]
pub struct HelperArgs {
    /// The file, such as src/lib/realtime.ts; left out: standard output.
    #[arg(long, value_name = "PATH")]
    pub out: Option<PathBuf>,
    /// Write nothing, and fail when the file is not what would be written; for CI.
    #[arg(long, requires = "out")]
    pub check: bool,
}

/// Flags of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address to listen on (server.host).
    #[arg(long)]
    pub host: Option<String>,
    /// Port for clients; 0 takes a free one (server.port).
    #[arg(long)]
    pub port: Option<u16>,
    /// Port for metrics and readiness; 0 takes a free one (server.internal_port).
    #[arg(long)]
    pub internal_port: Option<u16>,
    /// Apply missing migrations first (database.migrate).
    #[arg(long)]
    pub migrate: bool,
    /// Serve the example page (demo.page).
    #[arg(long, hide = true)]
    pub demo_page: bool,
}

/// Flags of `tail`.
#[derive(Debug, Args)]
pub struct TailArgs {
    /// The channel, such as `org:acme`; left out: everything the token is put on.
    pub channel: Option<String>,
    /// Address of the service.
    #[arg(long, default_value = "http://127.0.0.1:4000", env = "REALTIME_URL")]
    pub url: String,
    /// Token or API key; left out: a development token for --user is made.
    #[arg(long, env = "ROWCAST_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// The organization; left out: the one of the channel.
    #[arg(long)]
    pub organization: Option<String>,
    /// The user of the development token.
    #[arg(long, default_value = "developer")]
    pub user: String,
    /// Print the frames as they come, one JSON object a line.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The user.
    #[arg(long, required_unless_present = "api_key")]
    pub user: Option<String>,
    /// Or the id of an API key.
    #[arg(long, conflicts_with = "user")]
    pub api_key: Option<String>,
    /// The organization.
    #[arg(long, required_unless_present = "channel")]
    pub organization: Option<String>,
    /// The channel, such as `org:acme`; left out: that of the organization.
    #[arg(long)]
    pub channel: Option<String>,
    /// The table; left out: whatever came last on the channel.
    #[arg(long)]
    pub table: Option<String>,
    /// The key of the row as text; of several columns a JSON array.
    #[arg(
        long = "id",
        alias = "record",
        requires = "table",
        value_name = "RECORD"
    )]
    pub record: Option<String>,
    /// What happens to the row: INSERT, UPDATE or DELETE.
    #[arg(long, value_name = "OPERATION")]
    pub operation: Option<String>,
    /// Address of the service instead of the configured port.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// For programs.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The user (`sub`).
    #[arg(long)]
    pub user: String,
    /// The organization, as a claim (see auth.trust_claims); memberships in the database count without it.
    #[arg(long)]
    pub organization: Option<String>,
    /// A role in that organization, as a claim; may be repeated.
    #[arg(long, requires = "organization")]
    pub role: Vec<String>,
    /// How long it is good: `15 min`, `1 h`, `30 d`.
    #[arg(long, default_value = "1 h")]
    pub expires: String,
}

/// Flags of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Port of the page and the service; 0 takes a free one.
    #[arg(long, default_value_t = 4000)]
    pub port: u16,
    /// Address to listen on; 0.0.0.0 opens the page, and its buttons, to your network.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Folder for the private database.
    #[arg(long, default_value = ".rowcast-demo")]
    pub dir: PathBuf,
    /// Major version of PostgreSQL; left out: the newest on this machine.
    #[arg(long, value_name = "MAJOR")]
    pub postgres: Option<u32>,
}

impl Cli {
    /// The flags that stand for keys of the configuration, weakest first.
    pub fn settings(&self) -> Result<Vec<(String, String)>, String> {
        let common = &self.common;
        let mut flags: Vec<(&str, Option<String>)> = vec![
            ("database.url", common.database_url.clone()),
            ("log.level", common.log_level.clone()),
            ("log.format", common.log_format.clone()),
            (
                "auth.insecure_development",
                common.insecure_development.then(|| "true".to_owned()),
            ),
        ];
        if let Command::Serve(serve) = &self.command {
            let text = |port: Option<u16>| port.map(|port| port.to_string());
            let yes = |flag: bool| flag.then(|| "true".to_owned());
            flags.extend([
                ("server.host", serve.host.clone()),
                ("server.port", text(serve.port)),
                ("server.internal_port", text(serve.internal_port)),
                ("database.migrate", yes(serve.migrate)),
                ("demo.page", yes(serve.demo_page)),
            ]);
        }
        let mut settings: Vec<(String, String)> = flags
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)))
            .collect();
        for pair in &common.set {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| format!("--set {pair}: write it as section.key=value"))?;
            settings.push((key.trim().to_owned(), value.to_owned()));
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
        let cli = Cli::parse_from([
            "rowcast",
            "serve",
            "--port",
            "0",
            "--set",
            "log.level=debug",
        ]);
        let settings = cli.settings().unwrap();
        assert!(settings.contains(&("server.port".into(), "0".into())));
        assert!(settings.contains(&("log.level".into(), "debug".into())));
        let wrong = Cli::parse_from(["rowcast", "config", "--set", "x"]);
        assert!(wrong.settings().is_err());
    }
}
