//! What the gate lets through, and how good the policies' tests are.
//!
//! A million inputs, most of them broken in one to four places, are judged by the policies of pipeline.toml and by an oracle
//! that is written in Rust and knows nothing of them: an input is good only if each required field is proven. Every mutant of
//! every policy is given to the policy's own tests.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Map, Number, Value, json};

use super::{Figure, Measured, Options};
use crate::config;
use crate::policy::source::Source;
use crate::policy::suite::Suite;
use crate::policy::{Judge, Level};
use crate::terminal::note;

/// Judged inputs.
const INPUTS: usize = 1_000_000;
/// Judged inputs of a quick run, and one of so many mutants.
const QUICK: (usize, usize) = (20_000, 10);

/// Judges inputs and mutants.
///
/// # Errors
/// A policy set has no oracle, or cannot be asked.
pub fn measure(root: &Path, options: &Options) -> Result<Measured> {
    let suite = Suite::read(&root.join("policies"))?;
    let (inputs, apart) = if options.quick { QUICK } else { (INPUTS, 1) };
    let only = |part: &str| options.only.as_deref().is_none_or(|only| only == part);
    let inputs = if only("inputs") { inputs } else { 0 };
    let mut mutants: Vec<_> = suite.mutants()?.into_iter().step_by(apart).collect();
    if !only("mutants") {
        mutants.clear();
    }
    let (alive, born) = suite.alive(mutants)?;
    let fuzzed = fuzz(root, inputs)?;
    let (lines, missed) = suite.coverage()?;
    let mut failures = fuzzed.wrong.clone();
    failures.extend(
        fuzzed.unopposed.iter().map(|package| format!("nobody holds the package `{package}` against an oracle")),
    );
    failures.extend(alive.iter().map(|mutant| format!("the tests do not notice: {mutant}")));
    failures.extend(missed.iter().map(|line| format!("no test reaches {line}")));
    let figures = vec![
        Figure::new("inputs", inputs as f64, "inputs"),
        Figure::new("good_inputs", fuzzed.good as f64, "inputs"),
        Figure::new("false_allows", fuzzed.false_allows as f64, "inputs"),
        Figure::new("false_denials", fuzzed.false_denials as f64, "inputs"),
        Figure::new("policy_mutants", born as f64, "mutants"),
        Figure::new("policy_mutants_killed", (born - alive.len()) as f64, "mutants"),
        Figure::new("policy_lines", (lines + missed.len()) as f64, "lines"),
        Figure::new("policy_lines_tested", lines as f64, "lines"),
        Figure::new("cost", fuzzed.spent.as_secs_f64() * 1e6 / inputs.max(1) as f64, "us per input"),
    ];
    Ok(Measured { figures, failures })
}

/// What came of the inputs.
#[derive(Debug, Default)]
struct Fuzzed {
    good: usize,
    false_allows: usize,
    false_denials: usize,
    /// Some of the inputs that were judged wrongly.
    wrong: Vec<String>,
    /// Packages without an oracle.
    unopposed: Vec<String>,
    /// Time of judging alone.
    spent: Duration,
}

/// The policies of a set and the oracle that they are held against.
struct Contest {
    package: String,
    sources: Vec<Source>,
    oracle: fn(&Value) -> bool,
}

/// The policy sets that there is an oracle for, and the packages of the others.
fn contests(root: &Path) -> Result<(Vec<Contest>, Vec<String>)> {
    let (mut contests, mut unopposed) = (Vec::new(), Vec::new());
    for set in config::read(root)?.policy_sets {
        let oracle = match set.package.as_str() {
            "main" => model_is_good,
            "security" => security_is_good,
            "behaviour" => behaviour_is_good,
            other => {
                unopposed.push(other.to_string());
                continue;
            }
        };
        let read = |path: &std::path::PathBuf| {
            let text = std::fs::read_to_string(root.join(path)).with_context(|| format!("read {}", path.display()))?;
            Ok(Source { path: path.display().to_string(), text })
        };
        let sources = set.policies.iter().map(read).collect::<Result<_>>()?;
        contests.push(Contest { package: set.package, sources, oracle });
    }
    Ok((contests, unopposed))
}

fn fuzz(root: &Path, inputs: usize) -> Result<Fuzzed> {
    let (contests, unopposed) = contests(root)?;
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let parts: Vec<_> = std::thread::scope(|scope| {
        let contests = &contests;
        let work =
            |worker: usize| move || fuzz_some(contests, worker as u64, (worker..inputs).step_by(workers).count());
        let threads: Vec<_> = (0..workers).map(|worker| scope.spawn(work(worker))).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let mut all = Fuzzed { unopposed, ..Fuzzed::default() };
    for part in parts {
        let part = part.map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        all.good += part.good;
        all.false_allows += part.false_allows;
        all.false_denials += part.false_denials;
        all.wrong.extend(part.wrong);
        all.spent += part.spent;
    }
    all.wrong.truncate(5);
    Ok(all)
}

fn fuzz_some(contests: &[Contest], seed: u64, inputs: usize) -> Result<Fuzzed> {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66);
    let fault = |fault: crate::policy::Fault| anyhow::anyhow!(fault.message);
    let judge = |contest: &Contest| Judge::new(&contest.package, &contest.sources).map_err(fault);
    let mut judges: Vec<_> = contests.iter().map(judge).collect::<Result<_>>()?;
    let mut fuzzed = Fuzzed::default();
    for done in 1..=inputs {
        // All workers have as many; one speaks for them.
        if seed == 0 && done.is_multiple_of((inputs / 10).max(1)) {
            note(&format!("{} % of the inputs are judged", done * 100 / inputs));
        }
        let input = input(&mut random);
        let begun = Instant::now();
        let objections: Vec<_> = judges.iter_mut().map(|judge| objections(judge, &input)).collect();
        fuzzed.spent += begun.elapsed();
        let good: Vec<_> = contests.iter().map(|contest| (contest.oracle)(&input)).collect();
        fuzzed.good += usize::from(good.iter().all(|good| *good));
        for (contest, (objections, good)) in contests.iter().zip(objections.iter().zip(&good)) {
            match (objections.is_empty(), good) {
                (true, false) => fuzzed.false_allows += 1,
                (false, true) => fuzzed.false_denials += 1,
                _ => continue,
            }
            fuzzed.wrong.push(format!("`{}` says {objections:?} of {input}", contest.package));
        }
    }
    Ok(fuzzed)
}

/// What denies the input, or what keeps it from being judged.
fn objections(judge: &mut Judge, input: &Value) -> Vec<String> {
    match judge.judge(input) {
        Ok(rules) => {
            let denials = rules.into_iter().filter(|rule| rule.level != Level::Warn);
            denials.flat_map(|rule| rule.messages).map(|message| message.text).collect()
        }
        Err(fault) => vec![fault.message],
    }
}

/// Marsaglia's xorshift: the same inputs at every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }
}

/// An input that is good in one of several ways, and then broken in up to four places.
fn input(random: &mut Random) -> Value {
    let mut input = good_input(random);
    for _ in 0..random.below(5) {
        break_somewhere(&mut input, random);
    }
    input
}

fn good_input(random: &mut Random) -> Value {
    let counts = json!({"CRITICAL": 0, "HIGH": 0, "MEDIUM": 3, "LOW": 4, "INFORMATIONAL": 0, "UNDEFINED": 1});
    let done = json!({"status": "done", "reason": null, "packages": 83, "vulnerabilities": 0, "warnings": 0});
    let not_done =
        json!({"status": "not_done", "reason": "unreachable", "packages": 83, "vulnerabilities": 0, "warnings": 0});
    let off = json!({"status": "off", "reason": "switched off", "packages": 0, "vulnerabilities": 0, "warnings": 0});
    let image = [
        json!({"status": "COMPLETE", "description": null, "counts": counts}),
        json!({"status": "ACTIVE", "description": null, "counts": counts}),
        json!({"status": "UNSUPPORTED_IMAGE", "description": null, "counts": null}),
        json!({"status": "FAILED", "description": "UnsupportedImageError: no system", "counts": null}),
    ];
    let trained = [
        (json!({"wanted": "off", "built": false, "reason": "nobody asked", "digest": null}), Value::Null),
        (
            json!({"wanted": "required", "built": true, "reason": "by podman", "digest": "sha256:0c"}),
            json!({"digest": "sha256:0c", "image": {"status": "COMPLETE", "description": null, "counts": counts}}),
        ),
        (
            json!({"wanted": "required", "built": true, "reason": "by podman", "digest": "sha256:0c"}),
            json!({"digest": "sha256:0c", "image": {"status": "FINDINGS_UNAVAILABLE", "description": null, "counts": null}}),
        ),
    ];
    let (training, training_scan) = random.pick(&trained).clone();
    json!({
        "environment": "local",
        "cloud": random.pick(&["aws", "embedded"]),
        "image_digest": "sha256:0a",
        "image_model": "sha256:0b",
        "metrics_model": "sha256:0b",
        "accuracy": random.pick(&[0.9, 0.92662, 1.0, 0.8999]),
        "fairnessScoreEqualOpportunity": random.pick(&[0.0, 7.03, 21.0, 21.001]),
        "rows": random.pick(&[1, 100_000]),
        "parity": {"rows": 100_000, "class_differences": 0, "probability_differences": 0},
        "tests": {"total": 12, "passed": 11, "failed": 0, "skipped": 1},
        "behaviour": good_behaviour(random),
        "training_image": training,
        "scan": {
            "digest": "sha256:0a",
            "image": random.pick(&image),
            "training_image": training_scan,
            "crates": random.pick(&[&done, &done, &not_done]),
            "python": random.pick(&[&done, &not_done, &off]),
        },
    })
}

fn good_behaviour(random: &mut Random) -> Value {
    let check = |kind: &&str| {
        json!({
            "kind": kind, "name": kind, "status": "pass", "severity": "error", "n": 1, "violations": 0, "reason": "",
        })
    };
    let mut checks: Vec<_> =
        ["monotone", "cases", "overfit", "baseline", "slices", "data", "leakage"].iter().map(check).collect();
    if random.below(2) == 0 {
        checks[3]["status"] = json!(random.pick(&["fail", "insufficient evidence"]));
        checks[3]["severity"] = json!("warn");
    }
    json!({"model": "sha256:0b", "pairs": random.pick(&[1_000_000, 1_000_001]), "checks": checks})
}

/// Breaks one value, somewhere in the tree.
fn break_somewhere(value: &mut Value, random: &mut Random) {
    let deeper = random.below(4) > 0;
    match value {
        Value::Object(fields) if deeper && !fields.is_empty() => {
            let name = fields.keys().nth(random.below(fields.len())).cloned().unwrap_or_default();
            match random.below(8) {
                0 => drop(fields.remove(&name)),
                1 => {
                    // The same name in another spelling, or twice: then the last one counts, as in every JSON document.
                    let odd = fields.remove(&name).unwrap_or_default();
                    fields.insert(random.pick(&[name.to_uppercase(), format!("{name} "), String::new()]).clone(), odd);
                }
                2 => {
                    let twice = format!("{{\"x\": {}, \"x\": {}}}", fields[&name], odd_value(random));
                    let last: Map<String, Value> = serde_json::from_str(&twice).unwrap_or_default();
                    fields.insert(name, last["x"].clone());
                }
                _ => {
                    if let Some(inner) = fields.get_mut(&name) {
                        break_somewhere(inner, random);
                    }
                }
            }
        }
        Value::Array(items) if deeper && !items.is_empty() => {
            let index = random.below(items.len());
            break_somewhere(&mut items[index], random);
        }
        other => *other = broken(other.take(), random),
    }
}

/// Another value in the place of this one.
fn broken(old: Value, random: &mut Random) -> Value {
    match random.below(8) {
        0 => Value::Null,
        1 => json!([old]),
        2 => json!({"value": old}),
        3 => Value::String(old.to_string()),
        4 => match old.as_f64() {
            Some(number) => json!(*random.pick(&[
                -number,
                number + 1.0,
                number - 1.0,
                number + 0.5,
                number * 1e300,
                number.next_up(),
                number.next_down(),
            ])),
            None => odd_value(random),
        },
        5 => {
            let mut nested = old;
            for _ in 0..random.below(40) {
                nested = if random.below(2) == 0 { json!([nested]) } else { json!({"a": nested}) };
            }
            nested
        }
        _ => odd_value(random),
    }
}

fn odd_value(random: &mut Random) -> Value {
    let texts = [
        "",
        " ",
        "0",
        "0.95",
        "NaN",
        "Infinity",
        "-1",
        "true",
        "null",
        "COMPLETE",
        "ACTIVE",
        "FAILED",
        "UNSUPPORTED_IMAGE",
        "done",
        "not_done",
        "off",
        "aws",
        "embedded",
        "required",
        "sha256:0a",
        "sha256:0b",
        "sha256:0c",
        "sha256:ff",
        "\u{0}",
        "\u{1f600}",
    ];
    match random.below(4) {
        0 => Value::String(random.pick(&texts).to_string()),
        1 => random
            .pick(&[
                json!([]),
                json!({}),
                json!([0]),
                json!([0.95]),
                json!(true),
                json!(false),
                Value::Null,
                json!([[], {}]),
            ])
            .clone(),
        2 => json!(*random.pick(&[
            0.0,
            -0.0,
            0.5,
            1.0,
            0.9,
            0.899_999_999_999_999_9,
            21.0,
            21.000_000_000_000_004,
            1e308,
            -1e308,
            5e-324,
            1e16,
            f64::MAX,
        ])),
        _ => Value::Number(
            random
                .pick(&[
                    Number::from(u64::MAX),
                    Number::from(i64::MIN),
                    Number::from(1),
                    Number::from(-1),
                    Number::from(0),
                ])
                .clone(),
        ),
    }
}

/// The oracles. They are written after what the policies promise, not after how they are written.
fn number(value: &Value) -> Option<f64> {
    value.is_number().then(|| value.as_f64()).flatten()
}

fn within(value: &Value, from: f64, to: f64) -> bool {
    number(value).is_some_and(|number| (from..=to).contains(&number))
}

fn count(value: &Value) -> Option<f64> {
    number(value).filter(|number| *number >= 0.0 && number.fract() == 0.0)
}

fn some(value: &Value) -> bool {
    count(value).is_some_and(|number| number > 0.0)
}

fn none(value: &Value) -> bool {
    number(value) == Some(0.0)
}

fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

fn same_text(one: &Value, other: &Value) -> bool {
    text(one).is_some() && text(one) == text(other)
}

fn model_is_good(input: &Value) -> bool {
    let (parity, tests) = (&input["parity"], &input["tests"]);
    let cases = |name: &str| count(&tests[name]);
    let adds_up = match (cases("passed"), cases("skipped"), cases("total")) {
        (Some(passed), Some(skipped), Some(total)) => passed > 0.0 && passed + skipped == total,
        _ => false,
    };
    within(&input["accuracy"], 0.9, 1.0)
        && within(&input["fairnessScoreEqualOpportunity"], 0.0, 21.0)
        && some(&input["rows"])
        && some(&parity["rows"])
        && none(&parity["class_differences"])
        && none(&parity["probability_differences"])
        && none(&tests["failed"])
        && adds_up
        && same_text(&input["metrics_model"], &input["image_model"])
}

fn behaviour_is_good(input: &Value) -> bool {
    let behaviour = &input["behaviour"];
    let checks = behaviour["checks"].as_array().map_or(&[][..], Vec::as_slice);
    let kinds = ["cases", "overfit", "baseline", "slices", "data", "leakage"];
    same_text(&input["image_model"], &behaviour["model"])
        && count(&behaviour["pairs"]).is_some_and(|pairs| pairs >= 1e6)
        && kinds.iter().all(|kind| checks.iter().any(|check| check["kind"] == **kind))
        && checks.iter().all(check_is_good)
}

fn check_is_good(check: &Value) -> bool {
    let texts = check["name"].is_string() && check["kind"].is_string();
    let looked = count(&check["n"]);
    let warns = check["severity"] == "warn";
    let counted = looked.is_some() && count(&check["violations"]).is_some();
    let passed = check["status"] == "pass" && looked != Some(0.0) && count(&check["violations"]) == Some(0.0);
    let failed = check["status"] == "fail" || check["status"] == "insufficient evidence";
    texts && counted && (warns || check["severity"] == "error") && (passed || warns && failed)
}

fn security_is_good(input: &Value) -> bool {
    let scan = &input["scan"];
    let embedded = input["cloud"] == "embedded";
    (embedded || input["cloud"] == "aws")
        && same_text(&input["image_digest"], &scan["digest"])
        && (counted(&scan["image"]) || unsupported(&scan["image"]))
        && ["CRITICAL", "HIGH"].iter().all(|severity| {
            let found = &scan["image"]["counts"][*severity];
            found.is_null() || none(found)
        })
        && packages_are_good(&scan["crates"], embedded, false)
        && packages_are_good(&scan["python"], embedded, true)
        && training_is_good(&input["training_image"], &scan["training_image"], embedded)
}

fn counted(scan: &Value) -> bool {
    let severities = ["CRITICAL", "HIGH", "INFORMATIONAL", "LOW", "MEDIUM", "UNDEFINED"];
    let complete = scan["status"] == "COMPLETE" || scan["status"] == "ACTIVE";
    let counts = scan["counts"].as_object();
    complete
        && counts.is_some_and(|counts| {
            counts.len() == severities.len()
                && severities.iter().all(|severity| counts.get(*severity).is_some_and(|found| count(found).is_some()))
        })
}

fn unsupported(scan: &Value) -> bool {
    let described = scan["description"].as_str().is_some_and(|text| text.starts_with("UnsupportedImageError"));
    scan["counts"].is_null() && (scan["status"] == "UNSUPPORTED_IMAGE" || (scan["status"] == "FAILED" && described))
}

fn packages_are_good(scan: &Value, embedded: bool, may_be_off: bool) -> bool {
    let excused = text(&scan["reason"]).is_some()
        && ((embedded && scan["status"] == "not_done") || (may_be_off && scan["status"] == "off"))
        && (scan["vulnerabilities"].is_null() || none(&scan["vulnerabilities"]));
    let done = scan["status"] == "done"
        && some(&scan["packages"])
        && count(&scan["warnings"]).is_some()
        && none(&scan["vulnerabilities"]);
    done || excused
}

fn training_is_good(training: &Value, scan: &Value, embedded: bool) -> bool {
    if training["built"] == false {
        let unwanted = training["wanted"] == "off" || training["wanted"] == "where_possible";
        return unwanted && text(&training["reason"]).is_some() && scan.is_null();
    }
    let excused = embedded && scan["image"]["status"] == "FINDINGS_UNAVAILABLE" && scan["image"]["counts"].is_null();
    training["built"] == true && same_text(&training["digest"], &scan["digest"]) && (counted(&scan["image"]) || excused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn no_broken_input_is_allowed_and_no_good_one_denied() {
        let fuzzed = fuzz(&root(), 2_000).unwrap();
        assert!(fuzzed.wrong.is_empty(), "{:?}", fuzzed.wrong);
        assert!(fuzzed.good > 20 && fuzzed.good < 1_000, "{}", fuzzed.good);
    }

    #[test]
    fn a_policy_that_forgets_a_field_is_caught() {
        let forgetful = "package main\n\ndeny contains \"low\" if input.accuracy < 0.9\n";
        let source = Source { path: "p.rego".into(), text: forgetful.into() };
        let contest = Contest { package: "main".into(), sources: vec![source], oracle: model_is_good };
        let fuzzed = fuzz_some(&[contest], 1, 500).unwrap();
        assert!(fuzzed.false_allows > 50, "{}", fuzzed.false_allows);
    }
}
