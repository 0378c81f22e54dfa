//! The pipeline of the credit card approval model: `cargo xtask` takes it from a changed notebook to a monitored Lambda.
//!
//! This file is the table of commands and nothing else: every stage has a file of its own under [`stages`], every other
//! command a module of its own. Exit codes: 0 done, 1 something broke, 2 usage, 3 denied by policy (or stale, with
//! `--fail`), 4 nothing was checked, 5 an approval is missing or has expired.

// First, so that its macros hold in all modules.
#[macro_use]
mod printing;

mod account;
mod advisories;
mod approval;
mod approve;
mod artifact;
mod bench;
mod bucket;
mod check;
mod cloud;
mod compare;
mod config;
mod context;
mod decisions;
mod dependencies;
mod digest;
mod doctor;
mod engine;
mod evidence;
mod exit;
mod function;
mod git;
mod github;
mod heartbeat;
mod http;
mod iam_document;
mod image;
mod local;
mod lock;
mod mail;
mod notebook;
mod package;
mod paths;
mod patience;
mod pipeline;
mod policy;
mod process;
mod provision;
mod records;
mod registry;
mod replay;
mod report;
mod rollback;
mod sarif;
mod setup;
mod stages;
mod status;
mod strategy;
mod terminal;
mod tools;
mod tracking;
mod training_image;
mod verdict_output;
mod waivers;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use context::Context;
use records::Stage;

/// Takes the model from a changed notebook to a monitored Lambda.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command takes.
#[derive(Args, Clone)]
pub struct Common {
    /// Environment of pipeline.toml to work in.
    #[arg(long = "env", global = true, default_value = "local", value_name = "NAME")]
    environment: String,
    /// Run to work on: the newest one unless given; `build` and `pipeline` start a new one when their inputs changed.
    #[arg(long, global = true, value_name = "ID")]
    run: Option<String>,
    /// Print the result as JSON on standard output.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Install the locked Python environment and say what else is needed.
    Setup,
    /// Train and export the model, compile the predictor, assemble the image and push it.
    Build,
    /// Wait for the registry's findings and scan the crates inside the program.
    Scan,
    /// Run the notebook's tests, measure the very model in the image, prove Python and Rust equal.
    Test,
    /// Judge the records by the policy sets: exit code 3 means denied.
    Gate(stages::gate::Options),
    /// Bring the image that the gate allowed to the function and move traffic to it step by step.
    Deploy(stages::deploy::Options),
    /// Look at the staleness of the notebook and of the deployed model, and tell somebody.
    Monitor(stages::monitor::Options),
    /// All six stages in order; unchanged ones are skipped.
    Pipeline(pipeline::Options),
    /// Show exactly what is to be deployed, and record somebody's yes to it.
    Approve(approve::Options),
    /// Give all traffic back to the version that had it before.
    Rollback(rollback::Options),
    /// Judge every past decision again under other policies.
    Replay(replay::Options),
    /// Show how the newest run's model differs from the one that is live.
    Compare(compare::Options),
    /// Serve the embedded cloud: the web page, the function's URL and the report.
    Local(local::Options),
    /// Make what the environment needs and no run makes: repositories, bucket, roles, log group; or remove it all.
    Provision(provision::Options),
    /// Show the newest run and what is deployed.
    Status,
    /// The project's own tests, from formatting to the whole pipeline in a fresh clone.
    Check(check::Options),
    /// Say what the environment needs, what of it is missing, and which command brings it.
    Doctor,
    /// Measure against a peer in the same run.
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            github::annotate_error(&error);
            terminal::failure(&error);
            exit::code_of(&error)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let context = Context::new(&cli.common)?;
    match cli.command {
        Command::Setup => setup::run(&context),
        Command::Build => pipeline::stage(&context, Stage::Build, || stages::build::run(&context)),
        Command::Scan => pipeline::stage(&context, Stage::Scan, || stages::scan::run(&context)),
        Command::Test => pipeline::stage(&context, Stage::Test, || stages::test::run(&context)),
        Command::Gate(options) => stages::gate::command(&context, &options),
        Command::Deploy(options) => {
            pipeline::stage(&context, Stage::Deploy, || stages::deploy::run(&context, &options))
        }
        Command::Monitor(options) => match options.last_run_within {
            Some(limit) => context.block_on(heartbeat::check(limit, context.json)),
            None => pipeline::stage(&context, Stage::Monitor, || stages::monitor::run(&context, &options)),
        },
        Command::Pipeline(options) => pipeline::run(&context, &cli.common, &options),
        Command::Approve(options) => approve::run(&context, &options),
        Command::Rollback(options) => rollback::run(&context, &options),
        Command::Replay(options) => replay::run(&context, &options),
        Command::Compare(options) => compare::run(&context, &options),
        Command::Local(options) => local::run(&context, &options),
        Command::Provision(options) => provision::run(&context, &options),
        Command::Status => status::run(&context),
        Command::Check(options) => check::run(&context, &options),
        Command::Doctor => doctor::run(&context),
        Command::Bench(options) => bench::run(&context.root, &options, context.json),
    }
}
