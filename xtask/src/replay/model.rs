//! A candidate model on the test applications of a run, beside the run's own model.
//!
//! Reads `test_split.csv`, `model.bin` and `training.json` of the run, which must be those that build.json names; both models are
//! asked through the `score` program. Writes the page alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::context::{self, Context};
use crate::process::Program;
use crate::records::{self, Record, Stage};
use crate::replay::flips::{self, Attribute, Comparison, Counts, Prediction};
use crate::replay::reasons::{self, Reason};
use crate::replay::{Options, page, write_page};
use crate::stages::build;
use crate::terminal::bold;
use crate::{digest, exit, paths};

/// Most flips that are shown with their values.
const MOST_EXAMPLES: usize = 10;
/// The group of applications whose sensitive attribute has no value, as the metrics name it.
const MISSING: &str = "missing";

/// What training.json says of a run's data and model, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Training {
    features: Vec<String>,
    target: String,
    sensitive: Vec<String>,
    classes: Vec<i64>,
    positive_class: i64,
}

/// What a model file says of itself.
#[derive(Debug, Deserialize)]
struct Description {
    features: Vec<String>,
    classes: Vec<i64>,
    positive_class: i64,
}

/// The test applications of a run.
struct Applications {
    columns: Vec<String>,
    rows: Vec<csv::StringRecord>,
}

/// One application that is decided otherwise.
#[derive(Debug, Serialize)]
pub struct Example {
    /// In test_split.csv, whose first line has the columns.
    pub line: u64,
    /// All that is known of it but the target, in the order of the columns.
    pub values: Vec<(String, String)>,
    pub before: Prediction,
    pub after: Prediction,
    /// Of the model that denies it, the strongest first; none unless they were asked for.
    pub reasons: Vec<String>,
}

/// All that a replay of a model found.
#[derive(Debug, Serialize)]
pub struct Replay {
    pub run: String,
    pub model_before: String,
    pub model_after: String,
    pub test_split: String,
    #[serde(flatten)]
    pub comparison: Comparison,
    /// None unless they were asked for.
    pub reasons: Vec<Reason>,
    pub examples: Vec<Example>,
}

/// Compares the candidate with the model of the run that the options name.
///
/// # Errors
/// There is no such run, its files are not those that it recorded, or the candidate is no model file for its applications.
pub fn run(context: &Context, candidate: &Path, options: &Options) -> Result<()> {
    let run = match &options.against {
        Some(run) => run.clone(),
        None => context.run()?,
    };
    context::check_run_id(&run)?;
    let folder = paths::run(&context.root, &run);
    if !folder.is_dir() {
        bail!("there is no run `{run}` in {}", paths::runs(&context.root).display());
    }
    let candidate = std::path::absolute(candidate).context("find the candidate")?;
    if !candidate.is_file() {
        bail!("{} is no file: name the model file to try", candidate.display());
    }
    let replay = replay(context, &candidate, &run, &folder, options.explain)?;
    write_page(options.page.as_deref(), &folder, &page::of_model(&replay))?;
    match context.json {
        true => println!("{}", serde_json::to_string(&replay)?),
        false => print!("{}", in_words(&replay)),
    }
    Ok(())
}

fn replay(context: &Context, candidate: &Path, run: &str, folder: &Path, explain: bool) -> Result<Replay> {
    let record: Record<Value> = records::read_verified(folder, Stage::Build)?;
    let recorded = |name: &str| match record.files.get(name) {
        Some(digest) => Ok(digest.clone()),
        None => bail!("build.json of run {run} names no {name}: run `cargo xtask build`"),
    };
    let (model_before, test_split) = (recorded("model.bin")?, recorded("test_split.csv")?);
    recorded("training.json")?;
    let training: Training = serde_json::from_slice(&fs::read(folder.join("training.json"))?)
        .with_context(|| format!("understand training.json of run {run}"))?;
    let applications = Applications::read(&folder.join("test_split.csv"))?;
    if applications.rows.is_empty() {
        return Err(exit::nothing_checked(format!("run {run} has no test application")));
    }

    let logs = folder.join("logs");
    let score = build::compile(&context.root, &context.config.inference, &logs.join("replay-compile.log"))?.score;
    let description = describe(&score, candidate, &logs.join("replay-describe.log"))?;
    check_fit(candidate, &description, &training, &applications.columns)?;
    let scratch = tempfile::tempdir().context("make a folder for the predictions")?;
    let scorer = Scorer { program: score, scratch: scratch.path(), logs: &logs };
    let (own, input) = (folder.join("model.bin"), folder.join("test_split.csv"));
    let ask = |model: &Path, name: &str| {
        let predictions = read_predictions(&scorer.score(model, &input, name, &[])?, training.positive_class)?;
        if predictions.len() != applications.rows.len() {
            bail!("{} applications have {} predictions", applications.rows.len(), predictions.len());
        }
        Ok(predictions)
    };
    let (before, after) = (ask(&own, "before")?, ask(candidate, "after")?);
    let attributes = training
        .sensitive
        .iter()
        .map(|name| Ok(Attribute { name: name.clone(), groups: applications.groups(name)? }))
        .collect::<Result<Vec<_>>>()?;
    let rows = flips::examples(&before, &after, MOST_EXAMPLES);
    let mut examples: Vec<_> = rows
        .iter()
        .map(|&row| Example {
            line: applications.rows[row].position().map_or(0, csv::Position::line),
            values: applications.values(row, &training.target),
            before: before[row],
            after: after[row],
            reasons: Vec::new(),
        })
        .collect();
    let mut counted = Vec::new();
    if explain && !rows.is_empty() {
        let changed: Vec<_> = (0..after.len()).filter(|&row| before[row].approved != after[row].approved).collect();
        let input = scratch.path().join("changed.csv");
        applications.write(&changed, &input)?;
        let reasons = |model: &Path, name: &str| read_reasons(&scorer.score(model, &input, name, &["--explain"])?);
        let (own, new) = (reasons(&own, "explain-before")?, reasons(candidate, "explain-after")?);
        if own.len() != changed.len() || new.len() != changed.len() {
            bail!("{} changed decisions have {} and {} explanations", changed.len(), own.len(), new.len());
        }
        let told = changed.iter().zip(own.into_iter().zip(new));
        let told: BTreeMap<_, _> =
            told.map(|(&row, (own, new))| (row, if after[row].approved { own } else { new })).collect();
        for (example, row) in examples.iter_mut().zip(&rows) {
            example.reasons = told[row].clone();
        }
        counted = reasons::count(&told, &after, &attributes);
    }
    Ok(Replay {
        run: run.to_string(),
        model_before,
        model_after: digest::of_file(candidate)?,
        test_split,
        comparison: flips::compare(&before, &after, &attributes),
        reasons: counted,
        examples,
    })
}

/// The program that both models are asked through.
struct Scorer<'a> {
    program: PathBuf,
    scratch: &'a Path,
    logs: &'a Path,
}

impl Scorer<'_> {
    /// Scores a CSV file; gives the file with what the model says.
    fn score(&self, model: &Path, input: &Path, name: &str, options: &[&str]) -> Result<PathBuf> {
        let output = self.scratch.join(name);
        Program::new("score the test applications", &self.program, self.scratch)
            .arg("--model")
            .arg(model)
            .arg("--input")
            .arg(input)
            .arg("--output")
            .arg(&output)
            .args(options.iter().copied())
            .run(&self.logs.join(format!("replay-{name}.log")))?;
        Ok(output)
    }
}

/// Asks a model file what it is.
fn describe(score: &Path, model: &Path, log: &Path) -> Result<Description> {
    Program::new("read the candidate", score, Path::new("/"))
        .arg("--model")
        .arg(model)
        .arg("--describe")
        .run(log)
        .with_context(|| {
            format!("{} cannot be tried: `python -m ccapproval.export` makes model files", model.display())
        })?;
    let text = fs::read(log).with_context(|| format!("read {}", log.display()))?;
    serde_json::from_slice(&text).with_context(|| {
        format!("{} does not say its features and classes: export it with a newer exporter", model.display())
    })
}

/// Refuses a candidate that does not answer the same question about the same applications.
fn check_fit(candidate: &Path, description: &Description, training: &Training, columns: &[String]) -> Result<()> {
    let candidate = candidate.display();
    let (classes, positive) = (&description.classes, description.positive_class);
    if classes.len() != 2 || training.classes.len() != 2 {
        bail!(
            "a replay compares models that approve or deny, of two classes: {candidate} has {}, the run's model {}",
            classes.len(),
            training.classes.len()
        );
    }
    if *classes != training.classes || positive != training.positive_class {
        bail!(
            "{candidate} approves with class {positive} of {classes:?}, the run's model with {} of {:?}: export it with \
             the run's schema",
            training.positive_class,
            training.classes
        );
    }
    let unknown = |name: &&String| !columns.contains(*name) || **name == training.target;
    let missing: Vec<_> = description.features.iter().filter(unknown).map(String::as_str).collect();
    if !missing.is_empty() {
        bail!(
            "{candidate} needs {}, which the run's applications do not have; they have {}",
            missing.join(", "),
            training.features.join(", ")
        );
    }
    Ok(())
}

impl Applications {
    fn read(path: &Path) -> Result<Applications> {
        let mut reader = csv::Reader::from_path(path).with_context(|| format!("read {}", path.display()))?;
        let columns: Result<Vec<String>, _> = reader.headers().map(|header| header.iter().map(String::from).collect());
        let rows: Result<Vec<_>, _> = reader.records().collect();
        let understood = || format!("understand {}", path.display());
        Ok(Applications { columns: columns.with_context(understood)?, rows: rows.with_context(understood)? })
    }

    /// The group of every application.
    fn groups(&self, attribute: &str) -> Result<Vec<String>> {
        let Some(column) = self.columns.iter().position(|name| name == attribute) else {
            bail!("test_split.csv has no column {attribute}, which training.json calls sensitive");
        };
        let group = |row: &csv::StringRecord| match row.get(column) {
            Some("") | None => MISSING.to_string(),
            Some(group) => group.to_string(),
        };
        Ok(self.rows.iter().map(group).collect())
    }

    /// Writes some of them as a file of their own.
    fn write(&self, rows: &[usize], path: &Path) -> Result<()> {
        let write = || -> Result<(), csv::Error> {
            let mut writer = csv::Writer::from_path(path)?;
            writer.write_record(&self.columns)?;
            rows.iter().try_for_each(|row| writer.write_record(&self.rows[*row]))?;
            Ok(writer.flush()?)
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    fn values(&self, row: usize, target: &str) -> Vec<(String, String)> {
        let pairs = self.columns.iter().zip(self.rows[row].iter()).filter(|(name, _)| *name != target);
        pairs.map(|(name, value)| (name.clone(), value.to_string())).collect()
    }
}

/// The predictions that `score` wrote for a model of two classes.
fn read_predictions(path: &Path, positive_class: i64) -> Result<Vec<Prediction>> {
    let mut reader = csv::Reader::from_path(path).with_context(|| format!("read {}", path.display()))?;
    let rows: Result<Vec<(i64, f64)>, _> = reader.deserialize().collect();
    let rows = rows.context("understand the predictions that `score` wrote")?;
    let prediction = |(class, probability)| Prediction { approved: class == positive_class, probability };
    Ok(rows.into_iter().map(prediction).collect())
}

/// The reasons of every row that `score` explained; none where it approves.
fn read_reasons(path: &Path) -> Result<Vec<Vec<String>>> {
    let mut reader = csv::Reader::from_path(path).with_context(|| format!("read {}", path.display()))?;
    let reasons = |row: csv::StringRecord| {
        let texts = row.iter().next_back().unwrap_or_default().split(';');
        texts.filter(|text| !text.is_empty()).map(String::from).collect()
    };
    let rows: Result<_, _> = reader.records().map(|row| row.map(reasons)).collect();
    rows.context("understand the explanations that `score` wrote")
}

/// The comparison as a table for the terminal.
fn in_words(replay: &Replay) -> String {
    let short = |digest: &str| digest::short(digest).to_string();
    let mut text = format!(
        "run {}: model {} before, {} after\n",
        replay.run,
        short(&replay.model_before),
        short(&replay.model_after)
    );
    let comparison = &replay.comparison;
    let names = comparison.attributes.iter().flat_map(|attribute| {
        attribute.groups.iter().map(|group| (format!("{} {}", attribute.name, group.group), &group.counts))
    });
    let rows: Vec<_> = std::iter::once(("all".to_string(), &comparison.overall)).chain(names).collect();
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    text += &format!(
        "{:width$} {:>12} {:>17} {:>17} {:>20} {:>20}\n",
        "", "applications", "approved before", "approved after", "approve -> deny", "deny -> approve"
    );
    for (name, counts) in &rows {
        text += &format!("{name:width$} {}\n", row(counts));
    }
    if !replay.reasons.is_empty() {
        text += "strongest reasons of those denials, before or after:\n";
    }
    for Reason { reason, all, groups } in &replay.reasons {
        text +=
            &format!("    {reason}: {} approve -> deny, {} deny -> approve", all.approve_to_deny, all.deny_to_approve);
        for of in groups {
            let changed = &of.changed;
            text +=
                &format!("; {} {}: {}, {}", of.attribute, of.group, changed.approve_to_deny, changed.deny_to_approve);
        }
        text += "\n";
    }
    if !replay.examples.is_empty() {
        text += "examples of decisions that change:\n";
    }
    for example in &replay.examples {
        let values: Vec<_> = example.values.iter().map(|(name, value)| format!("{name} {value}")).collect();
        text += &format!(
            "    {} {:.4} -> {} {:.4}  {}  (line {}){}\n",
            decision(example.before),
            example.before.probability,
            decision(example.after),
            example.after.probability,
            values.join(", "),
            example.line,
            match example.reasons.is_empty() {
                true => String::new(),
                false => format!("  denied for {}", example.reasons.join(", ")),
            }
        );
    }
    let all = &comparison.overall;
    let flips = all.approve_to_deny + all.deny_to_approve;
    text + &bold(&format!("{flips} of {} decisions would be others", all.applications)) + "\n"
}

fn row(counts: &Counts) -> String {
    let with_share = |count: usize, share: f64| format!("{count} ({:.2} %)", 100.0 * share);
    format!(
        "{:>12} {:>17} {:>17} {:>20} {:>20}",
        counts.applications,
        with_share(counts.approved_before, counts.approval_rate_before),
        with_share(counts.approved_after, counts.approval_rate_after),
        with_share(counts.approve_to_deny, counts.approve_to_deny_share),
        with_share(counts.deny_to_approve, counts.deny_to_approve_share)
    )
}

/// A decision in a word.
pub fn decision(prediction: Prediction) -> &'static str {
    if prediction.approved { "approve" } else { "deny" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn training() -> Training {
        Training {
            features: vec!["Income".into()],
            target: "Target".into(),
            sensitive: vec!["Group".into()],
            classes: vec![0, 1],
            positive_class: 1,
        }
    }

    fn refused(features: &[&str], classes: &[i64], positive_class: i64) -> Option<String> {
        let features = features.iter().map(|name| name.to_string()).collect();
        let description = Description { features, classes: classes.to_vec(), positive_class };
        let columns = ["Income", "Group", "Target"].map(String::from);
        check_fit(Path::new("c.bin"), &description, &training(), &columns).err().map(|error| error.to_string())
    }

    #[test]
    fn a_candidate_of_another_question_is_refused() {
        assert_eq!(refused(&["Income", "Group"], &[0, 1], 1), None);
        let other = refused(&["Income", "Age", "Target"], &[0, 1], 1).unwrap();
        assert!(
            other.contains("needs Age, Target, which the run's applications do not have; they have Income"),
            "{other}"
        );
        assert!(refused(&["Income"], &[0, 1, 2], 1).unwrap().contains("c.bin has 3"));
        assert!(refused(&["Income"], &[0, 1], 0).unwrap().contains("approves with class 0"));
        assert!(refused(&["Income"], &[1, 2], 1).unwrap().contains("of [1, 2]"));
    }

    #[test]
    fn applications_keep_their_lines_and_groups() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.csv");
        fs::write(&path, "Income,Group,Target\n1,a,0\n2,,1\n3,\"b, c\",1\n").unwrap();
        let applications = Applications::read(&path).unwrap();
        assert_eq!(applications.groups("Group").unwrap(), ["a", "missing", "b, c"]);
        assert!(applications.groups("Age").unwrap_err().to_string().contains("no column Age"));
        assert_eq!(applications.values(2, "Target")[1], ("Group".into(), "b, c".into()));
        let some = folder.path().join("some.csv");
        applications.write(&[2, 0], &some).unwrap();
        assert_eq!(fs::read_to_string(&some).unwrap(), "Income,Group,Target\n3,\"b, c\",1\n1,a,0\n");
        fs::write(&path, "Income,Group\n1\n").unwrap();
        assert!(Applications::read(&path).is_err());
    }

    #[test]
    fn what_score_writes_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.csv");
        fs::write(&path, "prediction,probability\n0,0.25\n1,0.75\n").unwrap();
        let read = read_predictions(&path, 0).unwrap();
        assert_eq!(read[0], Prediction { approved: true, probability: 0.25 });
        assert!(!read[1].approved);
        fs::write(&path, "prediction,probability\n,\n").unwrap();
        assert!(read_predictions(&path, 0).is_err());
        fs::write(&path, "prediction,probability,base,contribution_a,reasons\n0,0.2,1,2,Income;Own_Car\n1,0.9,1,2,\n")
            .unwrap();
        assert_eq!(read_reasons(&path).unwrap(), [vec!["Income".to_string(), "Own_Car".into()], Vec::new()]);
    }
}
