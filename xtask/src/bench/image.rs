//! What a deployment weighs: the inference image and the zip package, beside what the Python handler needs installed.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::Figure;
use super::cold::{HANDLER, PEER_PROJECT};
use crate::records::{self, Stage};
use crate::stages::build;
use crate::terminal::{Progress, note};
use crate::{package, paths, tools};

const PEER: &str = "Python handler";

/// Sizes of the newest run's image and of the peer.
pub(super) fn measure(root: &Path) -> Result<Vec<Figure>> {
    let run = paths::latest(root);
    let record = records::read_verified::<build::Content>(&run, Stage::Build)
        .context("the benchmark weighs what `cargo xtask pipeline` built")?;
    let image = &record.content.image;
    tools::python_environment(root, Path::new(PEER_PROJECT))?;
    let project = root.join(PEER_PROJECT);
    let packages = site_packages(&project.join(".venv"))?;
    let model = run.join("model.joblib");
    note("the Python handler is counted without its base image and interpreter, and without compiled bytecode");
    let progress = Progress::start("compress the Python packages", None);
    let installed = weigh(&[packages, project.join(HANDLER), model.clone()])?;
    drop(progress);

    let mut figures = vec![
        Figure::new("image, compressed", image.bytes as f64, "bytes").beside(PEER, installed.compressed as f64),
        Figure::new("image, unpacked", image.uncompressed_bytes as f64, "bytes").beside(PEER, installed.plain as f64),
    ];
    let read = |name: &str| fs::read(run.join(name)).with_context(|| format!("read {name} of run {}", record.run));
    let package = package::assemble(&read("bootstrap")?, &read("model.bin")?)?;
    let zip = Figure::new("zip package", package.bytes.len() as f64, "bytes");
    figures.push(zip.beside(PEER, installed.compressed as f64));
    for layer in &image.layers {
        figures.push(Figure::new(format!("layer {}, compressed", layer.content), layer.bytes as f64, "bytes"));
    }
    let Some(layer) = image.layers.iter().find(|layer| layer.content == "model") else {
        bail!("the image of run {} has no model layer: run `cargo xtask build` to make it anew", record.run);
    };
    // To the peer's favour its model is a layer of its own, above the packages.
    let retrained = weigh(&[model])?;
    figures.push(
        Figure::new("pushed by a retrain", layer.bytes as f64, "bytes").beside(PEER, retrained.compressed as f64),
    );
    Ok(figures)
}

/// Where an environment keeps its packages: `lib/python3.…/site-packages`.
fn site_packages(environment: &Path) -> Result<PathBuf> {
    let library = environment.join("lib");
    let entries = fs::read_dir(&library).with_context(|| format!("list {}", library.display()))?;
    let found = entries.filter_map(|entry| Some(entry.ok()?.path().join("site-packages"))).find(|path| path.is_dir());
    found.with_context(|| format!("no site-packages in {}", library.display()))
}

/// Bytes of files, and of a gzip layer that holds them.
#[derive(Debug, PartialEq)]
struct Weight {
    plain: u64,
    compressed: u64,
}

fn weigh(paths: &[PathBuf]) -> Result<Weight> {
    let mut archive = tar::Builder::new(GzEncoder::new(Counter(0), Compression::default()));
    let mut plain = 0;
    for path in paths {
        plain += add(&mut archive, path, Path::new(path.file_name().context("a file has a name")?))
            .with_context(|| format!("weigh {}", path.display()))?;
    }
    let compressed = archive.into_inner().and_then(GzEncoder::finish).context("compress")?.0;
    Ok(Weight { plain, compressed })
}

/// Adds a file or a tree; gives the bytes of its files.
fn add(archive: &mut tar::Builder<impl Write>, path: &Path, name: &Path) -> io::Result<u64> {
    if !path.is_dir() {
        archive.append_path_with_name(path, name)?;
        return Ok(fs::metadata(path)?.len());
    }
    let mut entries: Vec<_> = fs::read_dir(path)?.collect::<io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    let mut plain = 0;
    for entry in entries {
        // Bytecode appears as modules are first used: with it the size would depend on what was run before.
        if entry.file_name() != "__pycache__" {
            plain += add(archive, &entry.path(), &name.join(entry.file_name()))?;
        }
    }
    Ok(plain)
}

/// Counts what is written to it and keeps nothing.
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_weighs_its_files_without_bytecode() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("packages");
        fs::create_dir_all(tree.join("one/__pycache__")).unwrap();
        fs::write(tree.join("one/a.py"), "x".repeat(100_000)).unwrap();
        fs::write(tree.join("one/__pycache__/a.pyc"), "bytecode").unwrap();
        fs::write(folder.path().join("handler.py"), "12345").unwrap();
        let weight = weigh(&[tree, folder.path().join("handler.py")]).unwrap();
        assert_eq!(weight.plain, 100_005);
        assert!((100..2_000).contains(&weight.compressed), "{weight:?}");
        assert!(weigh(&[folder.path().join("absent")]).is_err());
    }
}
