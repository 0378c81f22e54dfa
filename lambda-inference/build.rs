//! Hands the list of linked crates, made by whoever calls the build, to the program that embeds it.

use std::path::PathBuf;

fn main() {
    println!("cargo:rustc-check-cfg=cfg(dependency_list)");
    println!("cargo:rerun-if-env-changed=AUDITABLE_DEPENDENCY_LIST");
    let Some(list) = std::env::var_os("AUDITABLE_DEPENDENCY_LIST").map(PathBuf::from) else { return };
    println!("cargo:rerun-if-changed={}", list.display());
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let bytes = std::fs::read(&list).unwrap_or_else(|error| panic!("read {}: {error}", list.display()));
    std::fs::write(folder.join("dependency-list"), &bytes).expect("write to OUT_DIR");
    std::fs::write(folder.join("dependency-list-length"), bytes.len().to_string()).expect("write to OUT_DIR");
    println!("cargo:rustc-cfg=dependency_list");
}
