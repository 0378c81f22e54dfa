//! The case data that the Open Policy Agent publishes for Rego v1, for the part of the language that the policies use.
//!
//! What they use, builtins and constructs, is read from their syntax trees; every case that needs nothing else has to give the
//! published result. So a policy that uses one more builtin has that builtin's cases tried, too.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use regorus::{Engine, Value};
use serde_json::Value as Node;

use super::source::{self, Source};
use super::suite::Suite;
use crate::digest;

/// Names the archive of the cases; else it is looked for beside the clone.
pub const VARIABLE: &str = "OPA_V1_CASES";

/// What a module uses of the language.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Used {
    /// Names of functions that no module defines.
    pub builtins: BTreeSet<String>,
    /// Kinds of nodes of the syntax tree.
    pub constructs: BTreeSet<String>,
}

/// Runs the cases; gives what was run in words, or nothing where there are no cases.
///
/// # Errors
/// A case gives another result, or a builtin of the policies has no case.
pub fn run(root: &Path, suite: &Suite) -> Result<Option<String>> {
    let archive = match std::env::var_os(VARIABLE) {
        Some(path) => PathBuf::from(path),
        None => root.join("../shared/data/opa-v1-test-cases.tar.xz"),
    };
    if !archive.is_file() {
        return Ok(None);
    }
    let folder = tempfile::tempdir().context("make a folder for the cases")?;
    let unpack = duct::cmd!("tar", "-xJf", &archive, "-C", folder.path());
    unpack.run().with_context(|| format!("unpack {}", archive.display()))?;
    let ours = used(suite.policies())?;
    let (mut tried, mut failures, mut seen) = (0, Vec::new(), BTreeSet::new());
    for path in
        digest::files_of_tree(folder.path())?.iter().filter(|path| path.extension().is_some_and(|end| end == "json"))
    {
        let text =
            std::fs::read_to_string(folder.path().join(path)).with_context(|| format!("read {}", path.display()))?;
        let file: Node = serde_json::from_str(&text).with_context(|| format!("understand {}", path.display()))?;
        for case in file["cases"].as_array().into_iter().flatten() {
            let Some(needs) = needs_of(case) else { continue };
            if !needs.builtins.is_subset(&ours.builtins) || !needs.constructs.is_subset(&ours.constructs) {
                continue;
            }
            tried += 1;
            seen.extend(needs.builtins);
            if let Err(error) = try_out(case) {
                failures.push(format!("{}: {error:#}", case["note"].as_str().unwrap_or_default()));
            }
        }
    }
    if !failures.is_empty() {
        bail!("{} of {tried} published cases of Rego give another result: {}", failures.len(), failures.join("; "));
    }
    let without: Vec<_> = ours.builtins.difference(&seen).cloned().collect();
    let without = if without.is_empty() { String::new() } else { format!(", none for {}", without.join(", ")) };
    Ok(Some(format!("{tried} published cases of Rego pass, for {} builtins{without}", ours.builtins.len())))
}

/// What these modules use together.
///
/// # Errors
/// One of them is no Rego.
pub fn used<'a>(sources: impl Iterator<Item = &'a Source>) -> Result<Used> {
    let (mut used, mut defined, mut replaced) = (Used::default(), BTreeSet::new(), BTreeSet::new());
    for source in sources {
        let parsed = source::parse(source)?;
        defined.extend(parsed.rules.iter().map(|rule| rule.name.clone()));
        collect(&parsed.tree, &source.text, &mut used, &mut replaced)?;
    }
    // To replace what is called is another thing than to replace a value.
    if !used.builtins.is_disjoint(&replaced) {
        used.constructs.insert("function in with".to_string());
    }
    used.builtins.retain(|name| !defined.contains(name) && !name.starts_with("data."));
    Ok(used)
}

fn collect(node: &Node, text: &str, used: &mut Used, replaced: &mut BTreeSet<String>) -> Result<()> {
    match node {
        Node::Array(items) => items.iter().try_for_each(|item| collect(item, text, used, replaced)),
        Node::Object(fields) => {
            for (kind, inner) in fields {
                let is_kind = kind.starts_with(|letter: char| letter.is_ascii_uppercase());
                let is_part = (kind == "with_mods" && inner.as_array().is_some_and(|with| !with.is_empty()))
                    || (kind == "is_else" && *inner == Node::Bool(true));
                if is_kind || is_part {
                    used.constructs.insert(kind.clone());
                }
                match kind.as_str() {
                    "Call" => drop(used.builtins.insert(written(&inner["fcn"], text)?)),
                    "with_mods" => {
                        for with in inner.as_array().into_iter().flatten() {
                            replaced.insert(written(&with["refr"], text)?);
                        }
                    }
                    // Rules with names of several parts.
                    "head" => {
                        let head =
                            inner.as_object().and_then(|head| head.values().next()).context("a head of nothing")?;
                        let parts = head["refr"].as_object().into_iter().flat_map(|name| name.keys());
                        used.constructs.extend(parts.map(|kind| format!("{kind} as a head")));
                    }
                    _ => {}
                }
                collect(inner, text, used, replaced)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// An expression as it is written.
fn written(expression: &Node, text: &str) -> Result<String> {
    let node = expression.as_object().and_then(|node| node.values().next()).context("an empty expression")?;
    let (start, end) = source::span_of(&node["span"])?;
    Ok(text.get(start..end).unwrap_or_default().to_string())
}

/// What a case needs; nothing for one that is not about modules, or about modules that must be refused.
fn needs_of(case: &Node) -> Option<Used> {
    let source = |text: String| Source { path: "case.rego".into(), text };
    let modules = case["modules"].as_array()?.iter().map(|text| Some(source(text.as_str()?.to_string())));
    let mut modules: Vec<_> = modules.collect::<Option<_>>()?;
    modules.push(source(format!("package question\n\nquestion if {{ {} }}\n", case["query"].as_str()?)));
    used(modules.iter()).ok()
}

/// Asks a case's question and compares the answer.
fn try_out(case: &Node) -> Result<()> {
    let query = case["query"].as_str().context("a case without a query")?;
    let answer = catch_unwind(AssertUnwindSafe(|| ask(case, query)));
    let answer = answer.map_err(|_| anyhow::anyhow!("the engine panicked"))?;
    let wants_error = ["want_error", "want_error_code"].iter().any(|key| case[*key].is_string());
    match (answer, case.get("want_result")) {
        (Err(_), _) if wants_error => Ok(()),
        (Ok(found), _) if wants_error => bail!("gives {found:?} instead of an error"),
        (Err(error), _) => Err(error),
        (Ok(found), Some(wanted)) => {
            let wanted: BTreeSet<Value> = match wanted {
                Node::Null => BTreeSet::new(),
                wanted => {
                    let answers = wanted.as_array().context("want_result is no list")?;
                    answers.iter().map(|answer| Value::from_json_str(&answer.to_string())).collect::<Result<_>>()?
                }
            };
            if found != wanted {
                bail!("gives {found:?} instead of {wanted:?}");
            }
            Ok(())
        }
        (Ok(found), None) => {
            let defined = case["want_defined"].as_bool().context("a case that wants nothing")?;
            if defined == found.is_empty() {
                bail!("is {}defined", if defined { "un" } else { "" });
            }
            Ok(())
        }
    }
}

/// The bindings of every answer, in the published form: sets are sorted lists there.
fn ask(case: &Node, query: &str) -> Result<BTreeSet<Value>> {
    let mut engine = Engine::new();
    engine.set_strict_builtin_errors(case["strict_error"] == Node::Bool(true));
    for (index, module) in case["modules"].as_array().into_iter().flatten().enumerate() {
        engine.add_policy(format!("{index}.rego"), module.as_str().unwrap_or_default().to_string())?;
    }
    if !case["data"].is_null() {
        engine.add_data_json(&case["data"].to_string())?;
    }
    if let Some(term) = case["input_term"].as_str() {
        let read = Engine::new().eval_query(format!("x = {term}"), false)?;
        let bindings = read.result.first().context("the input is no term")?;
        engine.set_input(bindings.bindings["x"].clone());
    } else if case.get("input").is_some() {
        engine.set_input_json(&case["input"].to_string())?;
    }
    let answers = engine.eval_query(query.to_string(), false)?;
    let plain = |value: &Value| Value::from_json_str(&value.to_json_str()?);
    answers
        .result
        .iter()
        .filter(|answer| answer.expressions.iter().all(|expression| expression.value != Value::Bool(false)))
        .map(|answer| plain(&answer.bindings))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source { path: "p.rego".into(), text: text.into() }
    }

    #[test]
    fn what_policies_use_is_read_from_them() {
        let text = "package main\n\nallow if {\n\tnot helper(input.x)\n\tevery v in input.list { is_number(v) }\n\tobject.keys(input) == {\"a\"}\n}\n\nhelper(x) if startswith(x, \"a\")\n";
        let used = used([source(text)].iter()).unwrap();
        assert_eq!(
            used.builtins.iter().map(String::as_str).collect::<Vec<_>>(),
            ["is_number", "object.keys", "startswith"]
        );
        for construct in ["NotExpr", "Every", "BoolExpr", "Func", "Set"] {
            assert!(used.constructs.contains(construct), "{construct}: {:?}", used.constructs);
        }
        assert!(!used.constructs.contains("is_else") && !used.constructs.contains("with_mods"));
    }

    #[test]
    fn a_case_that_gives_another_result_fails() {
        let case = |want: Node| {
            serde_json::json!({
                "modules": ["package test\n\np contains x if { some x in input.list; x > 1 }\n"],
                "query": "data.test.p = x", "input": {"list": [1, 2, 3]}, "want_result": want,
            })
        };
        try_out(&case(serde_json::json!([{"x": [2, 3]}]))).unwrap();
        assert!(try_out(&case(serde_json::json!([{"x": [1, 2, 3]}]))).is_err());
        assert!(try_out(&case(Node::Null)).is_err());
    }

    /// What the policies rely on, for where the published cases are not at hand.
    #[test]
    fn the_semantics_that_the_policies_rely_on() {
        for (expression, wanted) in [
            ("is_number(\"1\")", "false"),
            ("is_number(null)", "false"),
            ("is_string(1)", "false"),
            ("is_object([])", "false"),
            ("\"a\" > 1e308", "true"),
            ("[] > \"z\"", "true"),
            ("null < 0", "true"),
            ("true < 0", "true"),
            ("1 == 1.0", "true"),
            ("floor(-0.5)", "-1"),
            ("floor(2)", "2"),
            ("round(9275.0000001)", "9275"),
            ("count({1, 1, 2})", "2"),
            ("object.keys({\"a\": 1, \"b\": 2}) == {\"b\", \"a\"}", "true"),
            ("startswith(\"UnsupportedImageError: x\", \"UnsupportedImageError\")", "true"),
            ("sprintf(\"%v%%\", [12.5])", "\"12.5%\""),
            ("sprintf(\"%v\", [null])", "\"null\""),
            ("\"a\" in {\"a\", \"b\"}", "true"),
        ] {
            let text = format!("package t\n\nx := y if y := ({expression})\n");
            let mut engine = Engine::new();
            engine.set_strict_builtin_errors(true);
            engine.add_policy("t.rego".into(), text).unwrap();
            let found = engine.eval_rule("data.t.x".into()).unwrap();
            assert_eq!(found, Value::from_json_str(wanted).unwrap(), "{expression}");
        }
        let vacuous =
            "package t\n\nx if { every v in [] { v > 1 } }\n\ny if not input.absent > 1\n\nz if input.absent > 1\n";
        for (rule, wanted) in [("x", Value::Bool(true)), ("y", Value::Bool(true)), ("z", Value::Undefined)] {
            let mut engine = Engine::new();
            engine.add_policy("t.rego".into(), vacuous.into()).unwrap();
            assert_eq!(engine.eval_rule(format!("data.t.{rule}")).unwrap(), wanted, "{rule}");
        }
    }
}
