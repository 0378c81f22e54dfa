//! The list of crates inside the program: made at build, embedded in the program, read back by the scan.
//!
//! The form is the one of `cargo auditable` (section `.dep-v0`, compressed JSON), so that other tools read it as well. No
//! registry can scan a static program in an empty image; this list is what makes its crates visible.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use auditable_serde::{DependencyKind, Package, Source, VersionInfo};
use serde_json::Value;

use crate::{digest, records};

/// Writes the compressed list of the crates that `package` links on `target`, and gives its path. The file's name is its
/// digest: an unchanged list does not make cargo build anew.
pub fn write_list(root: &Path, folder: &Path, package: &str, target: &str) -> Result<PathBuf> {
    let answer = duct::cmd("cargo", ["metadata", "--format-version", "1", "--locked", "--filter-platform", target])
        .dir(root)
        .stderr_capture()
        .read()
        .context("ask `cargo metadata` for the dependencies: is Cargo.lock up to date?")?;
    let metadata: Value = serde_json::from_str(&answer).context("understand the answer of `cargo metadata`")?;
    let list = serde_json::to_vec(&linked_crates(&metadata, package)?).context("turn the list into JSON")?;
    let mut compressed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    compressed.write_all(&list)?;
    let compressed = compressed.finish()?;
    let path = folder.join(format!("dependencies-{}", digest::short(&digest::of_bytes(&compressed))));
    if std::fs::read(&path).ok().as_deref() != Some(&compressed) {
        records::write_atomically(&path, &compressed)?;
    }
    Ok(path)
}

/// The crates that `package` reaches through ordinary dependencies; those only reached through build scripts and macros
/// are marked as such.
fn linked_crates(metadata: &Value, package: &str) -> Result<VersionInfo> {
    let packages: BTreeMap<&str, &Value> = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|package| Some((package["id"].as_str()?, package)))
        .collect();
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    let root = packages
        .iter()
        .find(|(_, found)| found["name"] == package && found["source"].is_null())
        .map(|(id, _)| *id)
        .with_context(|| format!("the workspace has no crate `{package}`"))?;

    let is_macro = |id: &str| {
        packages[id]["targets"].as_array().into_iter().flatten().any(|target| target["kind"][0] == "proc-macro")
    };
    let edges = |id: &str, kind: DependencyKind| -> Vec<&str> {
        let wanted = |entry: &Value| match kind {
            DependencyKind::Runtime => entry["kind"].is_null(),
            DependencyKind::Build => entry["kind"] == "build",
        };
        nodes
            .get(id)
            .and_then(|node| node["deps"].as_array())
            .into_iter()
            .flatten()
            .filter(|dep| dep["dep_kinds"].as_array().into_iter().flatten().any(&wanted))
            .filter_map(|dep| dep["pkg"].as_str())
            .collect()
    };

    let mut runtime = BTreeSet::from([root]);
    let mut waiting = vec![root];
    while let Some(id) = waiting.pop() {
        for next in edges(id, DependencyKind::Runtime) {
            if !is_macro(next) && runtime.insert(next) {
                waiting.push(next);
            }
        }
    }
    let mut reached = runtime.clone();
    waiting = runtime.iter().copied().collect();
    while let Some(id) = waiting.pop() {
        for next in edges(id, DependencyKind::Runtime).into_iter().chain(edges(id, DependencyKind::Build)) {
            if reached.insert(next) {
                waiting.push(next);
            }
        }
    }

    let mut ordered: Vec<&str> = reached.into_iter().collect();
    ordered.sort_by_key(|id| (packages[id]["name"].as_str(), packages[id]["version"].as_str(), *id));
    let position: BTreeMap<&str, usize> = ordered.iter().enumerate().map(|(index, id)| (*id, index)).collect();
    let packages = ordered
        .iter()
        .map(|id| {
            let found = packages[id];
            let text = |key: &str| found[key].as_str().with_context(|| format!("a package without {key}"));
            let mut dependencies: Vec<usize> = edges(id, DependencyKind::Runtime)
                .into_iter()
                .chain(edges(id, DependencyKind::Build))
                .filter_map(|next| position.get(next).copied())
                .collect();
            dependencies.sort_unstable();
            dependencies.dedup();
            Ok(Package {
                name: text("name")?.to_string(),
                version: text("version")?.parse().context("understand a crate's version")?,
                source: source(found["source"].as_str()),
                kind: if runtime.contains(id) { DependencyKind::Runtime } else { DependencyKind::Build },
                dependencies,
                root: *id == root,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(VersionInfo { packages, format: 0 })
}

fn source(source: Option<&str>) -> Source {
    match source {
        None => Source::Local,
        Some(source) if source.contains("crates.io-index") => Source::CratesIo,
        Some(source) if source.starts_with("git+") => Source::Git,
        Some(_) => Source::Registry,
    }
}

/// A crate inside the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkedCrate {
    pub name: String,
    pub version: String,
    /// Whether its code is in the program, rather than only in what built it.
    pub runtime: bool,
    pub from_crates_io: bool,
    /// Positions in the list of the crates that it needs.
    pub dependencies: Vec<usize>,
}

/// Reads the list out of a program's bytes.
pub fn read_list(program: &[u8]) -> Result<Vec<LinkedCrate>> {
    // The list is a few kilobytes; the limit keeps a hostile program from filling the memory.
    let list = auditable_info::audit_info_from_slice(program, 8 << 20)
        .map_err(|error| anyhow::anyhow!("{error}"))
        .context("read the embedded list of crates from the program")?;
    if list.packages.is_empty() {
        bail!("the program's embedded list of crates is empty");
    }
    Ok(list
        .packages
        .into_iter()
        .map(|package| LinkedCrate {
            name: package.name,
            version: package.version.to_string(),
            runtime: package.kind == DependencyKind::Runtime,
            from_crates_io: package.source == Source::CratesIo,
            dependencies: package.dependencies,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_linked_is_runtime() {
        let package = |name: &str, source: Value, kind: &str| json!({"id": name, "name": name, "version": "1.0.0", "source": source, "targets": [{"kind": [kind]}]});
        let registry = json!("registry+https://github.com/rust-lang/crates.io-index");
        let edge = |name: &str, kind: Value| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [
                package("predictor", Value::Null, "lib"),
                package("serde", registry.clone(), "lib"),
                package("derive", registry.clone(), "proc-macro"),
                package("syn", registry.clone(), "lib"),
                package("cc", registry.clone(), "lib"),
                package("proptest", registry.clone(), "lib"),
            ],
            "resolve": {"nodes": [
                {"id": "predictor", "deps": [edge("serde", Value::Null), edge("derive", Value::Null), edge("proptest", json!("dev"))]},
                {"id": "derive", "deps": [edge("syn", Value::Null)]},
                {"id": "serde", "deps": [edge("cc", json!("build"))]},
            ]},
        });
        let list = linked_crates(&metadata, "predictor").unwrap();
        let kinds: Vec<_> = list.packages.iter().map(|package| (package.name.as_str(), package.kind)).collect();
        use DependencyKind::{Build, Runtime};
        assert_eq!(
            kinds,
            [("cc", Build), ("derive", Build), ("predictor", Runtime), ("serde", Runtime), ("syn", Build)]
        );
        assert_eq!(list.packages.iter().filter(|package| package.root).count(), 1);
        assert!(linked_crates(&metadata, "absent").is_err());
    }

    #[test]
    fn a_program_without_a_list_is_an_error() {
        assert!(read_list(b"\x7fELF nothing").is_err());
    }
}
