//! The tests of the policies, and how good they are: which lines they reach, and which mutants they kill.
//!
//! A mutant is a policy with one small fault: an operator or a bound changed, a condition, a negation or a rule left out. If
//! the tests beside the policy still pass, nobody would notice that fault.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use regorus::{Engine, Value};
use serde_json::Value as Node;

use super::source::{self, Source};
use crate::digest;

/// All policies of a folder and all of their tests.
pub struct Suite {
    sources: Vec<Source>,
    /// File and path of each test, such as `data.main_test.test_accuracy_missing`.
    tests: Vec<(String, String)>,
}

/// One test of a policy: a rule named `test_…` that must be true.
pub struct PolicyTest {
    pub name: String,
    /// Why it failed; none if it passed.
    pub failure: Option<String>,
}

/// A policy with one fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutant {
    pub path: String,
    pub line: usize,
    pub what: String,
    /// The whole file with the fault.
    text: String,
}

/// What became of a mutant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// A test failed.
    Killed,
    /// All tests passed.
    Survived,
    /// It is no policy at all, as when a variable is used that nothing defines.
    Stillborn,
}

fn is_test(path: &str) -> bool {
    path.ends_with("_test.rego")
}

impl Suite {
    /// Reads all policies of a folder.
    ///
    /// # Errors
    /// A file cannot be read or understood, or two tests have one name.
    pub fn read(folder: &Path) -> Result<Suite> {
        let mut sources = Vec::new();
        for path in digest::files_of_tree(folder)? {
            if path.extension().is_some_and(|ending| ending == "rego") {
                let text =
                    std::fs::read_to_string(folder.join(&path)).with_context(|| format!("read {}", path.display()))?;
                sources.push(Source { path: path.display().to_string(), text });
            }
        }
        let (mut tests, mut names) = (Vec::new(), BTreeSet::new());
        for source in sources.iter().filter(|source| is_test(&source.path)) {
            let parsed = source::parse(source)?;
            for rule in parsed.rules.iter().filter(|rule| rule.name.starts_with("test_")) {
                let name = format!("data.{}.{}", parsed.package, rule.name);
                // Rego would take two rules of one name as alternatives, and one of them could hide the other's failure.
                if !names.insert(name.clone()) {
                    bail!("{} has two tests named {}", source.path, rule.name);
                }
                tests.push((source.path.clone(), name));
            }
        }
        Ok(Suite { sources, tests })
    }

    /// The policies without the tests.
    pub fn policies(&self) -> impl Iterator<Item = &Source> {
        self.sources.iter().filter(|source| !is_test(&source.path))
    }

    /// Runs every test, each on an engine of its own.
    pub fn run(&self) -> Result<Vec<PolicyTest>> {
        let engine = super::engine(&self.sources)?;
        let run = |(_, name): &(String, String)| PolicyTest { name: name.clone(), failure: failure(&engine, name) };
        Ok(self.tests.iter().map(run).collect())
    }

    /// Lines of the policies that no test reaches, as `file:line`; and the number of those that one does.
    pub fn coverage(&self) -> Result<(usize, Vec<String>)> {
        let mut engine = super::engine(&self.sources)?;
        engine.set_enable_coverage(true);
        for (_, name) in &self.tests {
            engine.eval_rule(name.clone()).with_context(|| format!("evaluate {name}"))?;
        }
        let report = engine.get_coverage_report()?;
        let (mut covered, mut missed) = (0, Vec::new());
        // The report is silent about a file that was never entered.
        let entered = |source: &&Source| report.files.iter().any(|file| file.path == source.path);
        missed.extend(self.policies().filter(|source| !entered(source)).map(|source| source.path.clone()));
        for file in report.files.iter().filter(|file| !is_test(&file.path)) {
            covered += file.covered.len();
            missed.extend(file.not_covered.iter().map(|line| format!("{}:{line}", file.path)));
        }
        Ok((covered, missed))
    }

    /// Every mutant of every policy, in the order of the files.
    pub fn mutants(&self) -> Result<Vec<Mutant>> {
        let mut mutants = Vec::new();
        for source in self.policies() {
            mutants.extend(mutants_of(source)?);
        }
        Ok(mutants)
    }

    /// The mutants that the tests do not kill, each in words, and how many of all are policies; on all processors.
    pub fn alive(&self, mutants: Vec<Mutant>) -> Result<(Vec<String>, usize)> {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let part = |first: usize| -> Result<(Vec<String>, usize)> {
            let (mut alive, mut born) = (Vec::new(), 0);
            for mutant in mutants.iter().skip(first).step_by(workers) {
                let fate = self.judge(mutant)?;
                born += usize::from(fate != Fate::Stillborn);
                if fate == Fate::Survived {
                    alive.push(format!("{}:{}: {}", mutant.path, mutant.line, mutant.what));
                }
            }
            Ok((alive, born))
        };
        let part = &part;
        let parts: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|first| scope.spawn(move || part(first))).collect();
            threads.into_iter().map(|thread| thread.join()).collect()
        });
        let (mut alive, mut born) = (Vec::new(), 0);
        for part in parts {
            let (some, count) = part.map_err(|_| anyhow::anyhow!("a worker panicked"))??;
            alive.extend(some);
            born += count;
        }
        alive.sort();
        Ok((alive, born))
    }

    /// Runs the tests beside the policy on a mutant of it.
    pub fn judge(&self, mutant: &Mutant) -> Result<Fate> {
        let mut sources: Vec<_> = self.sources.iter().filter(|source| source.path != mutant.path).cloned().collect();
        sources.push(Source { path: mutant.path.clone(), text: mutant.text.clone() });
        sources.push(Source { path: "alive".into(), text: "package alive\n\nalive := true\n".into() });
        let Ok(engine) = super::engine(&sources) else { return Ok(Fate::Stillborn) };
        if failure(&engine, "data.alive.alive").is_some() {
            return Ok(Fate::Stillborn);
        }
        let beside = super::tests_beside(Path::new(&mutant.path)).display().to_string();
        let mut own = self.tests.iter().filter(|(path, _)| *path == beside);
        Ok(if own.any(|(_, name)| failure(&engine, name).is_some()) { Fate::Killed } else { Fate::Survived })
    }
}

/// Why a test fails, if it does.
fn failure(engine: &Engine, name: &str) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| engine.clone().eval_rule(name.to_string()))) {
        Ok(Ok(Value::Bool(true))) => None,
        Ok(Ok(value)) => Some(format!("it is {value}, not true")),
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(_) => Some("the engine panicked".to_string()),
    }
}

/// Replaces a part of a policy's text.
struct Change {
    start: usize,
    end: usize,
    with: String,
    what: String,
}

fn mutants_of(source: &Source) -> Result<Vec<Mutant>> {
    let parsed = source::parse(source)?;
    let mut changes = Vec::new();
    collect(&parsed.tree["rules"], &source.text, &mut changes)?;
    for rule in &parsed.rules {
        let what = format!("rule `{}` removed", rule.name);
        changes.push(Change { start: rule.span.0, end: rule.span.1, with: String::new(), what });
    }
    let mutant = |change: Change| {
        let (before, after) = (source.text.get(..change.start)?, source.text.get(change.end..)?);
        let line = 1 + before.matches('\n').count();
        Some(Mutant {
            path: source.path.clone(),
            line,
            what: change.what,
            text: format!("{before}{}{after}", change.with),
        })
    };
    changes.into_iter().map(|change| mutant(change).context("a change outside of the text")).collect()
}

/// Collects the changes of a syntax tree: of this node and of all below it.
fn collect(node: &Node, text: &str, changes: &mut Vec<Change>) -> Result<()> {
    match node {
        Node::Array(items) => items.iter().try_for_each(|item| collect(item, text, changes)),
        Node::Object(fields) => {
            for (kind, inner) in fields {
                changes_of(kind, inner, text, changes)?;
                collect(inner, text, changes)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The changes of one node.
fn changes_of(kind: &str, node: &Node, text: &str, changes: &mut Vec<Change>) -> Result<()> {
    let said = |(start, end): (usize, usize)| text.get(start..end).unwrap_or_default();
    let mut change = |(start, end): (usize, usize), with: String| {
        let what = format!("`{}` becomes `{with}`", said((start, end)));
        changes.push(Change { start, end, with, what });
    };
    match kind {
        "BoolExpr" | "ArithExpr" => {
            let (from, to) = (expression_span(&node["lhs"])?.1, expression_span(&node["rhs"])?.0);
            let between = said((from, to));
            let operator = between.trim_matches(|letter: char| !"<>=!+-*/".contains(letter));
            let start = from + between.find(operator).unwrap_or_default();
            let others: &[&str] = match operator {
                "<" => &["<=", ">="],
                "<=" => &["<", ">"],
                ">" => &[">=", "<="],
                ">=" => &[">", "<"],
                "==" => &["!="],
                "!=" => &["=="],
                "+" => &["-"],
                "-" => &["+"],
                "*" => &["/"],
                "/" => &["*"],
                other => bail!("the operator `{other}` has no mutant"),
            };
            others.iter().for_each(|other| change((start, start + operator.len()), other.to_string()));
        }
        "Number" => {
            let span = source::span_of(&node["span"])?;
            let value: f64 = said(span).parse().with_context(|| format!("read the number `{}`", said(span)))?;
            [value + 1.0, value - 1.0].iter().for_each(|other| change(span, other.to_string()));
        }
        // The place is inside the quotation marks.
        "String" => {
            let (_, end) = source::span_of(&node["span"])?;
            change((end, end), "~".to_string());
        }
        "Bool" => {
            let span = source::span_of(&node["span"])?;
            change(span, if said(span) == "true" { "false" } else { "true" }.to_string());
        }
        "Null" => change(source::span_of(&node["span"])?, "false".to_string()),
        "Set" if node["items"].is_array() => {
            let items = node["items"].as_array().into_iter().flatten();
            let spans: Vec<_> = items.map(expression_span).collect::<Result<_>>()?;
            for left_out in (0..spans.len()).filter(|_| spans.len() > 1) {
                let kept = spans.iter().enumerate().filter(|(index, _)| *index != left_out);
                let kept: Vec<_> = kept.map(|(_, span)| quoted(text, *span)).collect();
                change(source::span_of(&node["span"])?, format!("{{{}}}", kept.join(", ")));
            }
        }
        "stmts" => {
            let statements = node.as_array().context("statements are a list")?;
            for statement in statements {
                let span = source::span_of(&statement["span"])?;
                change(span, "true".to_string());
                let literal = &statement["literal"];
                if let Some(negated) = literal.get("NotExpr") {
                    let inside = source::span_of(
                        &negated["expr"]
                            .as_object()
                            .and_then(|node| node.values().next())
                            .context("an empty negation")?["span"],
                    )?;
                    change((span.0, inside.0), String::new());
                } else if literal["Expr"]["expr"].is_object() && literal["Expr"]["expr"].get("AssignExpr").is_none() {
                    change((span.0, span.0), "not ".to_string());
                }
                for with in statement["with_mods"].as_array().into_iter().flatten() {
                    change(source::span_of(&with["span"])?, String::new());
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// The place of an expression, `{kind: {span: …}}`.
fn expression_span(expression: &Node) -> Result<(usize, usize)> {
    let inner = expression.as_object().and_then(|node| node.values().next()).context("an empty expression")?;
    source::span_of(&inner["span"])
}

/// The text of an expression with its quotation marks, which are not in a string's place.
fn quoted(text: &str, (start, end): (usize, usize)) -> &str {
    let quoted = start > 0 && text.as_bytes().get(start - 1) == Some(&b'"') && text.as_bytes().get(end) == Some(&b'"');
    if quoted { text.get(start - 1..end + 1).unwrap_or_default() } else { text.get(start..end).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "package main\n\ndefault allow := false\n\nallow if {\n\tinput.x >= 3\n\tnot bad\n}\n\nbad if input.kind in {\"a\", \"b\"}\n";
    const TESTS: &str =
        "package main_test\n\nimport data.main\n\ntest_allowed if main.allow with input as {\"x\": 4}\n";

    fn suite(tests: &str) -> Suite {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("p.rego"), POLICY).unwrap();
        std::fs::write(folder.path().join("p_test.rego"), tests).unwrap();
        Suite::read(folder.path()).unwrap()
    }

    fn survivors(suite: &Suite) -> Vec<String> {
        let mutants = suite.mutants().unwrap();
        let left = mutants.iter().filter(|mutant| suite.judge(mutant).unwrap() == Fate::Survived);
        left.map(|mutant| format!("{}: {}", mutant.line, mutant.what)).collect()
    }

    #[test]
    fn every_kind_of_fault_is_tried() {
        let mutants = suite(TESTS).mutants().unwrap();
        let seen: Vec<_> = mutants.iter().map(|mutant| format!("{}: {}", mutant.line, mutant.what)).collect();
        for wanted in [
            "3: `false` becomes `true`",
            "3: rule `allow` removed",
            "6: `>=` becomes `>`",
            "6: `>=` becomes `<`",
            "6: `3` becomes `4`",
            "6: `3` becomes `2`",
            "6: `input.x >= 3` becomes `true`",
            "6: `` becomes `not `",
            "7: `not ` becomes ``",
            "10: `` becomes `~`",
            "10: `{\"a\", \"b\"}` becomes `{\"b\"}`",
            "10: rule `bad` removed",
        ] {
            assert!(seen.iter().any(|what| what == wanted), "{wanted}: {seen:#?}");
        }
    }

    #[test]
    fn weak_tests_let_mutants_live_and_good_ones_kill_them() {
        let weak = suite(TESTS);
        assert!(survivors(&weak).contains(&"6: `>=` becomes `>`".to_string()));
        let (covered, missed) = weak.coverage().unwrap();
        assert!(covered > 0 && missed.is_empty(), "{missed:?}");
        let good = format!(
            "{TESTS}\ntest_bounds if {{\n\tmain.allow == true with input as {{\"x\": 3}}\n\tmain.allow == false with input as {{\"x\": 2.5}}\n}}\n\n\
             test_bad if {{\n\tmain.allow == false with input as {{\"x\": 3, \"kind\": \"a\"}}\n\tmain.allow == false with input as {{\"x\": 3, \"kind\": \"b\"}}\n}}\n"
        );
        assert_eq!(survivors(&suite(&good)), Vec::<String>::new());
    }

    #[test]
    fn lines_that_no_test_reaches_are_named() {
        let idle = suite("package main_test\n\ntest_idle if true\n");
        assert!(!idle.coverage().unwrap().1.is_empty());
    }

    #[test]
    fn every_rule_of_ours_that_objects_has_a_title_and_an_id_of_its_own() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
        let mut ids = BTreeSet::new();
        for policy in Suite::read(&folder).unwrap().policies() {
            for rule in source::parse(policy).unwrap().rules.iter().filter(|rule| rule.kind().is_some()) {
                let place = format!("{}:{}", policy.path, rule.line);
                assert!(rule.annotations.title.is_some(), "{place} has no title");
                let id = rule.annotations.id.clone();
                assert!(
                    ids.insert(id.unwrap_or_else(|| panic!("{place} has no id"))),
                    "{place}: another rule has its id"
                );
            }
        }
        assert!(ids.len() > 20, "{ids:?}");
    }

    #[test]
    fn tests_beside_policies_are_run_and_a_false_one_fails() {
        let tests = format!("{TESTS}\ntest_wrong if main.allow with input as {{}}\n");
        let run = suite(&tests).run().unwrap();
        assert_eq!(run.len(), 2);
        assert!(run[0].failure.is_none() && run[1].failure.is_some());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("p_test.rego"), format!("{TESTS}test_allowed if true\n")).unwrap();
        assert!(Suite::read(folder.path()).err().unwrap().to_string().contains("two tests named test_allowed"));
    }
}
