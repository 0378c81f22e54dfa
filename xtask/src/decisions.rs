//! The decision log: one line for every verdict of the gate, and none is ever changed.
//!
//! `target/pipeline/decisions.ndjson` holds what was judged, by which policies, and what every rule said. Each line names the
//! digest of the one before, so that a line that was changed or taken out shows; the last one of a run is held by its gate.json.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::policy::Outcome;
use crate::records::{self, Record, Stage};
use crate::stages::gate::{Content, Verdict};
use crate::waivers::Remarks;
use crate::{digest, paths};

/// One verdict.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Decision {
    /// Version of the line's form.
    pub schema: u32,
    pub decided_at: DateTime<Utc>,
    pub run: String,
    pub environment: String,
    pub verdict: Verdict,
    pub model: String,
    pub image: String,
    /// Digest of the digests of all policy files that judged.
    pub policy_digest: String,
    pub input_digest: String,
    pub input: Value,
    pub evidence: Vec<String>,
    pub outcomes: Vec<Outcome>,
    pub waivers: Remarks,
    /// Digest of the line before; none in the first one.
    pub previous: Option<String>,
}

impl Decision {
    /// What the gate recorded, after the line with the digest `previous`.
    pub fn of(record: &Record<Content>, previous: Option<String>) -> Decision {
        let content = &record.content;
        Decision {
            schema: records::SCHEMA,
            decided_at: record.finished_at,
            run: record.run.clone(),
            environment: record.environment.clone(),
            verdict: content.verdict,
            model: content.model.clone(),
            image: content.image.clone(),
            policy_digest: policy_digest(&content.outcomes),
            input_digest: input_digest(&content.input),
            input: content.input.clone(),
            evidence: content.evidence.clone(),
            outcomes: content.outcomes.clone(),
            waivers: content.waivers.clone(),
            previous,
        }
    }

    /// The decision by itself, which no line is before: the same for the same gate.json, in whatever log it stands.
    pub fn document(&self) -> Result<String> {
        let alone = Decision { previous: None, ..self.clone() };
        serde_json::to_string(&alone).context("turn the decision into JSON")
    }

    /// Reads a decision that [`Decision::document`] wrote.
    ///
    /// # Errors
    /// It is none, or its input was changed.
    pub fn parse(text: &str) -> Result<Decision> {
        let decision: Decision = serde_json::from_str(text).context("it is truncated or no decision")?;
        if decision.input_digest != input_digest(&decision.input) {
            bail!("the input was changed");
        }
        Ok(decision)
    }
}

fn input_digest(input: &Value) -> String {
    digest::of_bytes(input.to_string().as_bytes())
}

/// Where the log lies.
pub fn path(root: &Path) -> PathBuf {
    paths::runs(root).join("decisions.ndjson")
}

/// Digest of the policies that judged, whatever they said.
pub fn policy_digest(outcomes: &[Outcome]) -> String {
    let files = outcomes.iter().flat_map(|outcome| &outcome.policies);
    let lines: String = files.map(|file| format!("{}  {}\n", file.digest, file.path)).collect();
    digest::of_bytes(lines.as_bytes())
}

/// Adds a verdict to the log.
///
/// # Errors
/// The log cannot be written, or its end is not whole: then nothing may be added to it.
pub fn log(root: &Path, record: &Record<Content>) -> Result<()> {
    let path = path(root);
    let decision = Decision::of(record, last_line(&path)?.map(|line| digest::of_bytes(line.as_bytes())));
    let line = serde_json::to_string(&decision).context("turn the decision into JSON")? + "\n";
    let append = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        file.write_all(line.as_bytes())?;
        file.sync_data()
    };
    append().with_context(|| format!("write {}", path.display()))
}

fn last_line(path: &Path) -> Result<Option<String>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    if !text.is_empty() && !text.ends_with('\n') {
        bail!("the last line of {} is not whole: move the file away, and a new one is begun", path.display());
    }
    Ok(text.lines().next_back().map(String::from))
}

/// Reads the log, oldest first.
///
/// # Errors
/// A line is not whole, was changed, or one is missing; the message says which.
pub fn read(root: &Path) -> Result<Vec<Decision>> {
    let path = path(root);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    parse(&text).with_context(|| format!("understand {}", path.display()))
}

/// Reads the log and compares the newest line of every run with the run's gate.json, as far as that is there: nothing else holds
/// the last line, which no other one follows. `folder_of` gives the folder of a run's gate.json in an environment.
///
/// # Errors
/// As [`read`], or a line says something else than its gate.json.
pub fn verify(root: &Path, folder_of: impl Fn(&str, &str) -> Option<PathBuf>) -> Result<Vec<Decision>> {
    let check = || -> Result<Vec<Decision>> {
        let decisions = read(root)?;
        let mut seen = BTreeSet::new();
        for (index, decision) in decisions.iter().enumerate().rev() {
            let folder = folder_of(&decision.run, &decision.environment).filter(|folder| seen.insert(folder.clone()));
            let record = folder.and_then(|folder| records::read::<Content>(&folder, Stage::Gate).ok());
            let Some(record) = record else { continue };
            if Decision::of(&record, None).document()? != decision.document()? {
                let run = &decision.run;
                bail!("line {} is not what gate.json of run {run} says: one of them was changed", index + 1);
            }
        }
        Ok(decisions)
    };
    check().with_context(|| {
        format!(
            "the log of verdicts is not to be relied on: move {} away, and a new one is begun",
            path(root).display()
        )
    })
}

fn parse(text: &str) -> Result<Vec<Decision>> {
    let mut decisions = Vec::new();
    let mut previous = None;
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let decision: Decision =
            serde_json::from_str(line).with_context(|| format!("line {number} is truncated or no decision"))?;
        if decision.previous != previous {
            bail!("line {number} does not follow the one before: a line was changed or taken out");
        }
        if decision.input_digest != input_digest(&decision.input) {
            bail!("line {number}: the input was changed");
        }
        previous = Some(digest::of_bytes(line.as_bytes()));
        decisions.push(decision);
    }
    Ok(decisions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Digests;
    use serde_json::json;

    fn record(run: &str) -> Record<Content> {
        Record {
            schema: records::SCHEMA,
            stage: Stage::Gate,
            run: run.into(),
            environment: "local".into(),
            started_at: Utc::now(),
            finished_at: Utc::now(),
            inputs: Digests::new(),
            files: Digests::new(),
            content: Content {
                verdict: Verdict::Allow,
                model: "sha256:m".into(),
                image: "sha256:i".into(),
                evidence: Vec::new(),
                outcomes: Vec::new(),
                waivers: Remarks::default(),
                input: json!({"accuracy": 0.92662, "rows": 100_000}),
            },
        }
    }

    #[test]
    fn decisions_are_added_in_order_and_a_changed_one_shows() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(paths::runs(root.path())).unwrap();
        assert!(read(root.path()).unwrap().is_empty());
        for run in ["a", "b", "c"] {
            log(root.path(), &record(run)).unwrap();
        }
        let runs: Vec<_> = read(root.path()).unwrap().into_iter().map(|decision| decision.run).collect();
        assert_eq!(runs, ["a", "b", "c"]);

        let text = fs::read_to_string(path(root.path())).unwrap();
        let lines: Vec<_> = text.lines().collect();
        let error = |text: &str| format!("{:#}", parse(text).unwrap_err());
        assert!(error(&[lines[0], lines[2]].join("\n")).contains("line 2 does not follow"));
        assert!(
            error(&text.replacen("\"verdict\":\"allow\"", "\"verdict\":\"deny\"", 1))
                .contains("line 2 does not follow")
        );
        assert!(error(&text.replacen("0.92662", "0.99", 1)).contains("line 1: the input was changed"));
        assert!(error(&text[..text.len() - 20]).contains("line 3 is truncated"));
    }

    #[test]
    fn a_changed_last_line_shows_beside_its_record() {
        let root = tempfile::tempdir().unwrap();
        let folder_of = |run: &str, _: &str| Some(paths::run(root.path(), run));
        fs::create_dir_all(paths::runs(root.path())).unwrap();
        // Run b is judged twice: its record is that of the second time.
        for run in ["a", "b", "b"] {
            let record = record(run);
            log(root.path(), &record).unwrap();
            records::write(&paths::run(root.path(), run), &record).unwrap();
        }
        let verify = || verify(root.path(), folder_of);
        assert_eq!(verify().unwrap().len(), 3);

        let text = fs::read_to_string(path(root.path())).unwrap();
        let (before, last) = text.trim_end().rsplit_once('\n').unwrap();
        let altered = last.replacen("\"verdict\":\"allow\"", "\"verdict\":\"deny\"", 1);
        let error = |text: String| {
            fs::write(path(root.path()), text).unwrap();
            format!("{:#}", verify().unwrap_err())
        };
        let altered = error(format!("{before}\n{altered}\n"));
        assert!(altered.contains("line 3 is not what gate.json of run b says"), "{altered}");
        assert!(altered.contains("decisions.ndjson away"), "{altered}");
        assert!(error(format!("{before}\n")).contains("line 2 is not what gate.json of run b says"));
        // Without the record there is nothing to compare with.
        fs::remove_dir_all(paths::run(root.path(), "b")).unwrap();
        assert_eq!(verify().unwrap().len(), 2);
    }

    #[test]
    fn nothing_is_added_to_a_line_that_is_not_whole() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(paths::runs(root.path())).unwrap();
        fs::write(path(root.path()), "{\"schema\": 1").unwrap();
        let error = log(root.path(), &record("a")).unwrap_err().to_string();
        assert!(error.contains("not whole"), "{error}");
    }
}
