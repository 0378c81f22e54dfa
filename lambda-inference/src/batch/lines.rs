//! The lines of the output. A further column of it is a further piece of each of the three: header, line, empty line.

use crate::model::{Model, Prediction, Scorer};

/// What lines of a model's predictions are made of.
pub(super) struct Lines {
    /// The class labels with their texts.
    labels: Vec<(i64, String)>,
    /// Whether every class has a probability in the line, or only the positive one.
    many: bool,
    empty: String,
}

impl Lines {
    pub fn new(model: &Model) -> Lines {
        let classes = model.classes();
        let many = classes.len() > 2;
        Lines {
            labels: classes.iter().map(|label| (*label, label.to_string())).collect(),
            many,
            empty: ",".repeat(if many { classes.len() } else { 1 }) + "\n",
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
        header + "\n"
    }

    /// Adds the line for a row of the scorer's last block.
    pub fn add(&self, lines: &mut Vec<u8>, scorer: &Scorer<'_>, place: usize, prediction: Prediction) {
        let label = self.labels.iter().find(|(label, _)| *label == prediction.class);
        lines.extend_from_slice(label.map_or("", |(_, text)| text).as_bytes());
        if self.many {
            scorer.probabilities_of(place).iter().for_each(|probability| add_number(lines, *probability));
        } else {
            add_number(lines, prediction.probability);
        }
        lines.push(b'\n');
    }

    /// Adds the line for a row without a prediction.
    pub fn add_empty(&self, lines: &mut Vec<u8>) {
        lines.extend_from_slice(self.empty.as_bytes());
    }
}

/// A number with as few digits as read back to the same bits.
fn add_number(lines: &mut Vec<u8>, value: f64) {
    lines.push(b',');
    lines.extend_from_slice(zmij::Buffer::new().format(value).as_bytes());
}
