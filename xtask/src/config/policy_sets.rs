//! Policies that are judged together, and what their denials do.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Policies that are judged together.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySet {
    pub name: String,
    /// The Rego package whose `deny`, `violation` and `warn` are asked.
    pub package: String,
    pub policies: Vec<PathBuf>,
    pub on_failure: Consequence,
}

/// What a denial does, everywhere or by environment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Consequence {
    Everywhere(OnFailure),
    /// By the environment's name; `default` for all others.
    ByEnvironment(BTreeMap<String, OnFailure>),
}

impl Consequence {
    /// What a denial does in an environment; where nothing is said, it stops.
    pub fn in_environment(&self, environment: &str) -> OnFailure {
        match self {
            Consequence::Everywhere(on_failure) => *on_failure,
            Consequence::ByEnvironment(by_name) => {
                let said = by_name.get(environment).or_else(|| by_name.get("default"));
                said.copied().unwrap_or(OnFailure::Error)
            }
        }
    }
}

/// What a denial does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Say so and go on.
    Warn,
    /// Stop with exit code 3.
    Error,
}

#[cfg(test)]
mod tests {
    use super::OnFailure;
    use crate::config::{SHIPPED, parse};

    #[test]
    fn a_denial_can_do_different_things_in_different_environments() {
        let with = |text: &str| parse(&SHIPPED.replacen("on_failure = \"error\"", text, 1));
        let set = |text: &str| with(text).unwrap().policy_sets[0].on_failure.clone();
        let warns_here = set("on_failure = { default = \"error\", local = \"warn\" }");
        assert_eq!(warns_here.in_environment("local"), OnFailure::Warn);
        assert_eq!(warns_here.in_environment("production"), OnFailure::Error);
        assert_eq!(set("on_failure = { local = \"warn\" }").in_environment("preprod"), OnFailure::Error);
        assert_eq!(set("on_failure = \"warn\"").in_environment("preprod"), OnFailure::Warn);
        assert!(format!("{:#}", with("on_failure = { lokal = \"warn\" }").unwrap_err()).contains("`lokal`"));
        assert!(with("on_failure = \"ignore\"").is_err());
    }
}
