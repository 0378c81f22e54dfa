//! Where the workflows run.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// Where the workflows run.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GitHub {
    /// `owner/name`.
    pub repository: String,
    /// How the subject of the repository's tokens begins, where it is not `repo:owner/name`: GitHub writes ids beside the
    /// names of repositories that were made, renamed or transferred after 18 June 2026.
    #[serde(default)]
    pub subject: Option<String>,
    /// Who looks after what is deployed.
    #[serde(default)]
    pub monitor: Option<MonitorJob>,
}

/// The jobs that monitor, and what they may do it with.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorJob {
    /// Their environment of GitHub.
    pub environment: String,
    /// Name of a role that may ask all functions and change none.
    pub role: String,
}

/// Whether a name can stand in a token's subject and in a policy as it is.
pub(super) fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter))
}

/// What stands in pipeline.toml until somebody writes the repository's name there.
const UNNAMED_REPOSITORY: &str = "owner/name";

impl GitHub {
    /// Whether the repository was not written down yet.
    pub fn is_unnamed(&self) -> bool {
        self.repository == UNNAMED_REPOSITORY
    }

    /// The subject of a token that a job of this environment of GitHub gets.
    pub fn subject_of(&self, environment: &str) -> String {
        let repository = format!("repo:{}", self.repository);
        format!("{}:environment:{environment}", self.subject.as_ref().unwrap_or(&repository))
    }

    pub(super) fn check(&self) -> Result<()> {
        if !self.repository.split_once('/').is_some_and(|(owner, name)| is_word(owner) && is_word(name)) {
            bail!("[github]: repository `{}` is not of the form owner/name", self.repository);
        }
        if let Some(odd) = self.monitor.as_ref().map(|job| &job.environment).filter(|name| !is_word(name)) {
            bail!("[github]: environment `{odd}` of the monitoring is more than letters, digits, `-`, `_` and `.`");
        }
        if let Some(subject) = &self.subject
            && !subject.strip_prefix("repo:").is_some_and(|rest| !rest.is_empty() && !rest.contains([':', '*', '?']))
        {
            bail!("[github]: subject `{subject}` does not begin with `repo:` or goes on after the repository");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_an_owner_and_a_name() {
        let github = |repository: &str, subject: Option<&str>| GitHub {
            repository: repository.into(),
            subject: subject.map(String::from),
            monitor: None,
        };
        assert!(github(UNNAMED_REPOSITORY, None).is_unnamed());
        let plain = github("team/models", None);
        plain.check().unwrap();
        assert_eq!(plain.subject_of("preprod"), "repo:team/models:environment:preprod");
        let numbered = github("team/models", Some("repo:team@12/models@34"));
        numbered.check().unwrap();
        assert_eq!(numbered.subject_of("preprod"), "repo:team@12/models@34:environment:preprod");
        for (repository, subject) in [("team", None), ("team/*", None), ("a/b/c", None), ("a/b", Some("repo:*"))] {
            assert!(github(repository, subject).check().is_err(), "{repository} {subject:?}");
        }
    }
}
