//! What the decisions that change are denied for: before, where the candidate approves, and after, where it denies.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::replay::flips::{Attribute, Prediction};

/// Decisions that change, each counted once, under the strongest reason of the model that denies it.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Changed {
    /// The candidate denies for this reason.
    pub approve_to_deny: usize,
    /// The run's model denied for this reason.
    pub deny_to_approve: usize,
}

/// A reason, and how often it is the strongest one.
#[derive(Debug, PartialEq, Serialize)]
pub struct Reason {
    /// Name of the feature.
    pub reason: String,
    pub all: Changed,
    pub groups: Vec<OfGroup>,
}

/// The same of one group, which has any.
#[derive(Debug, PartialEq, Serialize)]
pub struct OfGroup {
    pub attribute: String,
    pub group: String,
    #[serde(flatten)]
    pub changed: Changed,
}

/// Of each group that has any, by the attribute's place and the group's name.
type ByGroup<'a> = BTreeMap<(usize, &'a str), Changed>;

/// The reason of a decision for which the model gives none.
const NONE: &str = "none given";

impl Changed {
    fn add(&mut self, after: Prediction) {
        match after.approved {
            true => self.deny_to_approve += 1,
            false => self.approve_to_deny += 1,
        }
    }

    fn total(&self) -> usize {
        self.approve_to_deny + self.deny_to_approve
    }
}

/// Counts the reasons, the most frequent one first.
///
/// `told` has the reasons of each changed decision by its row, the strongest one first; `attributes` have all rows.
pub fn count(told: &BTreeMap<usize, Vec<String>>, after: &[Prediction], attributes: &[Attribute]) -> Vec<Reason> {
    let mut counted: BTreeMap<&str, (Changed, ByGroup)> = BTreeMap::new();
    for (&row, reasons) in told {
        let (all, groups) = counted.entry(reasons.first().map_or(NONE, String::as_str)).or_default();
        all.add(after[row]);
        for (place, attribute) in attributes.iter().enumerate() {
            groups.entry((place, &attribute.groups[row])).or_default().add(after[row]);
        }
    }
    let group = |((place, group), changed): ((usize, &str), Changed)| OfGroup {
        attribute: attributes[place].name.clone(),
        group: group.to_string(),
        changed,
    };
    let mut reasons: Vec<_> = counted
        .into_iter()
        .map(|(reason, (all, groups))| Reason {
            reason: reason.to_string(),
            all,
            groups: groups.into_iter().map(group).collect(),
        })
        .collect();
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.all.total()));
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_decision_counts_once_under_its_strongest_reason() {
        let after = |approved| Prediction { approved, probability: 0.5 };
        let after = [after(false), after(true), after(false), after(true), after(false)];
        let groups = ["1", "0", "1", "0", "0"].map(String::from).to_vec();
        let told = BTreeMap::from([
            (0, vec!["Income".to_string(), "Car".into()]),
            (1, vec!["Car".into()]),
            (2, vec!["Income".into()]),
            (4, Vec::new()),
        ]);
        let found = count(&told, &after, &[Attribute { name: "Group".into(), groups }]);
        let seen: Vec<_> = found
            .iter()
            .map(|each| {
                let groups = each.groups.iter().map(|of| (of.group.as_str(), of.changed.total())).collect::<Vec<_>>();
                (each.reason.as_str(), each.all.approve_to_deny, each.all.deny_to_approve, groups)
            })
            .collect();
        assert_eq!(
            seen,
            [("Income", 2, 0, vec![("1", 2)]), ("Car", 0, 1, vec![("0", 1)]), ("none given", 1, 0, vec![("0", 1)]),]
        );
        assert!(count(&BTreeMap::new(), &after, &[]).is_empty());
    }
}
