//! SARIF 2.1.0: the gate's verdict in the form that GitHub's code scanning and other viewers read.
//!
//! A pure function of gate.json's content. A denial is a result at the policy that gave it; no result means that nothing
//! was said, and closes the alerts of an earlier run.

use serde_json::{Value, json};

use crate::config::OnFailure;
use crate::digest;
use crate::policy::{Level, RuleOutcome};
use crate::stages::gate::Content;

/// A rule of the log, and the place that its results point at.
struct Rule<'a> {
    index: usize,
    id: &'a str,
    path: &'a str,
    line: usize,
}

/// The gate's answer as a SARIF log with one run.
pub fn of_gate(environment: &str, content: &Content) -> Value {
    let mut rules = Vec::new();
    let mut results = Vec::new();
    // What belongs to no policy points at the configuration.
    let own = [
        ("gate.evidence", "Evidence is there, whole and of the same bytes", "error", &content.evidence),
        ("gate.waiver-expired", "No waiver has expired", "error", &content.waivers.expired),
        ("gate.waiver-unused", "Every waiver is needed", "warning", &content.waivers.unused),
    ];
    for (id, title, level, texts) in own {
        let rule = Rule { index: rules.len(), id, path: "pipeline.toml", line: 1 };
        rules.push(described(id, title, "", level));
        results.extend(texts.iter().map(|text| result(&rule, level, text)));
    }
    for outcome in &content.outcomes {
        for said in &outcome.rules {
            let level = level_of(said, outcome.on_failure);
            let rule = Rule { index: rules.len(), id: &said.id, path: &said.path, line: said.line };
            rules.push(described(&said.id, &said.title, &said.description, level));
            for message in &said.messages {
                let mut result = result(&rule, level, &message.text);
                if let Some(waived) = &message.waived {
                    let justification = format!("{}, {}, until {}", waived.reason, waived.owner, waived.expires);
                    result["suppressions"] =
                        json!([{"kind": "external", "status": "accepted", "justification": justification}]);
                }
                results.push(result);
            }
        }
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

fn level_of(rule: &RuleOutcome, on_failure: OnFailure) -> &'static str {
    match (rule.level, on_failure) {
        (Level::Warn, _) | (_, OnFailure::Warn) => "warning",
        _ => "error",
    }
}

fn described(id: &str, title: &str, description: &str, level: &str) -> Value {
    let mut rule = json!({
        "id": id,
        "shortDescription": {"text": title},
        "defaultConfiguration": {"level": level},
    });
    if !description.is_empty() {
        rule["fullDescription"] = json!({"text": description});
    }
    rule
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
            "artifactLocation": {"uri": rule.path, "uriBaseId": "%SRCROOT%"},
            "region": {"startLine": rule.line},
        }}],
        "partialFingerprints": {"primaryLocationLineHash": format!("{}:1", digest::short(&fingerprint))},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict_output::tests::{content, outcome, rule};
    use crate::waivers::Waived;

    fn log(content: &Content) -> Value {
        of_gate("preprod", content)["runs"][0].clone()
    }

    #[test]
    fn every_message_is_one_result_of_its_rule() {
        let mut waived = rule("main.late", Level::Deny, &["too late"]);
        waived.messages[0].waived =
            Some(Waived { owner: "Ann".into(), reason: "known".into(), expires: "2026-12-31".parse().unwrap() });
        let rules =
            vec![rule("main.low", Level::Deny, &["too low"]), rule("main.close", Level::Warn, &["close"]), waived];
        let strict = vec![rule("strict.low", Level::Deny, &["too low"])];
        let outcomes = vec![outcome("model", OnFailure::Error, rules), outcome("strict", OnFailure::Warn, strict)];
        let run = log(&content(&["test.json is missing"], outcomes));
        let results = run["results"].as_array().unwrap();
        let seen: Vec<_> = results
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
                ["gate.evidence", "error", "test.json is missing", "pipeline.toml"],
                ["main.low", "error", "too low", "policies/p.rego"],
                ["main.close", "warning", "close", "policies/p.rego"],
                ["main.late", "error", "too late", "policies/p.rego"],
                ["strict.low", "warning", "too low", "policies/p.rego"],
            ]
        );
        assert_eq!(results[1]["locations"][0]["physicalLocation"]["region"]["startLine"], 7);
        assert!(results[3]["suppressions"][0]["justification"].as_str().unwrap().contains("Ann"));
        assert!(results[1].get("suppressions").is_none());
        let prints: std::collections::BTreeSet<_> =
            results.iter().map(|result| result["partialFingerprints"]["primaryLocationLineHash"].as_str()).collect();
        assert_eq!(prints.len(), 5, "findings of different rules are different findings");
    }

    #[test]
    fn nothing_said_is_a_log_without_results() {
        let run =
            log(&content(&[], vec![outcome("model", OnFailure::Error, vec![rule("main.low", Level::Deny, &[])])]));
        assert_eq!(run["results"], json!([]));
        assert_eq!(run["tool"]["driver"]["rules"].as_array().unwrap().len(), 4);
    }
}
