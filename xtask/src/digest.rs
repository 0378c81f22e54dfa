//! Digests: identity is what the bytes are, never what they are called.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};

/// SHA-256 of `bytes` as `sha256:<64 hex digits>`.
pub fn of_bytes(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// SHA-256 of a file's content.
pub fn of_file(path: &Path) -> Result<String> {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(format!("sha256:{}", hex::encode(hasher.finalize()))),
                count => hasher.update(&buffer[..count]),
            }
        }
    };
    read().with_context(|| format!("read {}", path.display()))
}

/// Names of folders and files that a tree's digest leaves out: what tools leave behind, never what was written by hand.
const LEFT_OUT: &[&str] =
    &[".venv", "__pycache__", ".ipynb_checkpoints", ".pytest_cache", ".ruff_cache", "output", "target", "node_modules"];

/// The files of a tree in a fixed order, relative to it, without what tools leave behind.
pub fn files_of_tree(root: &Path) -> Result<Vec<PathBuf>> {
    fn walk(root: &Path, folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let left_out = name.to_str().is_some_and(|name| LEFT_OUT.contains(&name) || name.ends_with(".egg-info"));
            if left_out {
                continue;
            }
            let path = entry.path();
            let kind = fs::metadata(&path)?;
            if kind.is_dir() {
                walk(root, &path, found)?;
            } else if kind.is_file() {
                found.push(path.strip_prefix(root).unwrap_or(&path).to_path_buf());
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    walk(root, root, &mut found).with_context(|| format!("list {}", root.display()))?;
    found.sort();
    Ok(found)
}

/// Digest of a tree: SHA-256 over the sorted lines `<digest of file>  <path>`, or of the one file that `root` is.
pub fn of_tree(root: &Path) -> Result<String> {
    if root.is_file() {
        return of_file(root);
    }
    let mut lines = String::new();
    for path in files_of_tree(root)? {
        lines.push_str(&format!("{}  {}\n", of_file(&root.join(&path))?, path.display()));
    }
    Ok(of_bytes(lines.as_bytes()))
}

/// The first twelve hex digits, for people.
pub fn short(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..12).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_its_names_and_contents() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "1").unwrap();
        let first = of_tree(folder.path()).unwrap();
        fs::create_dir(folder.path().join("__pycache__")).unwrap();
        fs::write(folder.path().join("__pycache__/x"), "left out").unwrap();
        assert_eq!(of_tree(folder.path()).unwrap(), first);
        fs::write(folder.path().join("a"), "2").unwrap();
        let second = of_tree(folder.path()).unwrap();
        assert_ne!(second, first);
        fs::rename(folder.path().join("a"), folder.path().join("b")).unwrap();
        assert_ne!(of_tree(folder.path()).unwrap(), second);
    }

    #[test]
    fn of_bytes_is_sha256() {
        assert_eq!(of_bytes(b""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(short(&of_bytes(b"")), "e3b0c44298fc");
    }
}
