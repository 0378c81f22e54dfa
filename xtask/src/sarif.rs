//! SARIF 2.1.0: the gate's verdict in the form that GitHub's code scanning and other viewers read.
//!
//! A pure function of gate.json's content. A denial is a result at the policy that gave it; no result means that nothing
//! was said, and closes the alerts of an earlier run.

use serde_json::{Value, json};

use crate::config::OnFailure;
use crate::digest;
use crate::stages::gate::Content;

/// Evidence that could not be used belongs to no policy; what names the evidence is the configuration.
const EVIDENCE: Rule = Rule { index: 0, id: "evidence", place: "pipeline.toml" };

/// A rule of the log, and the file that its results point at.
struct Rule<'a> {
    index: usize,
    id: &'a str,
    place: &'a str,
}

/// The gate's answer as a SARIF log with one run.
pub fn of_gate(environment: &str, content: &Content) -> Value {
    let mut rules = vec![json!({
        "id": EVIDENCE.id,
        "shortDescription": {"text": "Evidence is there, whole and of the same bytes"},
        "defaultConfiguration": {"level": "error"},
    })];
    let mut results: Vec<_> = content.evidence.iter().map(|text| result(&EVIDENCE, "error", text)).collect();
    for outcome in &content.outcomes {
        let level = match outcome.on_failure {
            OnFailure::Error => "error",
            OnFailure::Warn => "warning",
        };
        let place = outcome.policies.first().map_or(EVIDENCE.place, |policy| policy.path.as_str());
        let rule = Rule { index: rules.len(), id: &outcome.policy_set, place };
        rules.push(json!({
            "id": rule.id,
            "shortDescription": {"text": format!("Rules of package `{}`", outcome.package)},
            "defaultConfiguration": {"level": level},
        }));
        results.extend(outcome.denials.iter().map(|text| result(&rule, level, text)));
        results.extend(outcome.warnings.iter().map(|text| result(&rule, "warning", text)));
    }
    json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "cargo xtask gate",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "automationDetails": {"id": format!("gate/{environment}/")},
            "results": results,
            "properties": {
                "verdict": content.verdict.name(), "model": content.model, "image": content.image,
            },
        }],
    })
}

fn result(rule: &Rule, level: &str, text: &str) -> Value {
    // Tells the same finding of two runs from a new one: GitHub compares nothing else.
    let fingerprint = digest::of_bytes(format!("{}\n{text}", rule.id).as_bytes());
    json!({
        "ruleId": rule.id,
        "ruleIndex": rule.index,
        "level": level,
        "message": {"text": text},
        "locations": [{"physicalLocation": {
            "artifactLocation": {"uri": rule.place, "uriBaseId": "%SRCROOT%"},
            "region": {"startLine": 1},
        }}],
        "partialFingerprints": {"primaryLocationLineHash": format!("{}:1", digest::short(&fingerprint))},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Outcome, PolicyFile};
    use crate::stages::gate::Verdict;

    fn outcome(name: &str, on_failure: OnFailure, denials: &[&str], warnings: &[&str]) -> Outcome {
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        Outcome {
            policy_set: name.into(),
            package: "main".into(),
            on_failure,
            policies: vec![PolicyFile { path: format!("policies/{name}.rego"), digest: "sha256:0".into() }],
            denials: texts(denials),
            warnings: texts(warnings),
        }
    }

    fn log(evidence: &[&str], outcomes: Vec<Outcome>) -> Value {
        of_gate(
            "preprod",
            &Content {
                verdict: Verdict::Deny,
                model: "sha256:m".into(),
                image: "sha256:i".into(),
                evidence: evidence.iter().map(ToString::to_string).collect(),
                outcomes,
                input: Value::Null,
            },
        )["runs"][0]
            .clone()
    }

    #[test]
    fn every_message_is_one_result_of_its_rule() {
        let run = log(
            &["test.json is missing"],
            vec![
                outcome("model", OnFailure::Error, &["too low"], &["close"]),
                outcome("strict", OnFailure::Warn, &["too low"], &[]),
            ],
        );
        let seen: Vec<_> = run["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|result| {
                let rule = &run["tool"]["driver"]["rules"][result["ruleIndex"].as_u64().unwrap() as usize];
                assert_eq!(rule["id"], result["ruleId"]);
                let place = &result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
                [&rule["id"], &result["level"], &result["message"]["text"], place].map(|text| text.as_str().unwrap())
            })
            .collect();
        assert_eq!(
            seen,
            [
                ["evidence", "error", "test.json is missing", "pipeline.toml"],
                ["model", "error", "too low", "policies/model.rego"],
                ["model", "warning", "close", "policies/model.rego"],
                ["strict", "warning", "too low", "policies/strict.rego"],
            ]
        );
        let prints: std::collections::BTreeSet<_> = run["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|result| result["partialFingerprints"]["primaryLocationLineHash"].as_str().unwrap())
            .collect();
        assert_eq!(prints.len(), 4, "findings of different rules are different findings");
    }

    #[test]
    fn nothing_said_is_a_log_without_results() {
        let run = log(&[], vec![outcome("model", OnFailure::Error, &[], &[])]);
        assert_eq!(run["results"], json!([]));
        assert_eq!(run["tool"]["driver"]["rules"].as_array().unwrap().len(), 2);
    }
}
