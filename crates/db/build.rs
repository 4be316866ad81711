//! The migrations are built in: when one changes, so does this crate.

fn main() {
    println!("cargo::rerun-if-changed=../../migrations");
}
