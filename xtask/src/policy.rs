//! Policies in Rego: one engine for every policy set, and every way in which it can fail is a denial with a name.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::{Context, Result, bail};
use regorus::{Engine, Value};
use serde::{Deserialize, Serialize};

use crate::config::{OnFailure, PolicySet};
use crate::digest;

/// What one policy set said.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    pub policy_set: String,
    pub package: String,
    pub on_failure: OnFailure,
    /// Digest of each policy file that was judged by.
    pub policies: Vec<PolicyFile>,
    /// Messages of the rules named `deny`, and of everything that kept them from being asked.
    pub denials: Vec<String>,
    /// Messages of the rules named `warn`.
    pub warnings: Vec<String>,
}

/// A policy file as it was read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PolicyFile {
    pub path: String,
    pub digest: String,
}

/// Judges `input` by a policy set. Never fails: what cannot be judged is denied.
pub fn judge(root: &Path, set: &PolicySet, input: &serde_json::Value) -> Outcome {
    let mut outcome = Outcome {
        policy_set: set.name.clone(),
        package: set.package.clone(),
        on_failure: set.on_failure,
        policies: Vec::new(),
        denials: Vec::new(),
        warnings: Vec::new(),
    };
    let mut sources = Vec::new();
    for path in &set.policies {
        match std::fs::read_to_string(root.join(path)) {
            Ok(text) => {
                outcome
                    .policies
                    .push(PolicyFile { path: path.display().to_string(), digest: digest::of_bytes(text.as_bytes()) });
                sources.push((path.display().to_string(), text));
            }
            Err(error) => outcome.denials.push(format!("policy {} cannot be read: {error}", path.display())),
        }
    }
    if !outcome.denials.is_empty() {
        return outcome;
    }
    // A panic of the engine is an answer too: denied.
    let judged = catch_unwind(AssertUnwindSafe(|| evaluate(&set.package, &sources, input)));
    match judged {
        Ok(Ok((denials, warnings))) => {
            outcome.denials = denials;
            outcome.warnings = warnings;
        }
        Ok(Err(error)) => outcome.denials.push(format!("policy set cannot be evaluated: {error:#}")),
        Err(_) => outcome.denials.push("policy set cannot be evaluated: the engine panicked".to_string()),
    }
    outcome
}

/// The messages of `deny` and of `warn`.
fn evaluate(
    package: &str,
    sources: &[(String, String)],
    input: &serde_json::Value,
) -> Result<(Vec<String>, Vec<String>)> {
    let mut engine = engine(sources)?;
    engine.set_input_json(&input.to_string()).context("hand over the input")?;
    let mut denials = messages(&mut engine, package, "deny", true)?;
    let warnings = messages(&mut engine, package, "warn", false)?;
    // Where a package says what it allows, the absence of objections is not enough.
    if denials.is_empty() && rules(&mut engine, package)?.contains("allow") {
        let path = format!("data.{package}.allow");
        let allowed = engine.eval_rule(path.clone()).with_context(|| format!("evaluate {path}"))?;
        if allowed != Value::Bool(true) {
            denials.push(format!("{path} is not true, although no rule denies"));
        }
    }
    Ok((denials, warnings))
}

fn engine(sources: &[(String, String)]) -> Result<Engine> {
    let mut engine = Engine::new();
    // A builtin that fails must not turn into "undefined", which a rule could read as "no objection".
    engine.set_strict_builtin_errors(true);
    for (path, text) in sources {
        engine.add_policy(path.clone(), text.clone()).with_context(|| format!("understand {path}"))?;
    }
    Ok(engine)
}

/// The messages of the partial set `rule`. A missing rule is an error where it is required, since a package without a
/// `deny` rule would deny nothing.
fn messages(engine: &mut Engine, package: &str, rule: &str, required: bool) -> Result<Vec<String>> {
    let path = format!("data.{package}.{rule}");
    let declared = rules(engine, package)?;
    if !declared.contains(rule) {
        if required {
            bail!("package `{package}` has no rule named `{rule}`");
        }
        return Ok(Vec::new());
    }
    let value = engine.eval_rule(path.clone()).with_context(|| format!("evaluate {path}"))?;
    let Value::Set(members) = value else {
        bail!("{path} is not a set of messages: write `{rule} contains message if {{ … }}`");
    };
    members
        .iter()
        .map(|member| match member {
            Value::String(text) => Ok(text.to_string()),
            other => Ok(other.to_json_str()?),
        })
        .collect()
}

/// Names of the rules of a package.
fn rules(engine: &mut Engine, package: &str) -> Result<BTreeSet<String>> {
    let value = engine.eval_query(format!("data.{package}"), false).with_context(|| format!("look into {package}"))?;
    let first = value.result.first().and_then(|result| result.expressions.first()).map(|expression| &expression.value);
    match first {
        Some(Value::Object(fields)) => {
            Ok(fields.iter().filter_map(|(name, _)| name.as_string().ok().map(|name| name.to_string())).collect())
        }
        _ => bail!("no policy has the package `{package}`"),
    }
}

/// One test of a policy: a rule named `test_…` that must be true.
pub struct PolicyTest {
    pub name: String,
    /// Why it failed; none if it passed.
    pub failure: Option<String>,
}

/// Runs every rule named `test_…` of the `_test.rego` files in a folder, each with all policies of the folder at hand.
pub fn run_tests(folder: &Path) -> Result<Vec<PolicyTest>> {
    let mut sources = Vec::new();
    for path in digest::files_of_tree(folder)? {
        if path.extension().is_some_and(|ending| ending == "rego") {
            let text =
                std::fs::read_to_string(folder.join(&path)).with_context(|| format!("read {}", path.display()))?;
            sources.push((path.display().to_string(), text));
        }
    }
    let mut names = BTreeSet::new();
    for (path, text) in sources.iter().filter(|(path, _)| path.ends_with("_test.rego")) {
        let package = text
            .lines()
            .find_map(|line| line.strip_prefix("package "))
            .with_context(|| format!("{path} names no package"))?
            .trim();
        let rules = text.lines().filter(|line| line.starts_with("test_"));
        for rule in rules.filter_map(|line| line.split([' ', ':', '=', '{']).next()) {
            // Rego would take two rules of one name as alternatives, and one of them could hide the other's failure.
            if !names.insert(format!("data.{package}.{rule}")) {
                bail!("{path} has two tests named {rule}");
            }
        }
    }
    names
        .into_iter()
        .map(|name| {
            let answer = catch_unwind(AssertUnwindSafe(|| engine(&sources)?.eval_rule(name.clone())));
            let failure = match answer {
                Ok(Ok(Value::Bool(true))) => None,
                Ok(Ok(value)) => Some(format!("it is {value}, not true")),
                Ok(Err(error)) => Some(format!("{error:#}")),
                Err(_) => Some("the engine panicked".to_string()),
            };
            Ok(PolicyTest { name, failure })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;

    fn judged(policy: &str, input: serde_json::Value) -> Outcome {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("p.rego"), policy).unwrap();
        let set = PolicySet {
            name: "set".into(),
            package: "main".into(),
            policies: vec![PathBuf::from("p.rego")],
            on_failure: OnFailure::Error,
        };
        judge(folder.path(), &set, &input)
    }

    #[test]
    fn denials_and_warnings_are_collected() {
        let policy =
            "package main\ndeny contains \"low\" if input.accuracy < 0.9\nwarn contains \"old\" if input.old\n";
        let outcome = judged(policy, json!({"accuracy": 0.8, "old": true}));
        assert_eq!((outcome.denials, outcome.warnings), (vec!["low".to_string()], vec!["old".to_string()]));
        assert!(judged(policy, json!({"accuracy": 0.95, "old": false})).denials.is_empty());
    }

    #[test]
    fn whatever_keeps_the_rules_from_being_asked_is_a_denial() {
        for (policy, reason) in [
            ("package main\ndeny contains x if {", "understand p.rego"),
            ("package other\ndeny contains \"x\" if false\n", "`main`"),
            ("package main\nwarn contains \"x\" if false\n", "no rule named `deny`"),
            ("package main\ndeny := true\n", "not a set of messages"),
            ("package main\ndeny contains \"x\" if to_number(\"abc\") > 1\n", "evaluate"),
            ("", "understand p.rego"),
        ] {
            let denials = judged(policy, json!({})).denials;
            assert_eq!(denials.len(), 1, "{policy}");
            assert!(denials[0].contains(reason), "{policy}: {}", denials[0]);
        }
    }

    #[test]
    fn what_is_neither_denied_nor_allowed_is_denied() {
        let policy = "package main\ndefault allow := false\nallow if input.good\ndeny contains \"bad\" if input.bad\n";
        assert!(judged(policy, json!({"good": true})).denials.is_empty());
        assert!(judged(policy, json!({})).denials[0].contains("allow is not true"));
    }

    #[test]
    fn an_absent_policy_file_is_a_denial() {
        let set = PolicySet {
            name: "set".into(),
            package: "main".into(),
            policies: vec![PathBuf::from("absent.rego")],
            on_failure: OnFailure::Warn,
        };
        let outcome = judge(Path::new("/nonexistent"), &set, &json!({}));
        assert!(outcome.denials[0].contains("absent.rego"));
    }

    #[test]
    fn tests_beside_policies_are_run_and_a_false_one_fails() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("p.rego"), "package main\nanswer := 42\n").unwrap();
        std::fs::write(
            folder.path().join("p_test.rego"),
            "package main_test\nimport data.main\ntest_right if main.answer == 42\ntest_wrong if main.answer == 41\n",
        )
        .unwrap();
        let tests = run_tests(folder.path()).unwrap();
        assert_eq!(tests.len(), 2);
        assert!(tests[0].failure.is_none() && tests[1].failure.is_some());
    }
}
