//! Check: the project's own tests, in one command that continuous integration calls too.
//!
//! Rust and Python suffice to run it. Judges that are packages of the operating system (skopeo, podman, Chromium) are listed as
//! *not run* where they are absent; with `CI=true` their absence is a failure. What takes minutes is behind `--full`.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::context::Context;
use crate::policy::cases;
use crate::policy::suite::Suite;
use crate::{exit, github, paths, policy, terminal, tools};

/// Options of `check`.
#[derive(Args)]
pub struct Options {
    /// Run only the named parts: format, lint, policies, rust, python, whole.
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<String>,
    /// Also run the tests that take minutes, such as building the training image.
    #[arg(long)]
    full: bool,
}

/// A part of the check: its name, what it proves, and how it runs.
struct Part {
    name: &'static str,
    proves: &'static str,
    run: fn(&Context, &Options) -> Result<String>,
}

const PARTS: [Part; 6] = [
    Part { name: "format", proves: "the Rust sources are formatted", run: format },
    Part { name: "lint", proves: "clippy finds nothing", run: lint },
    Part { name: "policies", proves: "every policy passes its tests", run: policies },
    Part { name: "rust", proves: "the crates' own tests", run: rust },
    Part { name: "python", proves: "the model's package: lint, tests, parity with the predictor", run: python },
    Part {
        name: "whole",
        proves: "the whole from outside: pipeline, clouds, registries, browser, workflows",
        run: whole,
    },
];

/// Turns on what reads Parquet, which nothing that ships does.
const WITH_PARQUET: [&str; 2] = ["--features", "lambda-inference/parquet"];

/// Programs of others that judge, and the package that brings them.
const SYSTEM_JUDGES: [(&str, &str); 7] = [
    ("skopeo", "skopeo"),
    ("chromium", "chromium"),
    ("docker-registry", "docker-registry"),
    ("umoci", "umoci"),
    ("podman", "podman"),
    ("runc", "runc"),
    ("buildah", "buildah"),
];

/// Runs all parts, also after one failed, and sums up.
pub fn run(context: &Context, options: &Options) -> Result<()> {
    for name in &options.only {
        if !PARTS.iter().any(|part| part.name == name) {
            let known: Vec<_> = PARTS.iter().map(|part| part.name).collect();
            bail!("there is no part `{name}`; there are: {}", known.join(", "));
        }
    }
    let chosen = |part: &&Part| options.only.is_empty() || options.only.iter().any(|name| name == part.name);
    let mut results = Vec::new();
    for part in PARTS.iter().filter(chosen) {
        eprintln!("{}", terminal::bold(&format!("{}: {}", part.name, part.proves)));
        github::group(part.name);
        let begun = Instant::now();
        let result = (part.run)(context, options);
        github::end_group();
        if let Err(error) = &result {
            terminal::failure(error);
        }
        results.push((part.name, result, begun.elapsed()));
    }
    sum_up(&results)
}

fn sum_up(results: &[(&str, Result<String>, Duration)]) -> Result<()> {
    println!();
    for (name, result, took) in results {
        let (word, text) = match result {
            Ok(text) => ("passed", text.clone()),
            Err(error) => ("FAILED", format!("{error:#}").lines().next().unwrap_or_default().to_string()),
        };
        println!("{name:<9} {word}  {:>8}  {text}", terminal::seconds(*took));
    }
    let absent = absent_judges();
    for (program, package) in &absent {
        println!("not run: {program} (`apt-get install {package}` brings it)");
    }
    let failed = results.iter().filter(|(_, result, _)| result.is_err()).count();
    let missing = if continuous_integration() { absent.len() } else { 0 };
    println!("{} passed, {} failed", results.len() - failed, failed + missing);
    if missing > 0 {
        bail!("with CI=true every judge must be there");
    }
    match failed {
        0 => Ok(()),
        failed => bail!("{failed} of {} parts failed", results.len()),
    }
}

fn continuous_integration() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

fn absent_judges() -> Vec<(&'static str, &'static str)> {
    let there = |program: &str| duct::cmd(program, ["--version"]).stdout_null().stderr_null().run().is_ok();
    SYSTEM_JUDGES.into_iter().filter(|(program, _)| !there(program)).collect()
}

/// Runs a program with its output on the terminal.
fn show(what: &str, expression: duct::Expression) -> Result<()> {
    let output =
        expression.stdin_null().stdout_to_stderr().unchecked().run().with_context(|| format!("start: {what}"))?;
    if !output.status.success() {
        bail!("{what}: {}", output.status);
    }
    Ok(())
}

fn cargo(context: &Context, arguments: &[&str]) -> duct::Expression {
    duct::cmd("cargo", arguments).dir(&context.root)
}

fn format(context: &Context, _: &Options) -> Result<String> {
    show("`cargo fmt` would change files: run it", cargo(context, &["fmt", "--all", "--check"]))?;
    Ok(String::new())
}

fn lint(context: &Context, _: &Options) -> Result<String> {
    let mut arguments = vec!["clippy", "--workspace", "--all-targets", "--locked"];
    arguments.extend(WITH_PARQUET);
    arguments.extend(["--", "-D", "warnings"]);
    show("clippy", cargo(context, &arguments))?;
    Ok(String::new())
}

fn policies(context: &Context, _: &Options) -> Result<String> {
    let suite = Suite::read(&context.root.join("policies"))?;
    let tests = suite.run()?;
    if tests.is_empty() {
        return Err(exit::nothing_checked("policies/ has no rule named test_…"));
    }
    for test in &tests {
        match &test.failure {
            None => eprintln!("  {} passed", test.name),
            Some(failure) => eprintln!("  {} FAILED: {failure}", test.name),
        }
    }
    // A policy without tests beside it is a policy that nobody tried.
    for set in &context.config.policy_sets {
        for path in &set.policies {
            let beside = policy::tests_beside(path);
            if !context.root.join(&beside).is_file() {
                bail!("{} has no {} beside it", path.display(), beside.display());
            }
        }
    }
    let failed = tests.iter().filter(|test| test.failure.is_some()).count();
    if failed > 0 {
        bail!("{failed} of {} policy tests failed", tests.len());
    }
    let (lines, missed) = suite.coverage()?;
    if !missed.is_empty() {
        bail!("no test reaches {}", missed.join(", "));
    }
    // All of them are for `cargo xtask bench gate`.
    let mutants: Vec<_> = suite.mutants()?.into_iter().step_by(MUTANTS_APART).collect();
    let (alive, born) = suite.alive(mutants)?;
    if !alive.is_empty() {
        bail!("the tests do not notice a fault: {}", alive.join("; "));
    }
    match cases::run(&context.root, &suite)? {
        Some(said) => eprintln!("  {said}"),
        None => eprintln!("  not run: the published cases of Rego ({} names the archive)", cases::VARIABLE),
    }
    Ok(format!("{} policy tests reach all of {lines} lines, and kill {born} mutants", tests.len()))
}

/// Every how many of the policies' mutants are tried here.
const MUTANTS_APART: usize = 23;

fn rust(context: &Context, _: &Options) -> Result<String> {
    show("cargo test", cargo(context, &["test", "--workspace", "--locked"]))?;
    let mut arguments = vec!["test", "--workspace", "--locked", "--test", "it"];
    arguments.extend(WITH_PARQUET);
    arguments.extend(["--", "parquet::"]);
    show("cargo test, with Parquet", cargo(context, &arguments))?;
    Ok(String::new())
}

fn python(context: &Context, _: &Options) -> Result<String> {
    let folder = context.root.join(&context.config.model.directory);
    let environment = tools::python_environment(&context.root, &context.config.model.directory)?;
    let run = |arguments: &[&str]| {
        let command = duct::cmd(&environment.python, arguments).dir(&folder);
        command.env("PYTHONPYCACHEPREFIX", &environment.bytecode).env_remove("PYTHONDONTWRITEBYTECODE")
    };
    show("`ruff check`", run(&["-m", "ruff", "check", "--no-cache", "."]))?;
    show("`ruff format` would change files: run it", run(&["-m", "ruff", "format", "--no-cache", "--check", "."]))?;
    show(
        "build the scorer",
        cargo(context, &["build", "--locked", "--release", "-p", "lambda-inference", "--bin", "score"]),
    )?;
    let scorer = paths::cargo_target(&context.root).join("release/score");
    let tests = run(&["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]).env("SCORE_BIN", scorer);
    show("the model's tests", tests)?;
    Ok(String::new())
}

fn whole(context: &Context, options: &Options) -> Result<String> {
    let environment = tools::python_environment(&context.root, Path::new("tests"))?;
    tools::python_environment(&context.root, Path::new("tests/emulators"))?;
    show("build the embedded cloud", cargo(context, &["build", "--locked", "-p", "local-aws", "--examples"]))?;
    let xtask = std::env::current_exe().context("find this program")?;
    let examples = paths::cargo_target(&context.root).join("debug/examples");
    let mut arguments = vec!["-m", "pytest", "-p", "no:cacheprovider", "."];
    if options.full {
        arguments.push("--full");
    }
    let tests = duct::cmd(&environment.python, arguments)
        .dir(context.root.join("tests"))
        .env("PYTHONPYCACHEPREFIX", &environment.bytecode)
        .env_remove("PYTHONDONTWRITEBYTECODE")
        .env("XTASK", xtask)
        .env("LOCAL_AWS_SERVE", examples.join("serve"))
        .env("CARGO_TARGET_DIR", paths::cargo_target(&context.root));
    show("the tests from outside", tests)?;
    Ok(String::new())
}
