//! Explaining: one row and a row of a batch, the predictor beside the contributions that xgboost and lightgbm compute themselves and
//! beside the package `shap`.
//!
//! All sides run in this one run, in turns, with one thread, held on one processor where `taskset` is there. The contributions are
//! compared: xgboost's are sums in single precision, and `shap` hands on the library's where it has its own.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde::Deserialize;

use super::score::{PROJECT, Times, held, in_python, last_line};
use super::{Figure, Measured, Options};
use crate::process::Program;
use crate::terminal::note;
use crate::{paths, tools};

/// The models of explain_peers.py; the last one has so few cells that a table answers.
const MODELS: [&str; 4] = ["xgb30", "lgb30", "rf30", "few4"];
/// How often the predictor measures, with its peers in between; the quietest time counts.
const ROUNDS: usize = 2;
/// Contributions further apart than this were made by another model or another method: no rounding explains it.
const FAR: f64 = 1e-3;

/// What a peer took, or why it could not be measured.
#[derive(Deserialize)]
struct Peer {
    peer: String,
    #[serde(flatten)]
    times: Option<Times>,
    /// The greatest difference of a contribution from ours.
    difference: Option<f64>,
    error: Option<String>,
}

/// Times of an explained row, and how far contributions are apart.
pub(super) fn measure(root: &Path, options: &Options) -> Result<Measured> {
    let only = options.only.as_deref().unwrap_or_default();
    let wanted: Vec<&str> = MODELS.into_iter().filter(|model| model.contains(only)).collect();
    if wanted.is_empty() {
        bail!("no model's name contains {only:?}, there are: {}", MODELS.join(", "));
    }
    let environment = tools::python_environment(root, Path::new("model"))?;
    let folder = tempfile::tempdir()?;
    let bench = Bench { root, python: &environment.python, folder: folder.path() };
    note("training the models: a minute or two");
    let preparing = Program::new("train the models", &environment.python, root);
    bench.peers(preparing, &["prepare", &folder.path().display().to_string()]).run(&bench.log("prepare"))?;
    let predictor = bench.compile_predictor()?;
    let mut measured = Measured::from(Vec::new());
    for model in wanted {
        note(&format!("measuring {model}"));
        let (ours, peers) = bench.model(model, &predictor)?;
        measured.figures.extend(figures(model, ours, &peers));
        measured.failures.extend(far_apart(model, &peers));
    }
    Ok(measured)
}

/// One run of the benchmark.
struct Bench<'a> {
    root: &'a Path,
    python: &'a Path,
    /// What is made in this run.
    folder: &'a Path,
}

impl Bench<'_> {
    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    fn peers(&self, program: Program, arguments: &[&str]) -> Program {
        in_python(program.args([self.root.join(PROJECT).join("explain_peers.py")]).args(arguments), self.root)
    }

    /// The measuring program, compiled as the function that ships.
    fn compile_predictor(&self) -> Result<PathBuf> {
        Program::new("compile the predictor for measuring", "cargo", self.root)
            .args(["build", "--locked", "--profile", "lambda", "-p", "lambda-inference", "--example", "explain"])
            .run(&self.log("compile"))?;
        Ok(paths::cargo_target(self.root).join("lambda/examples/explain"))
    }

    /// Our times, and the peers'.
    fn model(&self, model: &str, predictor: &Path) -> Result<(Times, Vec<Peer>)> {
        let mut ours = self.predictor(model, predictor)?;
        let mut peers = Vec::new();
        for _ in 1..ROUNDS {
            let measuring = held("measure the peers", self.python, self.root);
            let log = self.log("peers");
            self.peers(measuring, &["measure", &self.folder.display().to_string(), model]).run(&log)?;
            peers = last_line(&log)?;
            ours = ours.least(self.predictor(model, predictor)?);
        }
        Ok((ours, peers))
    }

    fn predictor(&self, model: &str, predictor: &Path) -> Result<Times> {
        let log = self.log("predictor");
        let files = ["bin", "rows.f64", "ours.f64"].map(|ending| self.folder.join(format!("{model}.{ending}")));
        held("measure the predictor", predictor, self.folder).args(files).run(&log)?;
        last_line(&log)
    }
}

/// Ours beside each peer and beside the faster one, then how far contributions are apart.
fn figures(model: &str, ours: Times, peers: &[Peer]) -> Vec<Figure> {
    type Value = fn(Times) -> f64;
    let kinds: [(&str, Value); 2] =
        [("one row explained", |times| times.one_row), ("explained row of a batch", |times| times.batch)];
    let mut figures = Vec::new();
    for (what, value) in kinds {
        let figure = |more: &str| Figure::new(format!("{model}, {what}{more}"), value(ours) / 1000.0, "µs");
        let mut faster: Option<(&str, f64)> = None;
        for peer in peers {
            let Some(times) = peer.times else {
                figures.push(figure("").without(&peer.peer, peer.error.as_deref().unwrap_or_default()));
                continue;
            };
            let value = value(times) / 1000.0;
            figures.push(figure("").beside(&peer.peer, value));
            if faster.is_none_or(|(_, least)| value < least) {
                faster = Some((&peer.peer, value));
            }
        }
        figures.extend(faster.map(|(name, value)| figure(", the faster peer").beside(name, value)));
    }
    figures.push(Figure::new(format!("{model}, explained rows of a batch"), 1e9 / ours.batch, "rows/s"));
    for peer in peers {
        let name = format!("{model}, greatest difference of a contribution from {}'s", peer.peer);
        figures.extend(peer.difference.map(|difference| Figure::new(name, difference, "raw score")));
    }
    figures
}

/// The peers whose contributions are no rounding away from ours.
fn far_apart(model: &str, peers: &[Peer]) -> Vec<String> {
    let far = peers.iter().filter_map(|peer| Some((peer, peer.difference.filter(|difference| *difference > FAR)?)));
    far.map(|(peer, difference)| format!("{model}: a contribution differs from {}'s by {difference}", peer.peer))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> Vec<Peer> {
        let text = r#"[{"peer": "xgboost", "one_row": 9000.0, "batch": 4000.0, "difference": 1e-6},
            {"peer": "shap", "one_row": 8000.0, "batch": 5000.0, "difference": 0.5}, {"peer": "other", "error": "no"}]"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn every_peer_gets_its_figures_and_a_failed_one_its_reason() {
        let ours = Times { one_row: 2000.0, batch: 100.0 };
        let one = || Figure::new("a, one row explained", 2.0, "µs");
        let batch = || Figure::new("a, explained row of a batch", 0.1, "µs");
        let expected = [
            one().beside("xgboost", 9.0),
            one().beside("shap", 8.0),
            one().without("other", "no"),
            Figure::new("a, one row explained, the faster peer", 2.0, "µs").beside("shap", 8.0),
            batch().beside("xgboost", 4.0),
            batch().beside("shap", 5.0),
            batch().without("other", "no"),
            Figure::new("a, explained row of a batch, the faster peer", 0.1, "µs").beside("xgboost", 4.0),
            Figure::new("a, explained rows of a batch", 1e7, "rows/s"),
            Figure::new("a, greatest difference of a contribution from xgboost's", 1e-6, "raw score"),
            Figure::new("a, greatest difference of a contribution from shap's", 0.5, "raw score"),
        ];
        assert_eq!(figures("a", ours, &peers()), expected);
    }

    #[test]
    fn contributions_that_no_rounding_explains_are_a_failure() {
        assert_eq!(far_apart("a", &peers()), ["a: a contribution differs from shap's by 0.5"]);
    }
}
