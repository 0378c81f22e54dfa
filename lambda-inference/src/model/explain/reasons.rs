//! Reasons for a denial: the features that spoke most against approval, and the smallest change of each that would have changed it.

use super::super::cuts::greatest;
use super::super::steps::{Kind, LOOKUP, Parts, Step};
use super::super::{Feature, FeatureKind, Model, RowError, Scorer};
use super::{Explainer, Plan};

/// Most reasons that a denial gives.
const MOST_REASONS: usize = 4;
/// What may be left of a contribution of zero, as a share of the greatest one.
const ROUNDING: f64 = 1e-12;
/// Rows that are tried together.
const TRIALS: usize = 64;
/// Places at which a linear model is tried on each side of the row's value: evenly up to the end of the feature's range, or at doubling
/// distances where the range has no end.
const LINEAR_PLACES: u32 = 64;

/// Why a row was denied, as far as one feature goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Reason {
    /// Index of the feature.
    pub feature: usize,
    /// What it adds to the raw score of the positive class.
    pub contribution: f64,
    /// The nearest value of this feature that alone changes the decision to the positive class; none if no value in its range does.
    pub counterfactual: Option<f64>,
}

impl Explainer<'_> {
    /// The reasons for a row's denial, the one that spoke most against approval first; none if the row is approved.
    ///
    /// They are the one to four features with the most negative contributions to the positive class. If no contribution is
    /// negative, they are those with the least ones: then the base value alone denies, and what helped least comes first.
    ///
    /// # Errors
    /// The row has a value that the library refuses.
    ///
    /// # Panics
    /// The row has another number of values than there are features.
    pub fn reasons(&mut self, row: &[f64]) -> Result<Vec<Reason>, RowError> {
        self.explain(row)?;
        let against = self.against(0)?;
        if against.is_empty() {
            return Ok(Vec::new());
        }
        let mut trials = Trials::new(self.scorer.model, row);
        let reason = |(feature, contribution)| Reason {
            feature,
            contribution,
            counterfactual: self.plan.counterfactual(&mut trials, feature),
        };
        Ok(against.into_iter().map(reason).collect())
    }

    /// The features of [`Explainer::reasons`] and their contributions, for a row of the last block.
    ///
    /// # Errors
    /// The row has a value that the library refuses.
    ///
    /// # Panics
    /// The last block had no such row.
    pub fn against(&self, row: usize) -> Result<Vec<(usize, f64)>, RowError> {
        let model = self.scorer.model;
        let explanation = self.explanation(row)?;
        if explanation.prediction.class == model.positive_class() {
            return Ok(Vec::new());
        }
        let features = model.features.len();
        let own = if explanation.contributions.len() > features { model.positive * features } else { 0 };
        let contributions = &explanation.contributions[own..][..features];
        let greatest = contributions.iter().fold(0.0, |greatest: f64, contribution| greatest.max(contribution.abs()));
        let mut order: Vec<_> = contributions.iter().copied().enumerate().collect();
        order.sort_by(|(_, one), (_, other)| one.total_cmp(other));
        let negative = order.iter().filter(|(_, contribution)| *contribution < -ROUNDING * greatest).count();
        order.truncate(negative.clamp(1, MOST_REASONS));
        Ok(order)
    }
}

/// A row of which one value is changed.
struct Trials<'a> {
    scorer: Scorer<'a>,
    row: &'a [f64],
    positive: i64,
    /// The row with several values of a feature.
    rows: Vec<f64>,
}

impl<'a> Trials<'a> {
    fn new(model: &'a Model, row: &'a [f64]) -> Trials<'a> {
        Trials { scorer: model.scorer(), row, positive: model.positive_class(), rows: Vec::new() }
    }

    /// Predicts the row with each of these values of a feature; gives the probability where it is approved.
    fn approved(&mut self, feature: usize, values: &[f64]) -> impl Iterator<Item = Option<f64>> {
        self.rows.clear();
        self.rows.reserve(values.len() * self.row.len());
        for value in values {
            let begin = self.rows.len();
            self.rows.extend_from_slice(self.row);
            self.rows[begin + feature] = *value;
        }
        self.scorer.predict_block(&self.rows);
        let answers = (0..values.len()).map(|row| self.scorer.prediction(row).ok());
        answers.map(|found| found.filter(|found| found.class == self.positive).map(|found| found.probability))
    }

    /// The first of these values with which the row is approved.
    fn first(&mut self, feature: usize, values: &[f64]) -> Option<f64> {
        values.chunks(TRIALS).find_map(|values| {
            let place = self.approved(feature, values).position(|probability| probability.is_some())?;
            Some(values[place])
        })
    }

    /// The value with the greatest probability among those with which the row is approved, the first of equals.
    fn likeliest(&mut self, feature: usize, values: &[f64]) -> Option<f64> {
        let approved = self.approved(feature, values);
        let all = values.iter().zip(approved).filter_map(|(value, probability)| Some((*value, probability?)));
        all.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(value, _)| value)
    }

    /// The value nearest to the row's with which it is approved, between the one found and the last tried before it on that side.
    fn nearest(&mut self, feature: usize, tried: &[f64], found: f64) -> f64 {
        let (own, described) = (self.row[feature], &self.scorer.model.features[feature]);
        let rounded = |value: f64, up: bool| match described.kind {
            FeatureKind::Number => value,
            _ if up => value.ceil(),
            _ => value.floor(),
        };
        let ascending = found > own;
        // Where none was tried it begins at the row's own value, or at the end of the range, should that one lie outside.
        let (minimum, maximum) = (rounded(described.minimum, true), rounded(described.maximum, false));
        let begin = rounded(own, !ascending).max(minimum).min(maximum);
        let before = tried.iter().copied().take_while(|value| *value != found);
        let mut denied = before.filter(|value| (*value > own) == ascending).last().unwrap_or(begin);
        let mut approved = found;
        loop {
            let middle = rounded(f64::midpoint(denied, approved), !ascending);
            if middle == denied || middle == approved {
                return approved;
            }
            if self.approved(feature, &[middle]).any(|found| found.is_some()) {
                approved = middle
            } else {
                denied = middle
            }
        }
    }
}

impl Plan {
    /// The nearest value of a feature that alone changes the decision on a row to the positive class.
    ///
    /// Decisions of trees change at their thresholds only: the values at both sides of each are tried, exact in the row's doubles. A linear
    /// model is tried at places all over the range, and the change is then found between two of them. Whole numbers stay
    /// whole, values stay in the feature's range, and none becomes missing. Of the texts, which have no distance, it is
    /// the one with the greatest probability.
    fn counterfactual(&self, trials: &mut Trials, feature: usize) -> Option<f64> {
        let (model, own) = (trials.scorer.model, trials.row[feature]);
        let candidates = self.candidates(model, own, feature);
        let kind = model.features[feature].kind;
        if kind == FeatureKind::Text {
            return trials.likeliest(feature, &candidates);
        }
        let found = trials.first(feature, &candidates)?;
        let is_linear = model.steps.iter().any(|step| step.kind == Kind::Linear);
        if is_linear && own.is_finite() { Some(trials.nearest(feature, &candidates, found)) } else { Some(found) }
    }

    /// Values of a feature at which a decision may change, the nearest to the row's own first.
    fn candidates(&self, model: &Model, own: f64, feature: usize) -> Vec<f64> {
        let described = &model.features[feature];
        let turns = self.turns[feature].get_or_init(|| possible(described, self.turns(model, feature)));
        let is_linear = |step: &Step| step.kind == Kind::Linear && self.inputs(step, feature).count() > 0;
        if described.kind == FeatureKind::Text || !model.steps.iter().any(is_linear) {
            return from_near_to_far(turns, own);
        }
        from_near_to_far(&possible(described, [turns.as_slice(), &places(own, described)].concat()), own)
    }

    /// The values at which the decision of trees and look-ups may change, whatever the row; any order.
    fn turns(&self, model: &Model, feature: usize) -> Vec<f64> {
        let (described, parts) = (&model.features[feature], model.parts());
        if described.kind == FeatureKind::Text {
            return (0..described.texts.len()).map(|text| text as f64).collect();
        }
        let mut values = Vec::new();
        for step in &model.steps {
            match step.kind {
                Kind::Trees => self
                    .inputs(step, feature)
                    .for_each(|slot| at_splits(model, parts, step, slot, described, &mut values)),
                Kind::Ordinal | Kind::OneHot => {
                    values.extend(keys(step, parts, &self.sources[step.input.clone()], feature));
                }
                _ => {}
            }
        }
        values
    }

    /// The slots that a step reads and that were derived from a feature.
    fn inputs(&self, step: &Step, feature: usize) -> impl Iterator<Item = usize> {
        step.input.clone().filter(move |slot| self.sources[*slot] == feature)
    }
}

/// Those values that an application may have, ascending.
fn possible(feature: &Feature, mut values: Vec<f64>) -> Vec<f64> {
    // Minus zero is zero to those who read it.
    values.iter_mut().for_each(|value| *value += 0.0);
    values.retain(|value| is_possible(feature, *value));
    values.sort_unstable_by(f64::total_cmp);
    values.dedup();
    values
}

/// Ascending values other than a row's own, the nearest to it first and the lower of two as near; ascending if the row has none.
fn from_near_to_far(values: &[f64], own: f64) -> Vec<f64> {
    let place = if own.is_nan() { 0 } else { values.partition_point(|value| *value < own) };
    let (mut below, above) = values.split_at(place);
    let mut above = above.strip_prefix(&[own]).unwrap_or(above);
    let mut ordered = Vec::with_capacity(values.len());
    loop {
        match (below, above) {
            ([rest @ .., low], [high, ..]) if own - low <= high - own => (below, _) = (rest, ordered.push(*low)),
            (_, [high, rest @ ..]) => (above, _) = (rest, ordered.push(*high)),
            ([rest @ .., low], []) => (below, _) = (rest, ordered.push(*low)),
            ([], []) => return ordered,
        }
    }
}

/// Whether an application may have this value.
fn is_possible(feature: &Feature, value: f64) -> bool {
    let whole = feature.kind == FeatureKind::Number || value.fract() == 0.0;
    let inside = feature.kind == FeatureKind::Text || (feature.minimum..=feature.maximum).contains(&value);
    value.is_finite() && whole && inside
}

/// The values at both sides of every threshold that a step's trees compare a slot with, and the categories that they ask for.
fn at_splits(model: &Model, parts: Parts<'_>, step: &Step, slot: usize, feature: &Feature, values: &mut Vec<f64>) {
    let Some(changes) = changes(model, parts, slot) else { return };
    let conversion = step.conversion();
    let mut thresholds = Vec::new();
    for node in &parts.nodes.nodes[step.nodes.clone()] {
        if node.is_leaf() || step.input.start + usize::from(node.feature) != slot {
            continue;
        }
        if node.is_plain() {
            thresholds.push(node.threshold);
        } else if let Some(categories) = parts.nodes.categories(node) {
            values.extend((0..=categories).map(|category| category as f64));
        } else {
            // Zero is missing there, and goes its own way.
            thresholds.extend([node.threshold, 0.0, 0.0_f64.next_down()]);
        }
    }
    thresholds.sort_unstable_by(f64::total_cmp);
    thresholds.dedup();
    for threshold in thresholds {
        let cut = greatest(|value| {
            let changed = changes.iter().fold(value, |value, change| change.apply(value));
            conversion.apply(changed) <= threshold
        });
        if feature.kind == FeatureKind::Number {
            values.extend([cut, cut.next_up()]);
        } else {
            values.extend([cut.floor(), cut.floor() + 1.0]);
        }
    }
}

/// What preprocessing does to a value that is there; never descending.
enum Change {
    Standardize([f64; 2]),
    Rescale([f64; 2]),
    Clip([f64; 2]),
}

impl Change {
    fn apply(&self, value: f64) -> f64 {
        match self {
            Change::Standardize([mean, scale]) => (value - mean) / scale,
            Change::Rescale([factor, offset]) => value * factor + offset,
            Change::Clip([low, high]) => value.max(*low).min(*high),
        }
    }
}

/// What a feature's value goes through to a slot; none where it is looked up, so that its order is lost.
fn changes(model: &Model, parts: Parts<'_>, mut slot: usize) -> Option<Vec<Change>> {
    let mut changes = Vec::new();
    while slot >= model.features.len() {
        let step = model.steps.iter().find(|step| step.output.contains(&slot))?;
        let place = slot - step.output.start;
        let numbers = &parts.numbers[step.numbers.clone()];
        let pair = |place: usize| [numbers[2 * place], numbers[2 * place + 1]];
        match step.kind {
            Kind::Select => {
                slot = parts.indices[step.indices.start + place] as usize;
                continue;
            }
            Kind::Impute | Kind::MarkMissing => {}
            Kind::Standardize => changes.push(Change::Standardize(pair(place))),
            Kind::Rescale => {
                if let (true, [.., low, high]) = (numbers.len() > 2 * step.input.len(), numbers) {
                    changes.push(Change::Clip([*low, *high]));
                }
                changes.push(Change::Rescale(pair(place)));
            }
            _ => return None,
        }
        slot = step.input.start + place;
    }
    changes.reverse();
    Some(changes)
}

/// The values that a step looks up in the columns of a feature.
fn keys(step: &Step, parts: Parts<'_>, sources: &[usize], feature: usize) -> Vec<f64> {
    let mut keys = Vec::new();
    let mut begin = step.numbers.start;
    for (column, source) in parts.indices[step.indices.clone()].as_chunks::<LOOKUP>().0.iter().zip(sources) {
        let count = column[0] as usize;
        if *source == feature {
            keys.extend_from_slice(&parts.numbers[begin..begin + count]);
        }
        begin += 2 * count + 2;
    }
    keys
}

/// Values on both sides of a row's own, up to the ends of the feature's range.
fn places(own: f64, feature: &Feature) -> Vec<f64> {
    let own = if own.is_nan() { 0.0 } else { own };
    let on_the_way = |end: f64| {
        (1..=LINEAR_PLACES).map(move |place| {
            let value = if end.is_finite() {
                own + (end - own) * (f64::from(place) / f64::from(LINEAR_PLACES))
            } else {
                own + own.abs().max(1.0) * f64::from(place).exp2() / 65_536.0 * end.signum()
            };
            match feature.kind {
                FeatureKind::Number => value,
                _ if value > own => value.ceil(),
                _ => value.floor(),
            }
        })
    };
    let ends = [feature.minimum, feature.maximum];
    ends.into_iter().flat_map(on_the_way).chain(ends).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_value_comes_first_and_the_own_one_never() {
        let values = [-3.0, 1.0, 2.0, 3.0, 5.0];
        assert_eq!(from_near_to_far(&values, 2.0), [1.0, 3.0, 5.0, -3.0]);
        assert_eq!(from_near_to_far(&values, 2.25), [2.0, 3.0, 1.0, 5.0, -3.0]);
        assert_eq!(from_near_to_far(&values, -4.0), values);
        assert_eq!(from_near_to_far(&values, 6.0), [5.0, 3.0, 2.0, 1.0, -3.0]);
        assert_eq!(from_near_to_far(&values, f64::NAN), values);
        assert!(from_near_to_far(&[], 1.0).is_empty());
    }
}
