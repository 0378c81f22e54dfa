//! The lines of the output. A further column of it is a further piece of each of the three: header, line, empty line.

use crate::model::{Explainer, Model, Prediction, Scorer};

/// What lines of a model's predictions are made of.
pub(super) struct Lines {
    /// The class labels with their texts.
    labels: Vec<(i64, String)>,
    /// Whether every class has a probability in the line, or only the positive one.
    many: bool,
    /// The columns of explanations, where they are asked for.
    explained: Option<Explained>,
    empty: String,
}

/// What the lines of explanations are made of.
struct Explained {
    /// Names of the features as they stand in a field.
    features: Vec<String>,
    /// The base values, each with its comma.
    base: Vec<u8>,
    /// How many there are.
    scores: usize,
}

impl Lines {
    /// `base` are the base values of explanations, if lines have such.
    pub fn new(model: &Model, base: Option<&[f64]>) -> Lines {
        let classes = model.classes();
        let many = classes.len() > 2;
        let explained = base.map(|base| {
            let mut text = Vec::new();
            base.iter().for_each(|value| add_number(&mut text, *value));
            let features = model.features().iter().map(|feature| feature.name.clone()).collect();
            Explained { features, base: text, scores: base.len() }
        });
        let further = explained.as_ref().map_or(0, |explained| explained.scores * (1 + explained.features.len()) + 1);
        Lines {
            labels: classes.iter().map(|label| (*label, label.to_string())).collect(),
            many,
            explained,
            empty: ",".repeat(further + if many { classes.len() } else { 1 }) + "\n",
        }
    }

    /// The names of the columns.
    pub fn header(&self) -> String {
        let mut header = "prediction".to_string();
        if self.many {
            self.labels.iter().for_each(|(_, label)| header += &format!(",probability_{label}"));
        } else {
            header += ",probability";
        }
        if let Some(explained) = &self.explained {
            let classes = self.labels.iter().map(|(_, label)| format!("_{label}"));
            let endings: Vec<String> = if explained.scores > 1 { classes.collect() } else { vec![String::new()] };
            endings.iter().for_each(|ending| header += &format!(",base{ending}"));
            for ending in &endings {
                for name in &explained.features {
                    header += &format!(",{}", field(format!("contribution_{name}{ending}")));
                }
            }
            header += ",reasons";
        }
        header + "\n"
    }

    /// Adds the line for a row of the scorer's last block, which is the explainer's, too.
    pub fn add(
        &self,
        lines: &mut Vec<u8>,
        scorer: &Scorer<'_>,
        place: usize,
        prediction: Prediction,
        explainer: Option<&Explainer<'_>>,
    ) {
        let label = self.labels.iter().find(|(label, _)| *label == prediction.class);
        lines.extend_from_slice(label.map_or("", |(_, text)| text).as_bytes());
        if self.many {
            scorer.probabilities_of(place).iter().for_each(|probability| add_number(lines, *probability));
        } else {
            add_number(lines, prediction.probability);
        }
        if let (Some(explained), Some(explainer)) = (&self.explained, explainer) {
            explained.add(lines, explainer, place);
        }
        lines.push(b'\n');
    }

    /// Adds the line for a row without a prediction.
    pub fn add_empty(&self, lines: &mut Vec<u8>) {
        lines.extend_from_slice(self.empty.as_bytes());
    }
}

impl Explained {
    /// Adds the fields of a predicted row of the explainer's last block.
    fn add(&self, lines: &mut Vec<u8>, explainer: &Explainer<'_>, place: usize) {
        let (Ok(explanation), Ok(against)) = (explainer.explanation(place), explainer.against(place)) else { return };
        lines.extend_from_slice(&self.base);
        explanation.contributions.iter().for_each(|contribution| add_number(lines, *contribution));
        let names: Vec<&str> = against.iter().map(|(feature, _)| self.features[*feature].as_str()).collect();
        lines.push(b',');
        lines.extend_from_slice(field(names.join(";")).as_bytes());
    }
}

/// A text as a field of CSV, in quotes where it needs them.
fn field(text: String) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

/// A number with as few digits as read back to the same bits.
fn add_number(lines: &mut Vec<u8>, value: f64) {
    lines.push(b',');
    lines.extend_from_slice(zmij::Buffer::new().format(value).as_bytes());
}
