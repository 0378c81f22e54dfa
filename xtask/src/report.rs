//! The verdict at the top of the report.
//!
//! The report is drawn from what was measured, before anybody judged it. The gate writes its verdict between two marks that the
//! page has for it, and nothing else: without what lies between the marks the page is the one that the test stage recorded.

use anyhow::{Result, bail};

use crate::digest;
use crate::stages::gate::{self, Verdict};
use crate::verdict_output::{self, Row};

/// The page's file in a run's folder.
pub const FILE: &str = "model_metrics.html";

/// What [`verdict_output::rows`] says of a rule without an objection.
const PASSED: &str = "passed";
const BEGIN: &str = "<!-- verdict -->";
const END: &str = "<!-- end of verdict -->";

/// Digest of a page without its verdict.
///
/// # Errors
/// The page has no place for a verdict, or more than one.
pub fn digest_without_verdict(page: &str) -> Result<String> {
    let (before, after) = around_verdict(page)?;
    Ok(digest::of_bytes(format!("{before}{after}").as_bytes()))
}

/// The page with a verdict in the place of the one that it has.
///
/// # Errors
/// As [`digest_without_verdict`].
pub fn with_verdict(page: &str, run: &str, environment: &str, gate: &gate::Content) -> Result<String> {
    let (before, after) = around_verdict(page)?;
    Ok(format!("{before}{BEGIN}{}{END}{after}", section(run, environment, gate)))
}

/// What lies before and after the verdict; the marks belong to neither.
fn around_verdict(page: &str) -> Result<(&str, &str)> {
    let parts =
        page.split_once(BEGIN).and_then(|(before, rest)| rest.split_once(END).map(|(_, after)| (before, after)));
    match parts {
        Some((before, after)) if !after.contains(BEGIN) && !after.contains(END) => Ok((before, after)),
        _ => bail!("the report has no single place for the verdict: run `cargo xtask test` again"),
    }
}

fn section(run: &str, environment: &str, gate: &gate::Content) -> String {
    let (style, word) = match gate.verdict {
        Verdict::Allow => ("allowed", "may ship"),
        Verdict::Warn => ("warned", "may ship, with warnings"),
        Verdict::Deny => ("denied", "denied"),
    };
    let (passed, said): (Vec<_>, Vec<_>) = verdict_output::rows(gate).into_iter().partition(|row| row.effect == PASSED);
    let objections = match said.is_empty() {
        true => "<p>No rule has an objection.</p>".to_string(),
        false => table("What the rules say", &said),
    };
    format!(
        "<section class=\"verdict {style}\"><h2>Verdict: {word}</h2><p>By the gate of {}, run <code>{}</code>.</p>\
         {objections}<details><summary>{} rules without an objection</summary>{}</details></section>",
        escape(environment),
        escape(run),
        passed.len(),
        table("Rules without an objection", &passed)
    )
}

fn table(label: &str, rows: &[Row<'_>]) -> String {
    let rows: String = rows
        .iter()
        .map(|row| {
            // A long name breaks after a dot on a narrow screen.
            let (id, text) = (escape(row.id).replace('.', ".<wbr>"), escape(&row.text));
            format!("<tr><th scope=\"row\">{text}</th><td>{}</td><td><code>{id}</code></td></tr>", row.effect)
        })
        .collect();
    format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"{label}\"><table class=\"stacked\"><thead><tr>\
         <th scope=\"col\">Rule</th><th scope=\"col\">Result</th><th scope=\"col\">Name</th></tr></thead>\
         <tbody>{rows}</tbody></table></div>"
    )
}

/// Text as it stands between tags.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn content(verdict: Verdict, evidence: &str) -> gate::Content {
        gate::Content {
            verdict,
            model: "sha256:m".into(),
            image: "sha256:i".into(),
            evidence: vec![evidence.into()],
            outcomes: Vec::new(),
            waivers: Default::default(),
            input: Value::Null,
        }
    }

    const PAGE: &str = "<h1>a</h1><!-- verdict --><p>none</p><!-- end of verdict --><p>b</p>";

    #[test]
    fn a_verdict_replaces_the_one_before_it_and_changes_nothing_else() {
        let denied = with_verdict(PAGE, "run", "local", &content(Verdict::Deny, "no <scan> & \"none\"")).unwrap();
        assert!(denied.contains("Verdict: denied"));
        assert!(denied.contains("no &lt;scan&gt; &amp; &quot;none&quot;"));
        assert!(!denied.contains("<p>none</p>"));
        let allowed = with_verdict(&denied, "run", "local", &content(Verdict::Allow, "")).unwrap();
        assert!(allowed.contains("Verdict: may ship") && !allowed.contains("denied</h2>"));
        let digest = digest_without_verdict(PAGE).unwrap();
        assert_eq!(digest_without_verdict(&allowed).unwrap(), digest);
        assert_ne!(digest_without_verdict(&PAGE.replace("<p>b", "<p>c")).unwrap(), digest);
    }

    #[test]
    fn a_page_without_one_place_for_the_verdict_is_refused() {
        let twice = format!("{PAGE}{PAGE}");
        let marks_within = with_verdict(PAGE, END, BEGIN, &content(Verdict::Deny, END)).unwrap();
        assert!(digest_without_verdict(&marks_within).is_ok());
        for page in ["", "<!-- verdict -->", "<!-- end of verdict --><!-- verdict -->", &twice] {
            assert!(digest_without_verdict(page).is_err(), "{page}");
        }
    }
}
