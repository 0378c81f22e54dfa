//! The comparison of two models' decisions on the same applications.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::Serialize;

/// What a model says of one application.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Prediction {
    pub approved: bool,
    /// Of approval.
    pub probability: f64,
}

/// A sensitive attribute: its name and the group of every application.
pub struct Attribute {
    pub name: String,
    pub groups: Vec<String>,
}

/// How the decisions on some applications change. Rates and shares are of all of these applications, 0 to 1.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Counts {
    pub applications: usize,
    pub approved_before: usize,
    pub approved_after: usize,
    pub approval_rate_before: f64,
    pub approval_rate_after: f64,
    pub approve_to_deny: usize,
    pub approve_to_deny_share: f64,
    pub deny_to_approve: usize,
    pub deny_to_approve_share: f64,
}

/// How the decisions change in all, and in each group of each sensitive attribute.
#[derive(Debug, PartialEq, Serialize)]
pub struct Comparison {
    pub overall: Counts,
    pub attributes: Vec<Groups>,
}

/// The groups of an attribute.
#[derive(Debug, PartialEq, Serialize)]
pub struct Groups {
    pub name: String,
    /// Numbers in their order, then names in theirs.
    pub groups: Vec<Group>,
}

/// One group.
#[derive(Debug, PartialEq, Serialize)]
pub struct Group {
    pub group: String,
    #[serde(flatten)]
    pub counts: Counts,
}

impl Counts {
    fn of<'a>(pairs: impl Iterator<Item = (&'a Prediction, &'a Prediction)>) -> Counts {
        let mut counts = Counts::default();
        for (before, after) in pairs {
            counts.applications += 1;
            counts.approved_before += usize::from(before.approved);
            counts.approved_after += usize::from(after.approved);
            counts.approve_to_deny += usize::from(before.approved && !after.approved);
            counts.deny_to_approve += usize::from(!before.approved && after.approved);
        }
        let share = |part: usize| part as f64 / counts.applications.max(1) as f64;
        Counts {
            approval_rate_before: share(counts.approved_before),
            approval_rate_after: share(counts.approved_after),
            approve_to_deny_share: share(counts.approve_to_deny),
            deny_to_approve_share: share(counts.deny_to_approve),
            ..counts
        }
    }
}

impl Groups {
    /// The widest difference between the approval rates of two groups, 0 to 1: before and after.
    pub fn gaps(&self) -> (f64, f64) {
        let width = |rate: fn(&Counts) -> f64| {
            let rates = || self.groups.iter().map(|group| rate(&group.counts));
            (rates().fold(0.0, f64::max) - rates().fold(1.0, f64::min)).max(0.0)
        };
        (width(|counts| counts.approval_rate_before), width(|counts| counts.approval_rate_after))
    }
}

/// Compares two tables of predictions; all tables and attributes have the applications in the same order.
pub fn compare(before: &[Prediction], after: &[Prediction], attributes: &[Attribute]) -> Comparison {
    let of_attribute = |attribute: &Attribute| {
        let mut members: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (row, group) in attribute.groups.iter().enumerate() {
            members.entry(group).or_default().push(row);
        }
        let mut groups: Vec<_> = members
            .into_iter()
            .map(|(group, rows)| Group {
                group: group.to_string(),
                counts: Counts::of(rows.into_iter().map(|row| (&before[row], &after[row]))),
            })
            .collect();
        groups.sort_by(|left, right| by_number_then_name(&left.group, &right.group));
        Groups { name: attribute.name.clone(), groups }
    };
    Comparison {
        overall: Counts::of(before.iter().zip(after)),
        attributes: attributes.iter().map(of_attribute).collect(),
    }
}

fn by_number_then_name(left: &str, right: &str) -> Ordering {
    match (left.parse::<f64>(), right.parse::<f64>()) {
        (Ok(left), Ok(right)) => left.total_cmp(&right),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => left.cmp(right),
    }
}

/// Rows of at most `most` flips, those with the greatest change of probability: half of each direction, as far as there are so
/// many; those that would be denied first.
pub fn examples(before: &[Prediction], after: &[Prediction], most: usize) -> Vec<usize> {
    let change = |row: usize| (after[row].probability - before[row].probability).abs();
    let flips = |approved_before: bool| {
        let mut rows: Vec<_> = (0..before.len())
            .filter(|row| before[*row].approved == approved_before && after[*row].approved != approved_before)
            .collect();
        // Stable: of equal changes the earlier application comes first.
        rows.sort_by(|left, right| change(*right).total_cmp(&change(*left)));
        rows
    };
    let (mut denied, mut approved) = (flips(true), flips(false));
    denied.truncate(most - approved.len().min(most / 2));
    approved.truncate(most - denied.len());
    denied.into_iter().chain(approved).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(probabilities: &[f64]) -> Vec<Prediction> {
        probabilities.iter().map(|&probability| Prediction { approved: probability > 0.5, probability }).collect()
    }

    #[test]
    fn flips_are_counted_overall_and_in_every_group() {
        let before = table(&[0.9, 0.8, 0.1, 0.2, 0.7]);
        let after = table(&[0.4, 0.9, 0.6, 0.1, 0.2]);
        let groups = ["10", "9", "9", "", "10"].map(String::from).to_vec();
        let found = compare(&before, &after, &[Attribute { name: "Group".into(), groups }]);
        let all = &found.overall;
        assert_eq!((all.applications, all.approved_before, all.approved_after), (5, 3, 2));
        assert_eq!((all.approve_to_deny, all.deny_to_approve), (2, 1));
        assert_eq!((all.approve_to_deny_share, all.deny_to_approve_share), (0.4, 0.2));
        assert_eq!((all.approval_rate_before, all.approval_rate_after), (0.6, 0.4));
        let [attribute] = &found.attributes[..] else { panic!("one attribute") };
        let labels: Vec<_> = attribute.groups.iter().map(|group| group.group.as_str()).collect();
        assert_eq!(labels, ["9", "10", ""]);
        let counts = |index: usize| {
            let counts = &attribute.groups[index].counts;
            (counts.applications, counts.approve_to_deny, counts.deny_to_approve)
        };
        assert_eq!([counts(0), counts(1), counts(2)], [(2, 0, 1), (2, 2, 0), (1, 0, 0)]);
        assert_eq!(attribute.groups[0].counts.deny_to_approve_share, 0.5);
        assert_eq!(attribute.gaps(), (1.0, 1.0));
    }

    #[test]
    fn no_application_is_no_division_by_zero() {
        let found = compare(&[], &[], &[Attribute { name: "Group".into(), groups: Vec::new() }]);
        assert_eq!(found.overall, Counts::default());
        assert!(found.attributes[0].groups.is_empty());
        assert_eq!(found.attributes[0].gaps(), (0.0, 0.0));
        assert!(examples(&[], &[], 10).is_empty());
    }

    #[test]
    fn examples_are_the_greatest_changes_of_both_directions() {
        let before = table(&[0.6, 0.9, 0.7, 0.8, 0.2, 0.4, 0.9]);
        let after = table(&[0.4, 0.1, 0.4, 0.2, 0.9, 0.3, 0.8]);
        assert_eq!(examples(&before, &after, 2), [1, 4]);
        // One direction fills up what the other leaves free.
        assert_eq!(examples(&before, &after, 4), [1, 3, 2, 4]);
        assert_eq!(examples(&after, &before, 4), [4, 1, 3, 2]);
        assert_eq!(examples(&before, &after, 10), [1, 3, 2, 0, 4]);
        assert!(examples(&before, &before, 10).is_empty());
    }
}
