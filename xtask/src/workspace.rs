//! Where things are: the checkout, its target folder, cargo.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// The root of the checkout.
pub fn root() -> PathBuf {
    // Cargo tells it at run time; what was compiled in is wrong when two checkouts share a target folder.
    let manifest = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.parent().map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// The folder for everything that can be made again.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) if !folder.is_empty() => root().join(folder),
        _ => root().join("target"),
    }
}

/// A cargo command that runs in the root of the checkout.
pub fn cargo() -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(root());
    // What cargo told this program about itself would make build scripts think that something has changed, and everything
    // would be compiled once for `cargo test` and once for us.
    for (name, _) in env::vars_os() {
        let told = name.to_string_lossy();
        if told.starts_with("CARGO_PKG_") || told.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// A variable of our own environment; empty counts as unset, and `<name>_FILE` may name a file that holds the value.
pub fn setting(name: &str) -> Option<String> {
    let own = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    own(name).or_else(|| {
        let content = std::fs::read_to_string(own(&format!("{name}_FILE"))?).ok()?;
        Some(content.trim_end_matches(['\r', '\n']).to_owned()).filter(|value| !value.is_empty())
    })
}
