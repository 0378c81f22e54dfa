//! Exit codes: an error that is an answer (denied, nothing checked) is told from one that means something broke.

use std::fmt;
use std::process::ExitCode;

/// An end that is an answer of the pipeline rather than a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A policy denied the model, or `monitor --fail` found it stale: 3.
    Denied,
    /// The command cannot be meant as it was called: 2.
    Usage,
    /// No test, no rule or no case was there to check: 4.
    NothingChecked,
    /// Nobody approved exactly this, or too long ago: 5.
    NotApproved,
}

/// An error that carries its exit code.
#[derive(Debug)]
pub struct Ended {
    answer: Answer,
    message: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Ended {}

/// An error that ends the command with exit code 3.
pub fn denied(message: impl Into<String>) -> anyhow::Error {
    Ended { answer: Answer::Denied, message: message.into() }.into()
}

/// An error that ends the command with exit code 2.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    Ended { answer: Answer::Usage, message: message.into() }.into()
}

/// An error that ends the command with exit code 4.
pub fn nothing_checked(message: impl Into<String>) -> anyhow::Error {
    Ended { answer: Answer::NothingChecked, message: message.into() }.into()
}

/// An error that ends the command with exit code 5.
pub fn not_approved(message: impl Into<String>) -> anyhow::Error {
    Ended { answer: Answer::NotApproved, message: message.into() }.into()
}

/// The answer that an error carries, if it is one.
pub fn answer_of(error: &anyhow::Error) -> Option<Answer> {
    error.downcast_ref::<Ended>().map(|ended| ended.answer)
}

/// The process's exit code for an error.
pub fn code_of(error: &anyhow::Error) -> ExitCode {
    match answer_of(error) {
        Some(Answer::Denied) => ExitCode::from(3),
        Some(Answer::Usage) => ExitCode::from(2),
        Some(Answer::NothingChecked) => ExitCode::from(4),
        Some(Answer::NotApproved) => ExitCode::from(5),
        None => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn context_keeps_the_answer() {
        let error = Err::<(), _>(denied("accuracy too low")).context("judge the model").unwrap_err();
        assert_eq!(answer_of(&error), Some(Answer::Denied));
        assert_eq!(answer_of(&anyhow::anyhow!("disk full")), None);
    }
}
