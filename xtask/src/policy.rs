//! Policies in Rego: one engine for every policy set, and every way in which it can fail is a denial with a name.

pub mod cases;
pub mod source;
pub mod suite;

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};
use serde::{Deserialize, Serialize};

use crate::config::{OnFailure, PolicySet};
use crate::digest;
use crate::waivers::Waived;

use source::{Kind, Rule, Source};

/// What one policy set said.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    pub policy_set: String,
    pub package: String,
    pub on_failure: OnFailure,
    /// Digest of each policy file that was judged by.
    pub policies: Vec<PolicyFile>,
    /// Messages of the rules that deny, and of everything that kept them from being asked; without those that are waived.
    pub denials: Vec<String>,
    /// Messages of the rules that warn.
    pub warnings: Vec<String>,
    /// Every rule that objects or could have, and every fault, with what it said.
    pub rules: Vec<RuleOutcome>,
}

/// A policy file as it was read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PolicyFile {
    pub path: String,
    pub digest: String,
}

/// What one rule said, or what kept the rules from being asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RuleOutcome {
    /// `custom.id` of its annotation, else package, name and line; a fault's begins with `gate.`.
    pub id: String,
    pub title: String,
    #[serde(default)]
    pub description: String,
    pub level: Level,
    pub path: String,
    pub line: usize,
    /// None where it has no objection.
    pub messages: Vec<Message>,
}

/// An objection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Message {
    pub text: String,
    /// Who answers for letting it pass, if somebody does.
    pub waived: Option<Waived>,
}

/// What an objection of a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Deny,
    Warn,
    /// The rules could not be asked: a denial that nobody can waive.
    Fault,
}

impl Outcome {
    /// Draws up the lists of messages from what the rules said.
    pub fn sum_up(&mut self) {
        let texts = |wanted: fn(Level) -> bool| {
            let rules = self.rules.iter().filter(move |rule| wanted(rule.level));
            let open = rules.flat_map(|rule| &rule.messages).filter(|message| message.waived.is_none());
            open.map(|message| message.text.clone()).collect::<BTreeSet<_>>().into_iter().collect()
        };
        (self.denials, self.warnings) = (texts(|level| level != Level::Warn), texts(|level| level == Level::Warn));
    }

    /// Objections that somebody waived, with their rules.
    pub fn waived(&self) -> impl Iterator<Item = (&RuleOutcome, &str, &Waived)> {
        self.rules.iter().flat_map(|rule| {
            let waived =
                rule.messages.iter().filter_map(|message| Some((message.text.as_str(), message.waived.as_ref()?)));
            waived.map(move |(text, waived)| (rule, text, waived))
        })
    }
}

/// A way in which a policy set cannot be asked.
pub struct Fault {
    id: &'static str,
    title: &'static str,
    pub message: String,
    path: String,
}

impl Fault {
    fn new(id: &'static str, title: &'static str, message: String, path: &str) -> Fault {
        Fault { id, title, message, path: path.to_string() }
    }

    fn outcome(self) -> RuleOutcome {
        RuleOutcome {
            id: self.id.to_string(),
            title: self.title.to_string(),
            description: String::new(),
            level: Level::Fault,
            path: self.path,
            line: 1,
            messages: vec![Message { text: self.message, waived: None }],
        }
    }
}

/// Judges `input` by a policy set. Never fails: what cannot be judged is denied.
pub fn judge(root: &Path, environment: &str, set: &PolicySet, input: &serde_json::Value) -> Outcome {
    let mut outcome = Outcome {
        policy_set: set.name.clone(),
        package: set.package.clone(),
        on_failure: set.on_failure.in_environment(environment),
        policies: Vec::new(),
        denials: Vec::new(),
        warnings: Vec::new(),
        rules: Vec::new(),
    };
    let (sources, mut faults) = read(root, set);
    outcome.policies = sources
        .iter()
        .map(|source| PolicyFile { path: source.path.clone(), digest: digest::of_bytes(source.text.as_bytes()) })
        .collect();
    if faults.is_empty() {
        match surviving(&sources, || Judge::new(&set.package, &sources)?.judge(input)) {
            Ok(rules) => outcome.rules = rules,
            Err(fault) => faults.push(fault),
        }
    }
    outcome.rules.extend(faults.into_iter().map(Fault::outcome));
    outcome.sum_up();
    outcome
}

/// Asks the engine; its panic is an answer too: denied.
fn surviving(
    sources: &[Source],
    ask: impl FnOnce() -> std::result::Result<Vec<RuleOutcome>, Fault>,
) -> std::result::Result<Vec<RuleOutcome>, Fault> {
    catch_unwind(AssertUnwindSafe(ask)).unwrap_or_else(|_| {
        let text = "policy set cannot be evaluated: the engine panicked".to_string();
        let place = sources.first().map_or("", |source| source.path.as_str());
        Err(Fault::new("gate.panic", "The engine survives", text, place))
    })
}

/// The files of a policy set, and what of them is missing.
fn read(root: &Path, set: &PolicySet) -> (Vec<Source>, Vec<Fault>) {
    let (mut sources, mut faults) = (Vec::new(), Vec::new());
    for path in &set.policies {
        let name = path.display().to_string();
        match std::fs::read_to_string(root.join(path)) {
            Ok(text) => sources.push(Source { path: name.clone(), text }),
            Err(error) => {
                let text = format!("policy {name} cannot be read: {error}");
                faults.push(Fault::new("gate.policy-unreadable", "Policies can be read", text, &name));
            }
        }
        // A policy that nobody tried is no policy.
        if let Err(reason) = has_tests(root, path) {
            faults.push(Fault::new("gate.no-tests", "Policies have tests", reason, &name));
        }
    }
    (sources, faults)
}

/// Where the tests of a policy lie.
pub fn tests_beside(policy: &Path) -> PathBuf {
    policy.with_file_name(format!("{}_test.rego", policy.file_stem().unwrap_or_default().to_string_lossy()))
}

fn has_tests(root: &Path, policy: &Path) -> std::result::Result<(), String> {
    let beside = tests_beside(policy);
    match std::fs::read_to_string(root.join(&beside)) {
        Ok(text) if text.lines().any(|line| line.starts_with("test_")) => Ok(()),
        Ok(_) => {
            Err(format!("policy {} has no test: {} has no rule named `test_…`", policy.display(), beside.display()))
        }
        Err(error) => {
            Err(format!("policy {} has no test: {} cannot be read: {error}", policy.display(), beside.display()))
        }
    }
}

/// A policy set that is ready to judge one input after the other.
pub struct Judge {
    engine: Engine,
    package: String,
    /// The rules that object, each with the name under which it can be asked alone.
    rules: Vec<(Rule, String)>,
    says_what_it_allows: bool,
}

impl Judge {
    /// Prepares the engine. Beside the policies it gets a copy of every rule that objects, under a name of its own: together
    /// the definitions of `deny` give one set of messages, and only alone do they say which of them gave which.
    pub fn new(package: &str, sources: &[Source]) -> std::result::Result<Judge, Fault> {
        let place = sources.first().map_or("", |source| source.path.as_str());
        let invalid = |error: anyhow::Error| {
            let text = format!("policy set cannot be evaluated: {error:#}");
            Fault::new("gate.policy-invalid", "Policies are understood", text, place)
        };
        let no_rules = |text: String| Fault::new("gate.no-rules", "Policies have rules", text, place);
        let mut engine = engine(sources).map_err(invalid)?;
        let (mut rules, mut says_what_it_allows, mut found) = (Vec::new(), false, false);
        for source in sources {
            let parsed = source::parse(source).map_err(invalid)?;
            if parsed.package != package {
                continue;
            }
            found = true;
            says_what_it_allows |= parsed.rules.iter().any(|rule| rule.name == "allow");
            let objecting: Vec<_> = parsed.rules.into_iter().filter(|rule| rule.kind().is_some()).collect();
            if objecting.is_empty() {
                continue;
            }
            let (probes, named) = probes(source, &parsed.tree, &objecting, rules.len()).map_err(invalid)?;
            engine.add_policy(format!("{} one by one", source.path), probes).map_err(invalid)?;
            rules.extend(named);
        }
        if !found {
            return Err(no_rules(format!("policy set cannot be evaluated: no policy has the package `{package}`")));
        }
        if !rules.iter().any(|(rule, _)| rule.kind() == Some(Kind::Deny)) {
            return Err(no_rules(format!(
                "policy set cannot be evaluated: package `{package}` has no rule named `deny` or `violation`"
            )));
        }
        Ok(Judge { engine, package: package.to_string(), rules, says_what_it_allows })
    }

    /// Asks every rule.
    pub fn judge(&mut self, input: &serde_json::Value) -> std::result::Result<Vec<RuleOutcome>, Fault> {
        let place = self.rules.first().map_or(String::new(), |(rule, _)| rule.path.clone());
        let fault = |error: anyhow::Error| {
            let text = format!("policy set cannot be evaluated: {error:#}");
            Fault::new("gate.evaluation-error", "Policies can be evaluated", text, &place)
        };
        self.engine.set_input(Value::from(input.clone()));
        let said = self.everything().map_err(fault)?;
        let mut outcomes = Vec::new();
        for (rule, name) in &self.rules {
            outcomes.push(outcome_of(rule, messages(&said, &self.package, name).map_err(fault)?));
        }
        self.same_together(&said, &outcomes).map_err(fault)?;
        // Where a package says what it allows, the absence of objections is not enough.
        let denied = outcomes.iter().any(|rule| rule.level == Level::Deny && !rule.messages.is_empty());
        if !denied && self.says_what_it_allows {
            let path = format!("data.{}.allow", self.package);
            let allowed = &said["allow"];
            if *allowed != Value::Bool(true) {
                let text = format!("{path} is not true, although no rule denies");
                return Err(match allowed {
                    Value::Undefined => {
                        Fault::new("gate.undefined", "Nothing is undefined", format!("{text}: it is undefined"), &place)
                    }
                    _ => Fault::new("gate.not-allowed", "What is not denied is allowed", text, &place),
                });
            }
        }
        Ok(outcomes)
    }

    /// The values of all rules of the package, by name, in one evaluation.
    fn everything(&mut self) -> Result<Value> {
        let path = format!("data.{}", self.package);
        let answers = self.engine.eval_query(path.clone(), false).with_context(|| format!("evaluate {path}"))?;
        let first = answers.result.into_iter().next().and_then(|answer| answer.expressions.into_iter().next());
        first.map(|expression| expression.value).with_context(|| format!("{path} is undefined"))
    }

    /// The rules as they are written, all definitions of a name together, must say what their copies said.
    fn same_together(&self, said: &Value, outcomes: &[RuleOutcome]) -> Result<()> {
        let names: BTreeSet<_> = self.rules.iter().map(|(rule, _)| rule.name.as_str()).collect();
        for name in names {
            let together: BTreeSet<_> = messages(said, &self.package, name)?.into_iter().collect();
            let of_name = self.rules.iter().zip(outcomes).filter(|((rule, _), _)| rule.name == name);
            let alone: BTreeSet<_> =
                of_name.flat_map(|(_, outcome)| outcome.messages.iter().map(|message| message.text.clone())).collect();
            if together != alone {
                bail!("data.{}.{name} says {together:?}, its rules one by one say {alone:?}", self.package);
            }
        }
        Ok(())
    }
}

/// The messages of a partial set, in the form of texts or, as conftest has it, of objects with a `msg`.
fn messages(said: &Value, package: &str, name: &str) -> Result<Vec<String>> {
    let Value::Set(members) = &said[name] else {
        bail!("data.{package}.{name} is not a set of messages: write `deny contains message if {{ … }}`");
    };
    members
        .iter()
        .map(|member| match member {
            Value::String(text) => Ok(text.to_string()),
            other => match &other["msg"] {
                Value::String(text) => Ok(text.to_string()),
                _ => Ok(other.to_json_str()?),
            },
        })
        .collect()
}

/// A module with a copy of each rule, and the paths of the copies. `rules` are all of one file; the first copy gets the number
/// `first`.
fn probes(
    source: &Source,
    tree: &serde_json::Value,
    rules: &[Rule],
    first: usize,
) -> Result<(String, Vec<(Rule, String)>)> {
    let package = rules.first().map_or("", |rule| rule.package.as_str());
    let mut text = format!("package {package}\n");
    for import in tree["imports"].as_array().into_iter().flatten() {
        let (start, end) = source::span_of(&import["span"])?;
        text.push_str(&format!("{}\n", source.text.get(start..end).context("an import has no text")?));
    }
    let mut named = Vec::new();
    for (offset, rule) in rules.iter().enumerate() {
        let body = source.text.get(rule.span.0..rule.span.1).context("a rule has no text")?;
        let rest = body.strip_prefix(rule.name.as_str()).context("a rule does not begin with its name")?;
        let name = format!("one_by_one_{}", first + offset);
        text.push_str(&format!("\n{name}{rest}\n"));
        named.push((rule.clone(), name));
    }
    Ok((text, named))
}

fn outcome_of(rule: &Rule, messages: Vec<String>) -> RuleOutcome {
    let annotations = &rule.annotations;
    let id = annotations.id.clone().unwrap_or_else(|| format!("{}.{}.{}", rule.package, rule.name, rule.line));
    RuleOutcome {
        title: annotations.title.clone().unwrap_or_else(|| id.clone()),
        description: annotations.description.clone().unwrap_or_default(),
        id,
        level: if rule.kind() == Some(Kind::Warn) { Level::Warn } else { Level::Deny },
        path: rule.path.clone(),
        line: rule.line,
        messages: messages.into_iter().map(|text| Message { text, waived: None }).collect(),
    }
}

/// How long one evaluation may take: a policy that never ends is one that was not asked.
const LONGEST: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 20 });
/// After how many steps the engine looks at the time.
const CHECKED_EVERY: NonZeroU32 = NonZeroU32::new(1_000).expect("it is not zero");

/// An engine with these policies.
fn engine(sources: &[Source]) -> Result<Engine> {
    let mut engine = Engine::new();
    // A builtin that fails must not turn into "undefined", which a rule could read as "no objection".
    engine.set_strict_builtin_errors(true);
    engine.set_execution_timer_config(ExecutionTimerConfig { limit: LONGEST, check_interval: CHECKED_EVERY });
    for Source { path, text } in sources {
        engine.add_policy(path.clone(), text.clone()).with_context(|| format!("understand {path}"))?;
    }
    Ok(engine)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;
    use crate::config::Consequence;

    fn judged(policy: &str, input: serde_json::Value) -> Outcome {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("p.rego"), policy).unwrap();
        std::fs::write(folder.path().join("p_test.rego"), "package main_test\ntest_x if true\n").unwrap();
        let set = PolicySet {
            name: "set".into(),
            package: "main".into(),
            policies: vec![PathBuf::from("p.rego")],
            on_failure: Consequence::Everywhere(OnFailure::Error),
        };
        judge(folder.path(), "local", &set, &input)
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
    fn whatever_keeps_the_rules_from_being_asked_is_a_denial_with_a_name() {
        for (policy, id, reason) in [
            ("package main\ndeny contains x if {", "gate.policy-invalid", "understand p.rego"),
            ("", "gate.policy-invalid", "understand p.rego"),
            ("package other\ndeny contains \"x\" if false\n", "gate.no-rules", "`main`"),
            ("package main\nwarn contains \"x\" if false\n", "gate.no-rules", "no rule named `deny`"),
            ("package main\n", "gate.no-rules", "no rule named `deny`"),
            ("package main\ndeny := true\n", "gate.evaluation-error", "not a set of messages"),
            ("package main\ndeny contains \"x\" if to_number(\"abc\") > 1\n", "gate.evaluation-error", "evaluate"),
            ("package main\ndeny contains \"x\" if false\nallow if input.good\n", "gate.undefined", "undefined"),
            (
                "package main\ndeny contains \"x\" if data.other.deny\ndefault allow := 1\n",
                "gate.not-allowed",
                "not true",
            ),
        ] {
            let outcome = judged(policy, json!({}));
            assert_eq!(outcome.denials.len(), 1, "{policy}");
            assert!(outcome.denials[0].contains(reason), "{policy}: {}", outcome.denials[0]);
            let fault = outcome.rules.iter().find(|rule| rule.level == Level::Fault).unwrap();
            assert_eq!(fault.id, id, "{policy}");
        }
    }

    #[test]
    fn a_panic_of_the_engine_is_a_denial_with_a_name() {
        let source = Source { path: "p.rego".into(), text: String::new() };
        let fault = surviving(&[source], || panic!("as an engine could")).unwrap_err();
        assert_eq!((fault.id, fault.path.as_str()), ("gate.panic", "p.rego"));
        assert_eq!(fault.outcome().level, Level::Fault);
    }

    #[test]
    fn a_policy_that_never_ends_is_a_denial_with_a_name() {
        let policy = "package main\n\nxs := numbers.range(1, 3000)\n\n\
            deny contains \"odd\" if {\n\tsome a in xs\n\tsome b in xs\n\tsome c in xs\n\ta + b + c < 0\n}\n";
        let outcome = judged(policy, json!({}));
        assert_eq!(outcome.rules[0].id, "gate.evaluation-error");
        assert!(outcome.denials[0].contains("time limit"), "{}", outcome.denials[0]);
    }

    #[test]
    fn a_policy_without_tests_is_a_denial() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("p.rego"), "package main\ndeny contains \"x\" if false\n").unwrap();
        let set = PolicySet {
            name: "set".into(),
            package: "main".into(),
            policies: vec![PathBuf::from("p.rego")],
            on_failure: Consequence::Everywhere(OnFailure::Error),
        };
        let ids = || -> Vec<String> {
            let outcome = judge(folder.path(), "local", &set, &json!({}));
            outcome.rules.into_iter().filter(|rule| rule.level == Level::Fault).map(|rule| rule.id).collect()
        };
        assert_eq!(ids(), ["gate.no-tests"]);
        std::fs::write(folder.path().join("p_test.rego"), "package main_test\n").unwrap();
        assert_eq!(ids(), ["gate.no-tests"]);
        std::fs::write(folder.path().join("p_test.rego"), "package main_test\ntest_x if true\n").unwrap();
        assert!(ids().is_empty());
    }

    #[test]
    fn every_rule_answers_for_itself() {
        let policy = "package main\n\n# METADATA\n# title: Not low\n# custom:\n#   id: main.low\ndeny contains \"bad\" if input.low\n\n\
            deny contains \"bad\" if input.late\n\nviolation contains {\"msg\": \"odd\", \"details\": 1} if input.odd\n\nwarn_soon contains \"soon\" if true\n";
        let outcome = judged(policy, json!({"low": true, "odd": true}));
        let seen: Vec<_> = outcome
            .rules
            .iter()
            .map(|rule| (rule.id.as_str(), rule.title.as_str(), rule.level, rule.messages.len()))
            .collect();
        assert_eq!(
            seen,
            [
                ("main.low", "Not low", Level::Deny, 1),
                ("main.deny.9", "main.deny.9", Level::Deny, 0),
                ("main.violation.11", "main.violation.11", Level::Deny, 1),
                ("main.warn_soon.13", "main.warn_soon.13", Level::Warn, 1),
            ]
        );
        assert_eq!((outcome.denials, outcome.warnings), (vec!["bad".into(), "odd".into()], vec!["soon".into()]));
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
            on_failure: Consequence::Everywhere(OnFailure::Warn),
        };
        let outcome = judge(Path::new("/nonexistent"), "local", &set, &json!({}));
        assert!(outcome.denials[0].contains("absent.rego"));
    }
}
