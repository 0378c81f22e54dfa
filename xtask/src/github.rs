//! GitHub Actions: step outputs, the step summary, annotations and folded logs. Outside of Actions all of it is silent.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;

use anyhow::{Context, Result};

use crate::exit;

/// Whether this runs in a GitHub Actions job.
pub fn active() -> bool {
    env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true")
}

/// The run id of GitHub Actions: the workflow's run and its attempt.
pub fn run_id() -> Option<String> {
    let run = env::var("GITHUB_RUN_ID").ok().filter(|value| !value.is_empty())?;
    let attempt = env::var("GITHUB_RUN_ATTEMPT").unwrap_or_else(|_| "1".into());
    active().then(|| format!("{run}-{attempt}"))
}

/// Sets a step output.
pub fn output(name: &str, value: &str) -> Result<()> {
    if !active() {
        return Ok(());
    }
    append("GITHUB_OUTPUT", &output_lines(name, value))
}

/// The lines of an output; a value of several lines stands between delimiters that it does not contain.
fn output_lines(name: &str, value: &str) -> String {
    if !value.contains(['\n', '\r']) {
        return format!("{name}={value}\n");
    }
    let mut delimiter = "end".to_string();
    while value.contains(&delimiter) {
        delimiter.push('_');
    }
    format!("{name}<<{delimiter}\n{value}\n{delimiter}\n")
}

/// Adds Markdown to the step's summary.
pub fn summary(markdown: &str) -> Result<()> {
    if !active() {
        return Ok(());
    }
    append("GITHUB_STEP_SUMMARY", &format!("{markdown}\n"))
}

fn append(variable: &str, text: &str) -> Result<()> {
    let Some(path) = env::var_os(variable).filter(|path| !path.is_empty()) else { return Ok(()) };
    let write = || OpenOptions::new().create(true).append(true).open(&path)?.write_all(text.as_bytes());
    write().with_context(|| format!("write {variable} at {}", path.display()))
}

/// Begins a folded group of the log.
pub fn group(title: &str) {
    if active() {
        println!("::group::{}", escape(title));
    }
}

/// Ends the group.
pub fn end_group() {
    if active() {
        println!("::endgroup::");
    }
}

/// An annotation of the run.
pub fn annotate(level: &str, title: &str, message: &str) {
    if active() {
        println!("{}", annotation(level, title, None, message));
    }
}

/// The line that annotates the run, at a line of a file if one is given.
pub fn annotation(level: &str, title: &str, place: Option<(&str, usize)>, message: &str) -> String {
    let property = |text: &str| escape(text).replace(':', "%3A").replace(',', "%2C");
    let place = place.map_or(String::new(), |(file, line)| format!("file={},line={line},", property(file)));
    format!("::{level} {place}title={}::{}", property(title), escape(message))
}

/// An annotation for the error that ends the command.
pub fn annotate_error(error: &anyhow::Error) {
    let title = match exit::answer_of(error) {
        Some(exit::Answer::Denied) => "Denied",
        Some(exit::Answer::NothingChecked) => "Nothing was checked",
        Some(exit::Answer::NotApproved) => "Not approved",
        Some(exit::Answer::Usage) | None => "Failed",
    };
    annotate("error", title, &format!("{error:#}"));
}

fn escape(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_smuggle_a_second_output() {
        assert_eq!(output_lines("verdict", "allow"), "verdict=allow\n");
        let lines = output_lines("message", "a\nend\nverdict=allow");
        assert_eq!(lines, "message<<end_\na\nend\nverdict=allow\nend_\n");
    }

    #[test]
    fn annotations_stay_on_one_line() {
        assert_eq!(escape("50 %\nnext"), "50 %25%0Anext");
        let line = annotation("error", "a: b", Some(("p,q.rego", 3)), "x\ny");
        assert_eq!(line, "::error file=p%2Cq.rego,line=3,title=a%3A b::x%0Ay");
    }
}
