//! The notebook's tests: pytest with nbval, in the training image where there is one, else in the locked environment.
//!
//! In the image they have no network, no privilege and nothing to write to but /tmp and one folder.

use std::fs;
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use junit_parser::{TestCase, TestStatus, TestSuite};
use serde::{Deserialize, Serialize};

use crate::config::TrainingImage as Wanted;
use crate::context::{Context, Work};
use crate::engine::{self, Engine, Job};
use crate::process::Ended;
use crate::registry::Repository;
use crate::terminal::{note, warning};
use crate::training_image::{Pushed, TrainingImage};
use crate::{exit, process, tools};

/// How long the tests may take.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// Test cases, counted one by one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cases {
    pub total: u64,
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
    /// Names of those that failed.
    pub failures: Vec<String>,
}

/// Where the tests ran.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    /// `training image` or `locked environment`.
    pub kind: String,
    /// Why not in the training image, if not.
    pub reason: Option<String>,
    /// Digest of the image.
    pub image: Option<String>,
    pub engine: Option<String>,
}

/// Runs the notebook's tests and counts the cases.
///
/// # Errors
/// They cannot be run or leave no report; there is no case (exit code 4); or the environment requires the training image
/// and no container engine answers any more. Cases that failed are no error here.
pub fn run_tests(
    context: &Context,
    work: &Work,
    python: &tools::Environment,
    training: &TrainingImage,
) -> Result<(Cases, Place)> {
    let report = work.folder.join("report.xml");
    let log = work.log("notebook");
    let (ended, place) = match engine_for(context, training)? {
        Ok((engine, image)) => {
            let ended = in_image(context, work, &engine, image, &report, &log)?;
            let (image, engine) = (Some(image.digest.clone()), Some(engine.name().to_string()));
            (ended, Place { kind: "training image".to_string(), reason: None, image, engine })
        }
        Err(reason) => {
            let ended = in_locked_environment(context, work, python, &report, &log)?;
            let kind = "locked environment".to_string();
            (ended, Place { kind, reason: Some(reason), image: None, engine: None })
        }
    };
    Ok((judge(&ended, &report)?, place))
}

/// The engine and the image to run the tests in; else the reason why they run in the locked environment.
fn engine_for<'a>(
    context: &Context,
    training: &'a TrainingImage,
) -> Result<std::result::Result<(Engine, &'a Pushed), String>> {
    let Some(image) = &training.image else { return Ok(Err(training.reason.clone())) };
    match engine::find(&context.root) {
        Ok(engine) => Ok(Ok((engine, image))),
        Err(error) if context.environment.training_image == Wanted::Required => {
            Err(error).context("run the notebook's tests in the training image")
        }
        Err(error) => {
            note(&format!("{error:#}"));
            Ok(Err(format!("{error:#}")))
        }
    }
}

fn in_locked_environment(
    context: &Context,
    work: &Work,
    python: &tools::Environment,
    report: &Path,
    log: &Path,
) -> Result<Ended> {
    let model = &context.config.model;
    let folder = context.root.join(&model.directory);
    python
        .module("run the notebook's tests", "pytest", &folder)
        .args(["-p", "no:cacheprovider", "--nbval-lax"])
        .arg(model.notebook_in_directory())
        .arg(format!("--junitxml={}", report.display()))
        // The notebook's last cell proves that it describes the model that ships.
        .env("CCAPPROVAL_MODEL", work.folder.join("model.bin"))
        .limit(LIMIT)
        .run_to_end(log)
}

fn in_image(
    context: &Context,
    work: &Work,
    engine: &Engine,
    image: &Pushed,
    report: &Path,
    log: &Path,
) -> Result<Ended> {
    let cloud = context.cloud()?;
    let repository = context.block_on(async {
        let uri = cloud.ensure_repository(&image.repository).await?;
        Repository::open(cloud, &uri).await
    })?;
    let shared = tempfile::tempdir_in(&work.folder).context("make a folder to share with the container")?;
    let folder = |name: &str, mode: u32| -> Result<std::path::PathBuf> {
        let path = shared.path().join(name);
        fs::create_dir(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(path)
    };
    // The user inside is not the one outside.
    let (input, output) = (folder("input", 0o755)?, folder("output", 0o777)?);
    fs::copy(work.folder.join("model.bin"), input.join("model.bin")).context("copy model.bin for the container")?;
    let notebook = context.config.model.notebook_in_directory().display().to_string();
    let (model, junit) = (format!("{}/model.bin", engine::INPUT), format!("--junitxml={}/report.xml", engine::OUTPUT));
    let job = Job {
        name: &format!("notebook-{}", work.run),
        image: &repository.name_by_digest(&image.digest),
        input: &input,
        output: &output,
        variables: &[("CCAPPROVAL_MODEL", &model)],
        command: &["python", "-m", "pytest", "-p", "no:cacheprovider", "--nbval-lax", &notebook, &junit],
        limit: LIMIT,
    };
    let session = engine.sign_in(repository.registry(), repository.login(), &log.with_extension("login.log"))?;
    let ended = session.run(&job, log)?;
    // A file, and not a link out of the folder. Without one the caller says what the program printed.
    let left = output.join("report.xml");
    if fs::symlink_metadata(&left).is_ok_and(|found| found.is_file()) {
        fs::copy(&left, report).context("keep the report of the container")?;
    }
    Ok(ended)
}

/// Counts the cases and holds them against how pytest ended.
fn judge(ended: &Ended, report: &Path) -> Result<Cases> {
    let cases = read_cases(report)
        .with_context(|| format!("pytest ended with {:?}\n{}", ended.code, process::tail(&ended.log, 25)))?;
    // pytest: 0 all passed, 1 some failed; anything else is not an answer about the cases.
    match ended.code {
        Some(0) if cases.failed == 0 => {}
        Some(1) if cases.failed > 0 => {
            warning(&format!("{} of {} cases failed: {}", cases.failed, cases.total, cases.failures.join(", ")));
            eprintln!("{}", process::tail(&ended.log, 30));
        }
        code => bail!(
            "pytest ended with {code:?} while report.xml counts {} failed cases of {}\n{}\nall of its output: {}",
            cases.failed,
            cases.total,
            process::tail(&ended.log, 25),
            ended.log.display()
        ),
    }
    Ok(cases)
}

/// Counts the cases of a JUnit report one by one: the totals that a report claims are not relied on.
///
/// # Errors
/// No report, one that is no JUnit, or (exit code 4) one without a case.
fn read_cases(path: &Path) -> Result<Cases> {
    let file = fs::File::open(path).with_context(|| format!("the tests left no report: open {}", path.display()))?;
    let suites =
        junit_parser::from_reader(BufReader::new(file)).with_context(|| format!("understand {}", path.display()))?;
    let mut cases = Cases::default();
    for suite in &suites.suites {
        count(suite, &mut cases);
    }
    if cases.total == 0 {
        return Err(exit::nothing_checked(format!(
            "{} has no test case: tests that did not run prove nothing",
            path.display()
        )));
    }
    Ok(cases)
}

fn count(suite: &TestSuite, cases: &mut Cases) {
    for TestCase { name, status, .. } in &suite.cases {
        cases.total += 1;
        match status {
            TestStatus::Success => cases.passed += 1,
            TestStatus::Skipped(_) => cases.skipped += 1,
            _ => {
                cases.failed += 1;
                cases.failures.push(name.clone());
            }
        }
    }
    for inner in &suite.suites {
        count(inner, cases);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases_of(text: &str) -> Result<Cases> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.xml");
        fs::write(&path, text).unwrap();
        read_cases(&path)
    }

    #[test]
    fn cases_are_counted_wherever_they_stand() {
        let bare = r#"<testsuite tests="0"><testcase name="a"/><testcase name="b"><failure message="no"/></testcase></testsuite>"#;
        let cases = cases_of(bare).unwrap();
        assert_eq!((cases.total, cases.passed, cases.failed), (2, 1, 1));
        let nested = r#"<testsuites><testsuite><testsuite><testcase name="a"><skipped/></testcase>
            <testcase name="b"><error message="x"/></testcase></testsuite></testsuite></testsuites>"#;
        let cases = cases_of(nested).unwrap();
        assert_eq!((cases.skipped, cases.failed, cases.failures), (1, 1, vec!["b".to_string()]));
    }

    #[test]
    fn no_case_is_nothing_checked() {
        for text in ["<testsuites/>", "<testsuites><testsuite tests=\"5\"></testsuite></testsuites>"] {
            let error = cases_of(text).unwrap_err();
            assert_eq!(exit::answer_of(&error), Some(exit::Answer::NothingChecked), "{text}");
        }
        assert!(exit::answer_of(&cases_of("<testsuites").unwrap_err()).is_none());
        assert!(read_cases(Path::new("/nonexistent/report.xml")).is_err());
    }
}
