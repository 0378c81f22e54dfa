//! Policy files as they are written: which rules they have, where, and what their `METADATA` annotations say of them.
//!
//! The rules come from the interpreter's own syntax tree, so that nothing here has an opinion of its own about Rego.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use regorus::Engine;
use serde_json::Value;

/// A policy file.
#[derive(Debug, Clone)]
pub struct Source {
    /// Relative to the root of the clone.
    pub path: String,
    pub text: String,
}

/// A rule of a policy, one of perhaps several definitions of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub package: String,
    pub name: String,
    pub path: String,
    /// Line of its head, from 1.
    pub line: usize,
    /// Bytes of the file that it takes, head and bodies.
    pub span: (usize, usize),
    pub annotations: Annotations,
}

/// What stands in the `METADATA` block above a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    pub id: Option<String>,
    pub title: Option<String>,
    pub description: Option<String>,
}

/// What a rule means for the verdict, by the names that conftest uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `deny`, `violation`, `deny_…`, `violation_…`.
    Deny,
    /// `warn`, `warn_…`.
    Warn,
}

impl Rule {
    /// Whether the rule objects to something; none for a rule that only helps others.
    pub fn kind(&self) -> Option<Kind> {
        let is = |name: &str| self.name == name || self.name.starts_with(&format!("{name}_"));
        match () {
            () if is("deny") || is("violation") => Some(Kind::Deny),
            () if is("warn") => Some(Kind::Warn),
            () => None,
        }
    }
}

/// The package and the rules of a file, with the syntax tree that they come from.
pub struct Parsed {
    pub package: String,
    pub rules: Vec<Rule>,
    pub tree: Value,
}

/// Reads a file's rules.
///
/// # Errors
/// It is not Rego v1, or an annotation cannot be read.
pub fn parse(source: &Source) -> Result<Parsed> {
    let mut engine = Engine::new();
    let package = engine
        .add_policy(source.path.clone(), source.text.clone())
        .with_context(|| format!("understand {}", source.path))?;
    let package = package.strip_prefix("data.").unwrap_or(&package).to_string();
    let trees: Value = serde_json::from_str(&engine.get_ast_as_json()?).context("read the syntax tree")?;
    let tree = trees[0]["ast"].clone();
    let annotations = annotations(source)?;
    let mut rules = Vec::new();
    for rule in tree["rules"].as_array().into_iter().flatten() {
        let body = rule.get("Spec").or_else(|| rule.get("Default")).context("a rule of an unknown form")?;
        let (start, end) = span_of(&body["span"])?;
        let head = match body["head"].as_object().and_then(|head| head.values().next()) {
            Some(head) => &head["refr"],
            None => &body["refr"],
        };
        let (name_start, name_end) = span_of(innermost_span(head).context("a rule without a name")?)?;
        let line = 1 + source.text[..start].matches('\n').count();
        rules.push(Rule {
            package: package.clone(),
            name: source.text.get(name_start..name_end).unwrap_or_default().to_string(),
            path: source.path.clone(),
            line,
            span: (start, end),
            annotations: annotations.get(&line).cloned().unwrap_or_default(),
        });
    }
    Ok(Parsed { package, rules, tree })
}

/// Start and end of a node, in bytes.
pub fn span_of(span: &Value) -> Result<(usize, usize)> {
    let number = |name: &str| span[name].as_u64().and_then(|number| usize::try_from(number).ok());
    number("start").zip(number("end")).context("a node of the syntax tree has no place")
}

/// The place of a reference's first name: `p` of `p[x].y`.
fn innermost_span(reference: &Value) -> Option<&Value> {
    let (kind, node) = reference.as_object()?.iter().next()?;
    match kind.as_str() {
        "RefDot" | "RefBrack" => innermost_span(&node["refr"]),
        _ => Some(&node["span"]),
    }
}

/// The annotations of a file, by the line of what they stand above.
///
/// Of YAML only what the policies need: `key: value`, `key: |` with indented lines, and `custom:` with keys below it.
fn annotations(source: &Source) -> Result<BTreeMap<usize, Annotations>> {
    let lines: Vec<_> = source.text.lines().collect();
    let mut found = BTreeMap::new();
    let mut number = 0;
    while number < lines.len() {
        if lines[number].trim_end() != "# METADATA" {
            number += 1;
            continue;
        }
        number += 1;
        let block: Vec<_> = lines[number..].iter().map_while(|line| line.strip_prefix('#')).collect();
        number += block.len();
        let annotated = block_of(&block).with_context(|| format!("the annotation in {} line {number}", source.path))?;
        found.insert(number + 1, annotated);
    }
    Ok(found)
}

fn block_of(lines: &[&str]) -> Result<Annotations> {
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut parent = None;
    let mut key = String::new();
    for line in lines {
        let line = line.strip_prefix(' ').unwrap_or(line);
        let indented = line.starts_with(' ');
        match line.trim().split_once(':') {
            Some((name, rest)) if is_key(name) && (!indented || parent.is_some()) => {
                let rest = rest.trim();
                if !indented {
                    parent = (rest.is_empty()).then(|| name.to_string());
                }
                key = match &parent {
                    Some(parent) if indented => format!("{parent}.{name}"),
                    _ => name.to_string(),
                };
                let text = if rest == "|" { "" } else { rest.trim_matches('"') };
                if values.insert(key.clone(), text.to_string()).is_some() {
                    bail!("`{key}` is given twice");
                }
            }
            _ if indented && !key.is_empty() => {
                let text = values.entry(key.clone()).or_default();
                if !text.is_empty() {
                    text.push(' ');
                }
                text.push_str(line.trim());
            }
            _ if line.trim().is_empty() => {}
            _ => bail!("`{}` is no `key: value`", line.trim()),
        }
    }
    let mut take = |name: &str| values.remove(name).filter(|text| !text.is_empty());
    Ok(Annotations { id: take("custom.id"), title: take("title"), description: take("description") })
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source { path: "p.rego".into(), text: text.into() }
    }

    #[test]
    fn rules_are_found_with_their_annotations_and_places() {
        let text = "# METADATA\n# title: All\npackage a.b\n\n# METADATA\n# title: Too low\n# description: |\n#   A number\n#   it must be.\n\
                    # custom:\n#   id: a.low\ndeny contains \"x\" if {\n\tinput.x < 1\n}\n\ndefault allow := false\n\nwarn_old[message] := 1 if message := 2\n\nf(x) := x\n";
        let parsed = parse(&source(text)).unwrap();
        assert_eq!(parsed.package, "a.b");
        let seen: Vec<_> = parsed.rules.iter().map(|rule| (rule.name.as_str(), rule.line, rule.kind())).collect();
        assert_eq!(
            seen,
            [("deny", 12, Some(Kind::Deny)), ("allow", 16, None), ("warn_old", 18, Some(Kind::Warn)), ("f", 20, None)]
        );
        let deny = &parsed.rules[0];
        assert_eq!(&text[deny.span.0..deny.span.1], "deny contains \"x\" if {\n\tinput.x < 1\n}");
        let wanted = Annotations {
            id: Some("a.low".into()),
            title: Some("Too low".into()),
            description: Some("A number it must be.".into()),
        };
        assert_eq!(deny.annotations, wanted);
        assert_eq!(parsed.rules[1].annotations, Annotations::default());
    }

    #[test]
    fn an_annotation_that_cannot_be_read_is_an_error() {
        for block in ["# nonsense", "# title: a\n# title: b"] {
            let text = format!("package a\n\n# METADATA\n{block}\ndeny contains \"x\" if false\n");
            let error = format!("{:#}", parse(&source(&text)).err().unwrap());
            assert!(error.contains("the annotation in p.rego"), "{error}");
        }
    }
}
