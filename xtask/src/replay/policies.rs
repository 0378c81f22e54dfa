//! Every past decision judged again, under changed policies.
//!
//! Reads the decision log and, where asked to, what deployments kept in the bucket; writes the page alone. The policies come from another folder, under the names that pipeline.toml gives
//! them, each with its tests beside it; waivers are those of pipeline.toml, as of today.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use crate::config::{Config, PolicySet};
use crate::context::Context;
use crate::decisions::{self, Decision};
use crate::policy::{self, Outcome};
use crate::replay::{Options, kept, page, write_page};
use crate::stages::gate::{self, Verdict};
use crate::{exit, paths, terminal, waivers};

/// A past decision and what it would be.
#[derive(Debug, Serialize)]
pub struct Replayed {
    pub run: String,
    pub environment: String,
    pub decided_at: DateTime<Utc>,
    pub was: Verdict,
    pub would_be: Verdict,
    /// Objections that were not there.
    pub new: Vec<String>,
    /// Objections that would no longer be there.
    pub gone: Vec<String>,
}

impl Replayed {
    /// Whether the verdict would be another.
    pub fn flips(&self) -> bool {
        self.was != self.would_be
    }
}

/// Judges the decisions by the policies in `folder`.
///
/// # Errors
/// Exit code 4 if nothing was ever decided; the log or what is kept is not whole, or the folder lacks a policy.
pub fn run(context: &Context, folder: &Path, options: &Options) -> Result<()> {
    let mut decisions = decisions::read(&context.root)?;
    if options.kept {
        let found = context.block_on(kept::read(context.cloud()?, &context.environment_name, &context.environment))?;
        decisions = kept::merge(decisions, found)?;
    }
    if decisions.is_empty() {
        let name = &context.environment_name;
        return Err(exit::nothing_checked(match options.kept {
            false => "no verdict was ever given here: run `cargo xtask gate` first".to_string(),
            true => format!(
                "no verdict was ever given here, and s3://{} keeps none: run `cargo xtask deploy --env {name}` first",
                context.environment.bucket
            ),
        }));
    }
    let folder = std::path::absolute(folder).context("find the folder of the policies")?;
    let sets = sets_in(&context.config, &folder)?;
    let today = Utc::now().date_naive();
    let replayed: Vec<_> = decisions.iter().map(|decision| replay(&context.config, &sets, decision, today)).collect();
    // What is kept can be judged in a clone without a run.
    let beside =
        if options.kept && context.latest_run().is_none() { paths::runs(&context.root) } else { context.folder()? };
    write_page(options.page.as_deref(), &beside, &page::of_policies(&replayed))?;
    if context.json {
        println!("{}", serde_json::to_string(&replayed)?);
        return Ok(());
    }
    for row in &replayed {
        println!("{}", in_words(row));
        row.new.iter().for_each(|text| println!("    + {text}"));
        row.gone.iter().for_each(|text| println!("    - {text}"));
    }
    let flips = replayed.iter().filter(|row| row.flips()).count();
    println!("{}", terminal::bold(&format!("{flips} of {} verdicts would be others", replayed.len())));
    Ok(())
}

fn in_words(row: &Replayed) -> String {
    let change = match row.flips() {
        true => format!("{} would be {}", row.was.name(), row.would_be.name()),
        false => format!("{} as before", row.was.name()),
    };
    format!("{}  {:<12} {:<32} {change}", row.decided_at.format("%F %R"), row.environment, row.run)
}

/// The policy sets of pipeline.toml with their policies in another folder.
fn sets_in(config: &Config, folder: &Path) -> Result<Vec<PolicySet>> {
    let mut sets = config.policy_sets.clone();
    for path in sets.iter_mut().flat_map(|set| &mut set.policies) {
        let name = path.file_name().with_context(|| format!("{} names no file", path.display()))?;
        let other = folder.join(name);
        if !other.is_file() {
            bail!("{} is missing: the folder needs each policy of pipeline.toml, with its tests", other.display());
        }
        *path = other;
    }
    Ok(sets)
}

fn replay(config: &Config, sets: &[PolicySet], decision: &Decision, today: NaiveDate) -> Replayed {
    let environment = &decision.environment;
    // The policies' paths are whole.
    let judge = |set| policy::judge(Path::new(""), environment, set, &decision.input);
    let mut outcomes: Vec<_> = sets.iter().map(judge).collect();
    let remarks = waivers::apply(&config.waivers, &mut outcomes, today);
    let (before, after) = (objections(&decision.outcomes), objections(&outcomes));
    Replayed {
        run: decision.run.clone(),
        environment: environment.clone(),
        decided_at: decision.decided_at,
        was: decision.verdict,
        would_be: gate::verdict(&decision.evidence, &remarks, &outcomes),
        new: after.difference(&before).cloned().collect(),
        gone: before.difference(&after).cloned().collect(),
    }
}

fn objections(outcomes: &[Outcome]) -> BTreeSet<String> {
    outcomes.iter().flat_map(|outcome| outcome.denials.iter().chain(&outcome.warnings)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config;
    use crate::waivers::Remarks;

    fn decision(accuracy: f64) -> Decision {
        Decision {
            schema: 1,
            decided_at: Utc::now(),
            run: "r".into(),
            environment: "local".into(),
            verdict: Verdict::Allow,
            model: "sha256:m".into(),
            image: "sha256:i".into(),
            policy_digest: String::new(),
            input_digest: String::new(),
            input: json!({"accuracy": accuracy}),
            evidence: Vec::new(),
            outcomes: Vec::new(),
            waivers: Remarks::default(),
            previous: None,
        }
    }

    #[test]
    fn a_stricter_policy_denies_what_was_allowed() {
        let mut config = config::parse(include_str!("../../../pipeline.toml")).unwrap();
        config.policy_sets.truncate(1);
        let folder = tempfile::tempdir().unwrap();
        assert!(sets_in(&config, folder.path()).unwrap_err().to_string().contains("model.rego is missing"));
        let policy = "package main\n\ndeny contains \"too low\" if input.accuracy < 0.95\n";
        std::fs::write(folder.path().join("model.rego"), policy).unwrap();
        std::fs::write(folder.path().join("model_test.rego"), "package main_test\n\ntest_x if true\n").unwrap();
        let sets = sets_in(&config, folder.path()).unwrap();
        let today = Utc::now().date_naive();
        let low = replay(&config, &sets, &decision(0.92), today);
        assert_eq!((low.would_be, low.new.as_slice()), (Verdict::Deny, ["too low".to_string()].as_slice()));
        assert!(low.flips() && in_words(&low).contains("allow would be deny"));
        let high = replay(&config, &sets, &decision(0.96), today);
        assert!(!high.flips() && high.new.is_empty());
        // Evidence that was missing then is missing still.
        let without = Decision { evidence: vec!["scan.json is missing".into()], ..decision(0.96) };
        assert_eq!(replay(&config, &sets, &without, today).would_be, Verdict::Deny);
    }
}
