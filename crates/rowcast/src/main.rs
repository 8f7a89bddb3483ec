//! Rowcast, one binary: reads the command line and the configuration, and hands over to the command.

mod application;
mod beginning;
mod cli;
mod commands;
mod config;
mod db;
mod demo;
mod doctor;
mod durable;
mod files;
mod health;
mod helper;
mod housekeeping;
mod logging;
mod memory;
mod metrics;
mod migrations;
mod operator;
mod pipeline;
mod plans;
mod presence;
mod progress;
mod queue;
mod recovery;
mod service;
mod term;
mod watchdog;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use cli::{Cli, Command, Generate};
use config::{Config, Purpose, Sources};

/// glibc's allocator keeps twice the memory for ten thousand idle sockets.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // First of all: libraries install another provider when they find none.
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        term::note("rowcast: TLS was set up before");
    }
    let cli = Cli::parse();
    match start(cli) {
        Ok(code) => code,
        Err(error) => {
            let red = term::Paint::detect().paint(term::Colour::Red, "error:");
            let code = code_of(&error).map_or(String::new(), |code| format!(" [{code}]"));
            term::note(format!("{red} {error:#}{code}"));
            ExitCode::FAILURE
        }
    }
}

/// The stable code of an error, where it has one.
fn code_of(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|cause| {
        cause
            .downcast_ref::<config::ConfigError>()
            .map(config::ConfigError::code)
            .or_else(|| cause.downcast_ref().map(rowcast_source::SourceError::code))
            .or_else(|| {
                cause
                    .downcast_ref()
                    .map(rowcast_gateway::GatewayError::code)
            })
            .or_else(|| {
                cause
                    .downcast_ref()
                    .map(rowcast_embedded::EmbeddedError::code)
            })
            .or_else(|| cause.downcast_ref().map(migrations::MigrateError::code))
            .or_else(|| cause.downcast_ref().map(helper::HelperError::code))
    })
}

fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    let config = read_config(&cli)?;
    match &cli.command {
        Command::Config {
            reference: true, ..
        } => {
            term::line(config::reference().trim_end());
            return Ok(ExitCode::SUCCESS);
        }
        Command::Config { memory: true, .. } => {
            let places = files::places(files::raise(), config.limits.connections);
            term::line(memory::table(&config, places).trim_end());
            return Ok(ExitCode::SUCCESS);
        }
        Command::Config { .. } => {
            term::line(config::effective(&config).trim_end());
            return Ok(ExitCode::SUCCESS);
        }
        Command::Migrate {
            print: true,
            supabase,
        } => {
            commands::migrate::print(*supabase);
            return Ok(ExitCode::SUCCESS);
        }
        Command::Token(args) => {
            config.check(Purpose::Sign)?;
            commands::token::run(&config, args)?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    logging::start(&config.log.level, config.log.format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime does not start")?;
    runtime.block_on(Box::pin(run(cli, config)))
}

async fn run(cli: Cli, config: Config) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Command::Migrate { supabase, .. } => {
            config.check(Purpose::Database)?;
            commands::migrate::run(&config, *supabase).await?;
        }
        Command::Healthcheck { ready, url } => {
            if !commands::healthcheck::run(&config, *ready, url.as_deref()).await? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Doctor { json } => {
            config.check(Purpose::Database)?;
            if !doctor::run(&config, *json).await? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Tail(args) => commands::tail::run(&config, args).await?,
        Command::Explain(args) => {
            if !commands::explain::run(&config, args).await? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Generate(Generate::Helper(args)) => {
            config.check(Purpose::Database)?;
            commands::generate::run(&config, args).await?;
        }
        Command::Serve(_) => Box::pin(service::run(config, |_| {})).await?,
        Command::Demo(args) => Box::pin(commands::demo::run(config, args)).await?,
        Command::Config { .. } | Command::Token(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn read_config(cli: &Cli) -> anyhow::Result<Config> {
    let path = match &cli.common.config {
        Some(path) => Some(path.clone()),
        None => Some("rowcast.toml".into()).filter(|path: &std::path::PathBuf| path.exists()),
    };
    let file = match path {
        Some(path) => {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("the configuration file {}", path.display()))?;
            Some((path.display().to_string(), text))
        }
        None => None,
    };
    let sources = Sources {
        file,
        env: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        flags: cli.settings().map_err(anyhow::Error::msg)?,
        read_file: &|path| std::fs::read_to_string(path),
    };
    Ok(config::load(&sources)?)
}
