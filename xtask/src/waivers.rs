//! Waivers: somebody answers, by name and until a day, for letting one objection of a policy pass.
//!
//! A waiver of pipeline.toml names the id of a rule, or a whole message. It never applies to what kept the rules from being
//! asked, nor to evidence that is missing. One that has expired is a denial by itself; one that fits nothing is a warning.

use anyhow::{Result, bail};
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use crate::policy::{Level, Outcome};

/// A `[[waivers]]` table of pipeline.toml.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiver {
    /// Id of a rule, or exactly the message.
    pub id: String,
    pub owner: String,
    pub reason: String,
    /// The last day that it counts, in UTC.
    pub expires: NaiveDate,
}

/// Who answers for an objection that was let pass, as the verdict records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waived {
    pub owner: String,
    pub reason: String,
    pub expires: NaiveDate,
}

/// What the waivers themselves give cause to say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remarks {
    /// Waivers that have expired, each a denial.
    pub expired: Vec<String>,
    /// Waivers that fit nothing.
    pub unused: Vec<String>,
}

impl Waiver {
    fn has_expired(&self, today: NaiveDate) -> bool {
        today > self.expires
    }
}

/// Refuses waivers that say less than they must.
///
/// # Errors
/// An empty field, or two waivers of one id.
pub fn check(waivers: &[Waiver]) -> Result<()> {
    for (index, waiver) in waivers.iter().enumerate() {
        for (name, text) in [("id", &waiver.id), ("owner", &waiver.owner), ("reason", &waiver.reason)] {
            if text.trim().is_empty() {
                bail!("[[waivers]] `{}`: `{name}` is empty", waiver.id);
            }
        }
        if waivers[..index].iter().any(|other| other.id == waiver.id) {
            bail!("[[waivers]] `{}` is there twice", waiver.id);
        }
    }
    Ok(())
}

/// Waives what is waived, and says which waivers have expired or were not needed.
pub fn apply(waivers: &[Waiver], outcomes: &mut [Outcome], today: NaiveDate) -> Remarks {
    let mut remarks = Remarks::default();
    for waiver in waivers {
        let Waiver { id, owner, reason, expires } = waiver;
        if waiver.has_expired(today) {
            remarks.expired.push(format!(
                "The waiver of {id} by {owner} expired on {expires}: remove it from pipeline.toml, or renew it with a reason"
            ));
            continue;
        }
        let mut used = false;
        let rules =
            outcomes.iter_mut().flat_map(|outcome| &mut outcome.rules).filter(|rule| rule.level != Level::Fault);
        for rule in rules {
            let of_rule = rule.id == *id;
            for message in rule.messages.iter_mut().filter(|message| of_rule || message.text == *id) {
                let waived = Waived { owner: owner.clone(), reason: reason.clone(), expires: *expires };
                message.waived.get_or_insert(waived);
                used = true;
            }
        }
        if !used {
            remarks.unused.push(format!("The waiver of {id} by {owner} is not needed: remove it from pipeline.toml"));
        }
    }
    outcomes.iter_mut().for_each(Outcome::sum_up);
    remarks
}

/// Ids of the waivers that have expired: with the same waivers, a verdict of yesterday need not be that of today.
pub fn expired(waivers: &[Waiver], today: NaiveDate) -> Vec<&str> {
    waivers.iter().filter(|waiver| waiver.has_expired(today)).map(|waiver| waiver.id.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OnFailure;
    use crate::policy::{Message, RuleOutcome};

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    fn waiver(id: &str) -> Waiver {
        Waiver { id: id.into(), owner: "Ann".into(), reason: "known".into(), expires: day("2026-03-01") }
    }

    fn outcome() -> Outcome {
        let rule = |id: &str, level, text: &str| RuleOutcome {
            id: id.into(),
            title: id.into(),
            description: String::new(),
            level,
            path: "p.rego".into(),
            line: 1,
            messages: vec![Message { text: text.into(), waived: None }],
        };
        let mut outcome = Outcome {
            policy_set: "set".into(),
            package: "main".into(),
            on_failure: OnFailure::Error,
            policies: Vec::new(),
            denials: Vec::new(),
            warnings: Vec::new(),
            rules: vec![
                rule("main.low", Level::Deny, "too low"),
                rule("main.late", Level::Deny, "too late"),
                rule("gate.panic", Level::Fault, "panicked"),
            ],
        };
        outcome.sum_up();
        outcome
    }

    fn left(waivers: &[Waiver], today: &str) -> (Vec<String>, Remarks) {
        let mut outcomes = [outcome()];
        let remarks = apply(waivers, &mut outcomes, day(today));
        (outcomes[0].denials.clone(), remarks)
    }

    #[test]
    fn a_waiver_lets_one_rule_or_one_message_pass_and_is_recorded() {
        assert_eq!(
            left(&[waiver("main.low")], "2026-03-01"),
            (vec!["panicked".into(), "too late".into()], Remarks::default())
        );
        assert_eq!(left(&[waiver("too late")], "2026-01-01").0, ["panicked", "too low"]);
        let mut outcomes = [outcome()];
        apply(&[waiver("main.low")], &mut outcomes, day("2026-01-01"));
        let waived: Vec<_> = outcomes[0].waived().collect();
        assert_eq!((waived.len(), waived[0].1, waived[0].2.owner.as_str()), (1, "too low", "Ann"));
    }

    #[test]
    fn a_fault_cannot_be_waived() {
        for id in ["gate.panic", "panicked"] {
            let (denials, remarks) = left(&[waiver(id)], "2026-01-01");
            assert_eq!(denials, ["panicked", "too late", "too low"]);
            assert_eq!(remarks.unused.len(), 1);
        }
    }

    #[test]
    fn an_expired_waiver_waives_nothing_and_is_a_denial() {
        let (denials, remarks) = left(&[waiver("main.low")], "2026-03-02");
        assert_eq!(denials.len(), 3);
        assert!(remarks.expired[0].contains("expired on 2026-03-01") && remarks.unused.is_empty());
        assert_eq!(expired(&[waiver("a")], day("2026-03-02")), ["a"]);
        assert!(expired(&[waiver("a")], day("2026-03-01")).is_empty());
    }

    #[test]
    fn a_waiver_that_fits_nothing_is_said() {
        assert!(left(&[waiver("main.other")], "2026-01-01").1.unused[0].contains("main.other"));
    }

    #[test]
    fn a_waiver_says_who_and_why() {
        check(&[waiver("a"), waiver("b")]).unwrap();
        for wrong in [
            vec![Waiver { owner: " ".into(), ..waiver("a") }],
            vec![Waiver { reason: String::new(), ..waiver("a") }],
            vec![waiver("")],
            vec![waiver("a"), waiver("a")],
        ] {
            assert!(check(&wrong).is_err(), "{wrong:?}");
        }
    }
}
