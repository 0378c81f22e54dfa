//! The verdict for people and for other programs: a table, a JUnit report, annotations and a summary in Markdown.
//!
//! Pure functions of gate.json's content, as [`crate::sarif`] is.

use std::fmt::Write as _;

use crate::config::OnFailure;
use crate::github;
use crate::policy::{Level, Message, Outcome, RuleOutcome};
use crate::stages::gate::Content;

/// What became of a policy set.
pub fn word(outcome: &Outcome) -> &'static str {
    match (outcome.denials.is_empty(), outcome.on_failure) {
        (true, _) if outcome.waived().any(|(rule, ..)| rule.level == Level::Deny) => "passed, with what was waived",
        (true, _) => "passed",
        (false, OnFailure::Warn) => "failed, warning only",
        (false, OnFailure::Error) => "denied",
    }
}

/// What one message of a rule does.
fn effect(outcome: &Outcome, rule: &RuleOutcome, message: &Message) -> &'static str {
    match (&message.waived, rule.level, outcome.on_failure) {
        (Some(_), ..) => "waived",
        (None, Level::Warn, _) | (None, _, OnFailure::Warn) => "warning",
        (None, ..) => "denied",
    }
}

/// The message with who waived it, if somebody did.
fn text_of(message: &Message) -> String {
    match &message.waived {
        None => message.text.clone(),
        Some(waived) => {
            format!("{} (waived by {} until {}: {})", message.text, waived.owner, waived.expires, waived.reason)
        }
    }
}

/// One row of the verdict: effect, id of the rule, and what it says.
pub struct Row<'a> {
    pub effect: &'static str,
    pub id: &'a str,
    place: Option<(&'a str, usize)>,
    pub text: String,
}

/// Everything that has something to say, and every rule that has not.
pub fn rows(content: &Content) -> Vec<Row<'_>> {
    let remark = |effect, id, text: &String| Row { effect, id, place: None, text: text.clone() };
    let mut rows: Vec<_> = content.evidence.iter().map(|text| remark("denied", "gate.evidence", text)).collect();
    rows.extend(content.waivers.expired.iter().map(|text| remark("denied", "gate.waiver-expired", text)));
    rows.extend(content.waivers.unused.iter().map(|text| remark("warning", "gate.waiver-unused", text)));
    for outcome in &content.outcomes {
        for rule in &outcome.rules {
            let place = Some((rule.path.as_str(), rule.line));
            if rule.messages.is_empty() {
                rows.push(Row { effect: "passed", id: &rule.id, place, text: rule.title.clone() });
            }
            rows.extend(rule.messages.iter().map(|message| Row {
                effect: effect(outcome, rule, message),
                id: &rule.id,
                place,
                text: text_of(message),
            }));
        }
    }
    rows
}

/// A table for the terminal.
pub fn table(content: &Content) -> String {
    let rows = rows(content);
    let width = rows.iter().map(|row| row.id.len()).max().unwrap_or_default();
    let mut text = String::new();
    for row in rows {
        let said = row.text.replace(char::is_control, " ");
        let _ = writeln!(text, "{:<8} {:<width$}  {said}", row.effect, row.id);
    }
    let _ = writeln!(text, "verdict  {} for model {}", content.verdict.name(), content.model);
    text
}

/// Annotations of GitHub Actions, a line each; silent about what passed.
pub fn annotations(content: &Content) -> String {
    let mut text = String::new();
    for row in rows(content) {
        let level = match row.effect {
            "denied" => "error",
            "warning" => "warning",
            "waived" => "notice",
            _ => continue,
        };
        let _ = writeln!(text, "{}", github::annotation(level, row.id, row.place, &row.text));
    }
    text
}

/// The step's summary.
pub fn markdown(content: &Content) -> String {
    let cell = |text: &str| text.replace('|', "\\|").replace(['\n', '\r'], " ");
    let mut rows = String::new();
    for text in content.evidence.iter().chain(&content.waivers.expired) {
        let _ = writeln!(rows, "| evidence | denied | {} |", cell(text));
    }
    for text in &content.waivers.unused {
        let _ = writeln!(rows, "| waivers | warning | {} |", cell(text));
    }
    for outcome in &content.outcomes {
        let mut said: Vec<_> = outcome.denials.iter().chain(&outcome.warnings).map(|text| cell(text)).collect();
        said.extend(outcome.waived().map(|(rule, text, waived)| {
            format!("waived by {} until {}: {}: {}", cell(&waived.owner), waived.expires, rule.id, cell(text))
        }));
        let _ = writeln!(rows, "| {} | {} | {} |", outcome.policy_set, word(outcome), said.join("<br>"));
    }
    format!(
        "### Gate: {}\n\nmodel `{}`, image `{}`\n\n| policy set | result | messages |\n|---|---|---|\n{rows}",
        content.verdict.name(),
        content.model,
        content.image
    )
}

/// A suite for the evidence and for each policy set, a case for each rule: a denial is a failure, what only warns or was waived
/// is skipped with its message.
pub fn junit(environment: &str, content: &Content) -> String {
    let mut suites = vec![suite(
        "evidence",
        [
            case("gate.evidence", "Evidence is there, whole and of the same bytes", &denials(&content.evidence)),
            case("gate.waiver-expired", "No waiver has expired", &denials(&content.waivers.expired)),
        ],
    )];
    for outcome in &content.outcomes {
        let cases = outcome.rules.iter().map(|rule| {
            let messages = rule.messages.iter().map(|message| (effect(outcome, rule, message), text_of(message)));
            case(&rule.id, &rule.title, &messages.collect::<Vec<_>>())
        });
        suites.push(suite(&outcome.policy_set, cases));
    }
    let body: String = suites.concat();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"gate {}\">\n{body}</testsuites>\n",
        xml(environment)
    )
}

fn denials(texts: &[String]) -> Vec<(&'static str, String)> {
    texts.iter().map(|text| ("denied", text.clone())).collect()
}

/// A case, its number of failures and whether it was skipped.
struct Case {
    xml: String,
    failed: bool,
    skipped: bool,
}

fn case(id: &str, title: &str, messages: &[(&'static str, String)]) -> Case {
    let (failures, others): (Vec<_>, Vec<_>) = messages.iter().partition(|(effect, _)| *effect == "denied");
    let joined = |messages: &[&(&'static str, String)]| {
        messages.iter().map(|(effect, text)| format!("{effect}: {text}")).collect::<Vec<_>>().join("; ")
    };
    let (failed, skipped) = (!failures.is_empty(), failures.is_empty() && !others.is_empty());
    let inside = match (failed, skipped) {
        (true, _) => format!("<failure message=\"{}\"/>", xml(&joined(&failures))),
        (_, true) => format!("<skipped message=\"{}\"/>", xml(&joined(&others))),
        _ => String::new(),
    };
    Case {
        xml: format!("    <testcase classname=\"{}\" name=\"{}\">{inside}</testcase>\n", xml(id), xml(title)),
        failed,
        skipped,
    }
}

fn suite(name: &str, cases: impl IntoIterator<Item = Case>) -> String {
    let (mut text, mut tests, mut failures, mut skipped) = (String::new(), 0, 0, 0);
    for case in cases {
        tests += 1;
        failures += usize::from(case.failed);
        skipped += usize::from(case.skipped);
        text.push_str(&case.xml);
    }
    let name = xml(name);
    format!(
        "  <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failures}\" skipped=\"{skipped}\" errors=\"0\">\n{text}  </testsuite>\n"
    )
}

/// Text for an attribute; what XML 1.0 has no place for becomes a question mark.
fn xml(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('?'),
            letter if letter.is_control() && letter != '\t' => escaped.push('?'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
pub mod tests {
    use chrono::NaiveDate;
    use serde_json::Value;

    use super::*;
    use crate::policy::PolicyFile;
    use crate::stages::gate::Verdict;
    use crate::waivers::{Remarks, Waived};

    /// A rule and what it says.
    pub fn rule(id: &str, level: Level, texts: &[&str]) -> RuleOutcome {
        RuleOutcome {
            id: id.into(),
            title: format!("Title of {id}"),
            description: String::new(),
            level,
            path: "policies/p.rego".into(),
            line: 7,
            messages: texts.iter().map(|text| Message { text: text.to_string(), waived: None }).collect(),
        }
    }

    /// A policy set that said this.
    pub fn outcome(name: &str, on_failure: OnFailure, rules: Vec<RuleOutcome>) -> Outcome {
        let mut outcome = Outcome {
            policy_set: name.into(),
            package: "main".into(),
            on_failure,
            policies: vec![PolicyFile { path: "policies/p.rego".into(), digest: "sha256:0".into() }],
            denials: Vec::new(),
            warnings: Vec::new(),
            rules,
        };
        outcome.sum_up();
        outcome
    }

    /// A verdict on this.
    pub fn content(evidence: &[&str], outcomes: Vec<Outcome>) -> Content {
        Content {
            verdict: Verdict::Deny,
            model: "sha256:m".into(),
            image: "sha256:i".into(),
            evidence: evidence.iter().map(ToString::to_string).collect(),
            outcomes,
            waivers: Remarks::default(),
            input: Value::Null,
        }
    }

    fn everything() -> Content {
        let mut waived = rule("main.late", Level::Deny, &["too late"]);
        let expires = NaiveDate::from_ymd_opt(2026, 12, 31).unwrap();
        waived.messages[0].waived = Some(Waived { owner: "Ann".into(), reason: "known".into(), expires });
        let mut content = content(
            &["test.json is missing"],
            vec![
                outcome(
                    "model",
                    OnFailure::Error,
                    vec![
                        rule("main.low", Level::Deny, &["<too> \"low\" & so\non\u{1}"]),
                        waived,
                        rule("main.fine", Level::Deny, &[]),
                        rule("main.close", Level::Warn, &["close"]),
                    ],
                ),
                outcome("strict", OnFailure::Warn, vec![rule("strict.low", Level::Deny, &["too low"])]),
            ],
        );
        content.waivers.unused.push("not needed".into());
        content
    }

    #[test]
    fn the_table_has_a_row_for_every_message_and_every_rule() {
        let table = table(&everything());
        let firsts: Vec<_> = table.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>()).collect();
        assert_eq!(
            firsts,
            [
                ["denied", "gate.evidence"],
                ["warning", "gate.waiver-unused"],
                ["denied", "main.low"],
                ["waived", "main.late"],
                ["passed", "main.fine"],
                ["warning", "main.close"],
                ["warning", "strict.low"],
                ["verdict", "deny"],
            ]
        );
        assert!(table.contains("too late (waived by Ann until 2026-12-31: known)"));
    }

    #[test]
    fn the_test_report_is_read_by_others_and_counts_the_same() {
        let report = junit_parser::from_reader(junit("local", &everything()).as_bytes()).unwrap();
        let seen: Vec<_> = report
            .suites
            .iter()
            .map(|suite| {
                let failed = suite.cases.iter().filter(|case| case.status.is_failure()).count();
                let skipped = suite.cases.iter().filter(|case| case.status.is_skipped()).count();
                assert_eq!((suite.failures, suite.skipped), (failed as u64, skipped as u64));
                (suite.name.as_str(), suite.cases.len(), failed, skipped)
            })
            .collect();
        assert_eq!(seen, [("evidence", 2, 1, 0), ("model", 4, 1, 2), ("strict", 1, 0, 1)]);
    }

    #[test]
    fn annotations_point_at_the_rule() {
        let text = annotations(&everything());
        assert!(text.contains("::error file=policies/p.rego,line=7,title=main.low::<too>"), "{text}");
        assert!(text.contains("::notice file=policies/p.rego,line=7,title=main.late::too late"), "{text}");
        assert!(text.contains("::warning file=policies/p.rego,line=7,title=strict.low::too low"), "{text}");
        assert_eq!(text.lines().count(), 6);
    }

    #[test]
    fn a_policy_set_passes_with_what_was_waived() {
        assert_eq!(word(&outcome("s", OnFailure::Error, vec![rule("a", Level::Deny, &[])])), "passed");
        let mut content = everything();
        content.outcomes[0].rules.remove(0);
        content.outcomes[0].sum_up();
        assert_eq!(word(&content.outcomes[0]), "passed, with what was waived");
        assert!(markdown(&content).contains("waived by Ann until 2026-12-31: main.late: too late"));
    }
}
