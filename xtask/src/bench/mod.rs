//! Benchmarks: every figure stands beside its peer's, measured in the same run on the same machine.
//!
//! `ratio` is the peer's value over ours. All figures are times or sizes, so above 1 ours is the better one. A figure
//! without a peer has neither.

mod batch;
mod cold;
mod explain;
mod fairness;
mod faults;
mod gate;
mod image;
mod runtime_api;
mod score;
mod test;

use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::terminal;

/// Measures one thing.
type Benchmark = fn(&Path, &Options) -> Result<Measured>;

/// Every benchmark, by the name that the command line takes.
const BENCHMARKS: [(&str, Benchmark); 8] = [
    ("cold", |root, _| cold::measure(root).map(Measured::from)),
    ("explain", explain::measure),
    ("fairness", |root, _| fairness::measure(root)),
    ("faults", faults::measure),
    ("gate", gate::measure),
    ("image", |root, _| image::measure(root).map(Measured::from)),
    ("score", score::measure),
    ("test", |root, _| test::measure(root)),
];

/// Options of `bench`.
#[derive(Args)]
pub struct Options {
    /// What to measure.
    name: String,
    /// A sample that takes a minute, where everything takes several (faults, gate).
    #[arg(long)]
    quick: bool,
    /// Only the cases whose name contains this text; for gate `inputs` or `mutants` alone (explain, faults, score).
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// What was measured, and what should not have come to light.
struct Measured {
    figures: Vec<Figure>,
    failures: Vec<String>,
}

impl From<Vec<Figure>> for Measured {
    fn from(figures: Vec<Figure>) -> Measured {
        Measured { figures, failures: Vec::new() }
    }
}

/// One measured value.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    peer: Option<Peer>,
}

/// What the value is held against.
#[derive(Debug, Clone, PartialEq)]
struct Peer {
    name: String,
    /// None where it could not be measured.
    value: Option<f64>,
}

impl Figure {
    fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Figure {
        Figure { name: name.into(), value, unit, peer: None }
    }

    /// The same figure of something else, in the same unit.
    fn beside(mut self, name: impl Into<String>, value: f64) -> Figure {
        self.peer = Some(Peer { name: name.into(), value: Some(value) });
        self
    }

    /// Beside something that could not be measured.
    fn without(mut self, name: &str, reason: &str) -> Figure {
        self.peer = Some(Peer { name: format!("{name}: not measured: {reason}"), value: None });
        self
    }

    /// How many times the peer's value is ours; nothing where ours is zero.
    fn ratio(&self) -> Option<f64> {
        let ratio = self.peer.as_ref()?.value? / self.value;
        ratio.is_finite().then_some(ratio)
    }
}

/// Runs a benchmark and prints its figures: a table, or one line of JSON.
///
/// # Errors
/// There is no such benchmark, what it measures was not built, an answer was wrong, or a case failed.
pub fn run(root: &Path, options: &Options, json: bool) -> Result<()> {
    let Some((name, measure)) = BENCHMARKS.iter().find(|(known, _)| *known == options.name) else {
        let known: Vec<_> = BENCHMARKS.iter().map(|(known, _)| *known).collect();
        bail!("there is no benchmark {:?}, there are: {}", options.name, known.join(", "));
    };
    let Measured { figures, failures } = measure(root, options)?;
    if json {
        println!("{}", as_json(name, &figures));
    } else {
        print!("{}", as_table(&figures));
        if figures.iter().any(|figure| figure.peer.is_some()) {
            terminal::note("ratio: the peer's value over ours, above 1 ours is better");
        }
    }
    match failures.len() {
        0 => Ok(()),
        count => bail!("{count} failed:\n  {}", failures.join("\n  ")),
    }
}

fn as_json(name: &str, figures: &[Figure]) -> Value {
    let figures: Vec<_> = figures
        .iter()
        .map(|figure| {
            json!({
                "name": figure.name,
                "value": rounded(figure.value),
                "unit": figure.unit,
                "peer": figure.peer.as_ref().map(|peer| peer.name.as_str()),
                "peer_value": figure.peer.as_ref().and_then(|peer| peer.value).map(rounded),
                "ratio": figure.ratio().map(rounded),
            })
        })
        .collect();
    json!({"bench": name, "figures": figures})
}

fn as_table(figures: &[Figure]) -> String {
    let head = ["figure", "ours", "unit", "peer", "peer's", "ratio"].map(String::from);
    let rows = figures.iter().map(|figure| {
        let peer = figure.peer.as_ref();
        [
            figure.name.clone(),
            number(figure.value),
            figure.unit.to_string(),
            peer.map_or("-".to_string(), |peer| peer.name.clone()),
            peer.and_then(|peer| peer.value).map_or("-".to_string(), number),
            figure.ratio().map_or("-".to_string(), number),
        ]
    });
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(rows).collect();
    // Numbers end at the same column, words begin there.
    let to_the_right = [false, true, false, false, true, true];
    let widths: [usize; 6] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default());
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<_> = row
            .iter()
            .zip(widths)
            .zip(to_the_right)
            .map(|((cell, width), right)| if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") })
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// As many digits as are worth reading: counts and large values whole, small ones to a hundredth, tiny ones by their exponent.
fn number(value: f64) -> String {
    if value != 0.0 && value.abs() < 0.001 {
        format!("{value:.1e}")
    } else if value.fract() == 0.0 || value.abs() >= 1000.0 {
        format!("{value:.0}")
    } else if value.abs() >= 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// To a thousandth: what lies behind is noise, and makes results hard to read and compare. Less than that stays what it is,
/// so that a small difference does not become none.
fn rounded(value: f64) -> Value {
    if value != 0.0 && value.abs() < 0.001 {
        return json!(value);
    }
    let value = (value * 1000.0).round() / 1000.0;
    if value.fract() == 0.0 && value.abs() < 9e15 { json!(value as i64) } else { json!(value) }
}

/// The middle value, or the mean of the two in the middle.
///
/// # Errors
/// There is no value.
fn median(values: &[f64]) -> Result<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => bail!("nothing was measured"),
        length if length % 2 == 1 => Ok(sorted[middle]),
        _ => Ok(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The least value.
///
/// # Errors
/// There is no value.
fn minimum(values: &[f64]) -> Result<f64> {
    match values.iter().copied().min_by(f64::total_cmp) {
        Some(least) => Ok(least),
        None => bail!("nothing was measured"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_of_nothing_an_error() {
        assert_eq!(median(&[3.0, 1.0, 2.0]).unwrap(), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]).unwrap(), 2.5);
        assert_eq!(median(&[7.0]).unwrap(), 7.0);
        assert!(median(&[]).is_err());
        assert_eq!(minimum(&[3.0, 1.0, 2.0]).unwrap(), 1.0);
        assert!(minimum(&[]).is_err());
    }

    fn figures() -> Vec<Figure> {
        vec![Figure::new("cold start", 1.5, "ms").beside("python", 450.0), Figure::new("layer", 1_234.0, "bytes")]
    }

    #[test]
    fn the_ratio_is_the_peers_value_over_ours() {
        let figures = figures();
        assert_eq!(figures[0].ratio(), Some(300.0));
        assert_eq!(figures[1].ratio(), None);
        assert_eq!(Figure::new("nothing", 0.0, "bytes").beside("python", 1.0).ratio(), None);
        assert_eq!(Figure::new("cold start", 1.5, "ms").without("python", "it is missing").ratio(), None);
    }

    #[test]
    fn json_has_every_key_in_every_figure() {
        let expected = json!({"bench": "cold", "figures": [
            {"name": "cold start", "value": 1.5, "unit": "ms", "peer": "python", "peer_value": 450, "ratio": 300},
            {"name": "layer", "value": 1234, "unit": "bytes", "peer": null, "peer_value": null, "ratio": null},
            {"name": "size", "value": 2, "unit": "bytes", "peer": "go: not measured: no", "peer_value": null, "ratio": null},
        ]});
        let mut figures = figures();
        figures.push(Figure::new("size", 2.0, "bytes").without("go", "no"));
        assert_eq!(as_json("cold", &figures), expected);
    }

    #[test]
    fn a_tiny_value_is_not_none() {
        assert_eq!((number(2.2e-16), rounded(2.2e-16)), ("2.2e-16".to_string(), json!(2.2e-16)));
        assert_eq!((number(0.0), rounded(0.0)), ("0".to_string(), json!(0)));
    }

    #[test]
    fn the_table_lines_up() {
        let expected = "figure      ours  unit   peer    peer's  ratio\n\
                        cold start  1.50  ms     python     450    300\n\
                        layer       1234  bytes  -            -      -\n";
        assert_eq!(as_table(&figures()), expected);
    }

    #[test]
    fn an_unknown_name_is_answered_with_those_that_exist() {
        let options = Options { name: "warm".to_string(), quick: false, only: None };
        let error = run(Path::new("."), &options, false).unwrap_err().to_string();
        assert!(
            error.contains("\"warm\"") && error.contains("cold, explain, fairness, faults, gate, image"),
            "{error}"
        );
    }
}
