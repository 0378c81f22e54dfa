//! The page of a replay: one file that loads nothing and runs nothing, in the report's style.

use crate::replay::flips::{Counts, Groups, Prediction};
use crate::replay::model::{Example, Replay, decision};
use crate::replay::policies::Replayed;
use crate::replay::reasons::{Changed, OfGroup, Reason};
use crate::report::escape;
use crate::stages::gate::Verdict;

/// The style of the model's report.
const STYLE: &str = include_str!("../../../model/ccapproval/report.css");

/// The page of a candidate model.
pub fn of_model(replay: &Replay) -> String {
    let all = &replay.comparison.overall;
    let flips = all.approve_to_deny + all.deny_to_approve;
    let same = if replay.model_before == replay.model_after { " It is the very model of the run." } else { "" };
    let figures = [
        figure(
            "Decisions that change",
            &thousands(flips),
            &format!("of {} test applications, {}", thousands(all.applications), percent(flips, all.applications)),
        ),
        figure("Approve to deny", &thousands(all.approve_to_deny), &share_of_all(all.approve_to_deny_share)),
        figure("Deny to approve", &thousands(all.deny_to_approve), &share_of_all(all.deny_to_approve_share)),
        figure("Approved", &rate(all.approval_rate_after), &format!("{} before", rate(all.approval_rate_before))),
    ];
    let lead = format!(
        "What the candidate <code>{}</code> would decide otherwise than the model <code>{}</code> of run <code>{}</code>.{same}",
        escape(&replay.model_after),
        escape(&replay.model_before),
        escape(&replay.run)
    );
    let groups: String = replay.comparison.attributes.iter().map(|attribute| groups(attribute, all)).collect();
    let sections = groups + &reasons(&replay.reasons) + &examples(&replay.examples) + &provenance(replay);
    let footer = "Every figure on this page is a count of the test applications of one run, which neither model was trained on \
                  if the candidate was trained on that run's split. It judges nothing: that is the gate's part.";
    shell("Replay of a candidate model", &lead, &figures, &sections, footer)
}

/// The page of changed policies.
pub fn of_policies(replayed: &[Replayed]) -> String {
    let count = |was: fn(Verdict) -> bool, would_be: fn(Verdict) -> bool| {
        replayed.iter().filter(|row| was(row.was) && would_be(row.would_be)).count()
    };
    let denies = |verdict| verdict == Verdict::Deny;
    let lets_pass = |verdict| verdict != Verdict::Deny;
    let flips = replayed.iter().filter(|row| row.flips()).count();
    let total = replayed.len();
    let (to_deny, to_pass) = (count(lets_pass, denies), count(denies, lets_pass));
    let figures = [
        figure(
            "Verdicts that change",
            &thousands(flips),
            &format!("of {} past verdicts, {}", thousands(total), percent(flips, total)),
        ),
        figure("Would be denied", &thousands(to_deny), "that could ship"),
        figure("Could ship", &thousands(to_pass), "that were denied"),
    ];
    let body = match flips {
        0 => "<p>No verdict would be another.</p>".to_string(),
        _ => verdicts("Verdicts that change", replayed.iter().filter(|row| row.flips())),
    };
    let sections = format!(
        "<section><h2>Verdicts that change</h2>{body}</section>\
         <section><h2>All past verdicts</h2><p>With every objection that would come or go.</p>\
         <details><summary>{} verdicts</summary>{}</details></section>",
        thousands(total),
        verdicts("All past verdicts", replayed.iter())
    );
    let lead = "What the changed policies would have said of every model that the gate judged.";
    let footer = "Waivers are those of today. Evidence that was missing then is missing still.";
    shell("Replay of changed policies", lead, &figures, &sections, footer)
}

fn shell(title: &str, lead: &str, figures: &[String], sections: &str, footer: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<header><h1>{title}</h1><p class=\"soft\">{lead}</p>\
         <ul class=\"figures\">{}</ul></header>\n<main>\n{sections}\n</main>\n<footer><p>{footer}</p></footer>\n\
         </body>\n</html>\n",
        figures.concat()
    )
}

fn figure(name: &str, value: &str, about: &str) -> String {
    format!("<li class=\"figure\"><span class=\"name\">{name}</span><strong>{value}</strong><span>{about}</span></li>")
}

/// A column's name, and whether it holds words, which stand on the left.
type Column<'a> = (&'a str, bool);

/// A table whose rows begin with what they are about; the cells are HTML. On a narrow screen each row is a list of its own.
fn table(label: &str, columns: &[Column<'_>], rows: impl Iterator<Item = Vec<String>>) -> String {
    let style = |text: bool| if text { " class=\"said\"" } else { "" };
    let head: String =
        columns.iter().map(|(name, text)| format!("<th scope=\"col\"{}>{}</th>", style(*text), escape(name))).collect();
    let row = |cells: Vec<String>| -> String {
        let cells = columns.iter().zip(cells).enumerate().map(|(place, ((name, text), cell))| {
            let (style, name) = (style(*text), escape(name));
            match place {
                0 => format!("<th scope=\"row\" data-name=\"{name}\">{cell}</th>"),
                _ => format!("<td{style} data-name=\"{name}\">{cell}</td>"),
            }
        });
        format!("<tr>{}</tr>", cells.collect::<String>())
    };
    let (label, rows) = (escape(label), rows.map(row).collect::<String>());
    format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"{label}\"><table class=\"stacked\"><thead><tr>{head}\
         </tr></thead><tbody>{rows}</tbody></table></div>"
    )
}

/// What changes in each group of an attribute.
fn groups(attribute: &Groups, all: &Counts) -> String {
    let name = escape(&attribute.name);
    let (before, after) = attribute.gaps();
    let groups = attribute.groups.iter().map(|group| counts_row(&group.group, &group.counts));
    let rows = groups.chain([counts_row("All", all)]);
    let columns = [
        (attribute.name.as_str(), false),
        ("Applications", false),
        ("Approved before", false),
        ("Approved after", false),
        ("Change in points", false),
        ("Approve to deny", false),
        ("Deny to approve", false),
    ];
    format!(
        "<section><h2>By {name}</h2><p>Shares are of the group's applications. The approval rates of the groups lie at most \
         {:.2} points apart before, {:.2} after.</p>{}</section>",
        100.0 * before,
        100.0 * after,
        table(&format!("Changes by {}", attribute.name), &columns, rows)
    )
}

fn counts_row(name: &str, counts: &Counts) -> Vec<String> {
    vec![
        escape(name),
        thousands(counts.applications),
        rate(counts.approval_rate_before),
        rate(counts.approval_rate_after),
        format!("{:+.2}", 100.0 * (counts.approval_rate_after - counts.approval_rate_before)),
        with_share(counts.approve_to_deny, counts.approve_to_deny_share),
        with_share(counts.deny_to_approve, counts.deny_to_approve_share),
    ]
}

/// Why the decisions that change are denied; empty where nobody asked.
fn reasons(reasons: &[Reason]) -> String {
    if reasons.is_empty() {
        return String::new();
    }
    let row = |reason: &str, of: &str, changed: &Changed| {
        let counts = [changed.approve_to_deny, changed.deny_to_approve].map(thousands);
        [escape(reason), escape(of)].into_iter().chain(counts).collect()
    };
    let rows = reasons.iter().flat_map(|reason| {
        let of_group = |of: &OfGroup| row(&reason.reason, &format!("{} {}", of.attribute, of.group), &of.changed);
        [row(&reason.reason, "All", &reason.all)]
            .into_iter()
            .chain(reason.groups.iter().map(of_group))
            .collect::<Vec<_>>()
    });
    let columns = [("Denied for", false), ("Of", true), ("Approve to deny", false), ("Deny to approve", false)];
    format!(
        "<section><h2>Reasons</h2><p>Every decision that changes counts once, under the strongest reason of the model that \
         denies it: the candidate, or the run's model where the candidate approves.</p>{}</section>",
        table("Reasons of the decisions that change", &columns, rows)
    )
}

fn examples(examples: &[Example]) -> String {
    let Some(first) = examples.first() else {
        return "<section><h2>Examples</h2><p>No decision would be another.</p></section>".to_string();
    };
    let explained = examples.iter().any(|example| !example.reasons.is_empty());
    let columns: Vec<_> = [("Line", false), ("Before", true), ("After", true)]
        .into_iter()
        .chain(first.values.iter().map(|(name, _)| (name.as_str(), false)))
        .chain(explained.then_some(("Denied for", true)))
        .collect();
    let rows = examples.iter().map(|example| {
        let about = [example.line.to_string(), said(example.before), said(example.after)];
        let values = example.values.iter().map(|(_, value)| escape(value));
        let reasons = explained.then(|| escape(&example.reasons.join(", ")));
        about.into_iter().chain(values).chain(reasons).collect()
    });
    format!(
        "<section><h2>Examples</h2><p>The decisions that change with the greatest change of probability, of both directions; \
         with the probability of approval, and the line in test_split.csv.</p>{}</section>",
        table("Examples of decisions that change", &columns, rows)
    )
}

fn said(prediction: Prediction) -> String {
    let style = if prediction.approved { "pass" } else { "fail" };
    format!("<span class=\"word {style}\">{}</span>&nbsp;{:.4}", decision(prediction), prediction.probability)
}

fn provenance(replay: &Replay) -> String {
    let entries = [
        ("Run", &replay.run),
        ("Model before", &replay.model_before),
        ("Model after", &replay.model_after),
        ("Test applications", &replay.test_split),
    ];
    let items: String =
        entries.iter().map(|(name, value)| format!("<dt>{name}</dt><dd><code>{}</code></dd>", escape(value))).collect();
    format!(
        "<section><h2>Where it comes from</h2><dl>{items}</dl><h3>Make it again</h3>\
         <pre tabindex=\"0\" role=\"group\" aria-label=\"Command\"><code>cargo xtask replay --model FILE --against {}</code></pre>\
         </section>",
        escape(&replay.run)
    )
}

fn verdicts<'a>(label: &str, replayed: impl Iterator<Item = &'a Replayed>) -> String {
    let columns = [
        ("Decided", false),
        ("Environment", true),
        ("Run", true),
        ("Was", true),
        ("Would be", true),
        ("Objections that come or go", true),
    ];
    let rows = replayed.map(|row| {
        let objections = |word: &str, texts: &[String]| -> String {
            texts.iter().map(|text| format!("<div><b>{word}</b> {}</div>", escape(text))).collect()
        };
        vec![
            row.decided_at.format("%F %R").to_string(),
            escape(&row.environment),
            format!("<code>{}</code>", escape(&row.run)),
            verdict(row.was),
            verdict(row.would_be),
            objections("comes:", &row.new) + &objections("goes:", &row.gone),
        ]
    });
    table(label, &columns, rows)
}

fn verdict(verdict: Verdict) -> String {
    let style = match verdict {
        Verdict::Allow => "pass",
        Verdict::Warn => "unproven",
        Verdict::Deny => "fail",
    };
    format!("<span class=\"word {style}\">{}</span>", verdict.name())
}

fn with_share(count: usize, share: f64) -> String {
    format!("{} ({})", thousands(count), rate(share))
}

fn share_of_all(share: f64) -> String {
    format!("{} of the applications", rate(share))
}

fn percent(part: usize, whole: usize) -> String {
    rate(part as f64 / whole.max(1) as f64)
}

fn rate(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// A count with a comma between its thousands.
fn thousands(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;
    use crate::replay::flips::{self, Attribute};

    fn replay(value: &str) -> Replay {
        let table = |approved| vec![Prediction { approved, probability: 0.25 }];
        let (before, after) = (table(true), table(false));
        let attribute = Attribute { name: value.into(), groups: vec![value.into()] };
        Replay {
            run: "r".into(),
            model_before: "sha256:a".into(),
            model_after: "sha256:b".into(),
            test_split: "sha256:c".into(),
            comparison: flips::compare(&before, &after, &[attribute]),
            reasons: vec![Reason {
                reason: value.into(),
                all: Changed { approve_to_deny: 1234, deny_to_approve: 0 },
                groups: vec![OfGroup {
                    attribute: value.into(),
                    group: "1".into(),
                    changed: Changed { approve_to_deny: 7, deny_to_approve: 0 },
                }],
            }],
            examples: vec![Example {
                line: 2,
                values: vec![(value.into(), value.into())],
                before: before[0],
                after: after[0],
                reasons: vec!["Income".into()],
            }],
        }
    }

    #[test]
    fn what_the_data_says_stays_text() {
        let html = of_model(&replay("<script>\"x\" & 'y'"));
        assert!(html.contains("By &lt;script&gt;&quot;x&quot; &amp; 'y'"));
        assert!(!html.contains("<script>") && !html.contains("http://") && !html.contains("https://"));
    }

    #[test]
    fn counts_and_examples_are_on_the_page() {
        let html = of_model(&replay("Group"));
        assert!(html.contains("<span class=\"name\">Approve to deny</span><strong>1</strong><span>100.00 % of"));
        assert!(html.contains(
            "<th scope=\"row\" data-name=\"Line\">2</th><td class=\"said\" data-name=\"Before\">\
             <span class=\"word pass\">approve</span>&nbsp;0.2500</td>"
        ));
        let reasons = |of: &str, counts: [&str; 2]| {
            format!(
                "<td class=\"said\" data-name=\"Of\">{of}</td><td data-name=\"Approve to deny\">{}</td>\
                 <td data-name=\"Deny to approve\">{}</td></tr>",
                counts[0], counts[1]
            )
        };
        assert!(html.contains(&reasons("All", ["1,234", "0"])) && html.contains(&reasons("Group 1", ["7", "0"])));
        assert!(html.contains("Denied for</th>") && html.contains("data-name=\"Denied for\">Income</td>"));
        let mut same = replay("Group");
        same.model_after = same.model_before.clone();
        same.examples.clear();
        same.reasons.clear();
        let html = of_model(&same);
        assert!(html.contains("It is the very model of the run.") && html.contains("No decision would be another."));
    }

    #[test]
    fn verdicts_that_change_are_told_apart() {
        let row = |was, would_be, text: &str| Replayed {
            run: "r".into(),
            environment: "local".into(),
            decided_at: Utc::now(),
            was,
            would_be,
            new: vec![text.into()],
            gone: Vec::new(),
        };
        let rows = [
            row(Verdict::Allow, Verdict::Deny, "too <low>"),
            row(Verdict::Deny, Verdict::Warn, "b"),
            row(Verdict::Warn, Verdict::Warn, "c"),
        ];
        let html = of_policies(&rows);
        assert!(html.contains("<strong>2</strong><span>of 3 past verdicts, 66.67 %"));
        assert!(html.contains("Would be denied</span><strong>1</strong>"));
        assert!(html.contains("Could ship</span><strong>1</strong>"));
        assert!(html.contains("too &lt;low&gt;"));
        assert!(of_policies(&rows[2..]).contains("No verdict would be another."));
    }

    #[test]
    fn thousands_are_parted() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
