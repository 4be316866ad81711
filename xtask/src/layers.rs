//! Which crate may know which: read from the manifests, so that the picture in the documentation is a fact.

use std::process::ExitCode;

use serde::Deserialize;

use crate::{
    failure::{Context, Failure, Outcome},
    workspace,
};

/// What a crate may know in code that ships. A crate that is not listed is a violation: say where it belongs.
const KNOWS: [(&str, Knows); 12] = [
    ("domain", Knows::Only(&[])),
    ("gather", Knows::Only(&[])),
    // Reading variables is needed wherever a crate has some of its own, and knows nothing itself.
    ("settings", Knows::Only(&[])),
    ("secrets", Knows::Only(&["settings"])),
    ("telemetry", Knows::Only(&["settings"])),
    ("db", Knows::Only(&["domain", "settings"])),
    ("queue", Knows::Only(&["domain", "gather", "settings"])),
    ("api-gateway", Knows::Libraries),
    ("distance-worker", Knows::Libraries),
    ("testkit", Knows::Libraries),
    // Journeys through the built programs: it knows their files, not their code.
    ("e2e", Knows::Only(&[])),
    ("xtask", Knows::Anything),
];

/// Services know libraries, and each other never.
const SERVICES: [&str; 2] = ["api-gateway", "distance-worker"];

/// External crates that have one home: a word of their names, what they are, and the home.
const HOMES: [(&str, &str, &str); 3] =
    [("diesel", "Diesel", "db"), ("redis", "Redis", "queue"), ("actix", "actix", "api-gateway")];

#[derive(Clone, Copy)]
enum Knows {
    Only(&'static [&'static str]),
    Libraries,
    Anything,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

/// Reads all manifests and prints every violation.
pub fn run() -> Outcome<ExitCode> {
    let mut cargo = workspace::cargo();
    let output = cargo.args(["metadata", "--no-deps", "--format-version", "1"]).output().context("cannot run cargo")?;
    if !output.status.success() {
        return Err(Failure::new(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let metadata = serde_json::from_slice(&output.stdout).context("cargo metadata is not understood")?;
    let violations = violations(&metadata);
    for violation in &violations {
        say!("layers: {violation}");
    }
    if violations.is_empty() {
        say!("layers: {} crates know only what they may", metadata.packages.len());
    }
    Ok(if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn violations(metadata: &Metadata) -> Vec<String> {
    let ours = |name: &str| metadata.packages.iter().any(|package| package.name == name);
    let mut violations = Vec::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let Some((_, knows)) = KNOWS.iter().find(|(known, _)| *known == name) else {
            violations.push(format!("`{name}` has no layer: say in xtask/src/layers.rs what it may know"));
            continue;
        };
        for dependency in &package.dependencies {
            let other = dependency.name.as_str();
            let for_tests = dependency.kind.as_deref() == Some("dev");
            if ours(other) {
                if let Some(reason) = refusal(name, *knows, other, for_tests) {
                    violations.push(format!("`{name}` must not know `{other}`: {reason}"));
                }
                continue;
            }
            for (word, what, home) in HOMES {
                // `diesel_migrations`, `deadpool-redis`, `actix-web`: the word stands by itself.
                if other.split(['-', '_']).any(|part| part == word) && name != home {
                    violations.push(format!("`{name}` must not know `{other}`: {what} lives in `{home}` alone"));
                }
            }
        }
    }
    violations
}

fn refusal(name: &str, knows: Knows, other: &str, for_tests: bool) -> Option<String> {
    if other == "testkit" {
        let allowed = for_tests || name == "xtask";
        return (!allowed).then(|| "it is for tests, so only a dev-dependency".to_owned());
    }
    match knows {
        Knows::Anything => None,
        // A test from outside may need both programs; code that ships never does.
        Knows::Libraries if for_tests => None,
        Knows::Libraries if SERVICES.contains(&other) => Some("services are known by nobody".to_owned()),
        Knows::Libraries if other == "xtask" => Some("it is a tool".to_owned()),
        Knows::Libraries => None,
        Knows::Only(allowed) if allowed.contains(&other) => None,
        Knows::Only([]) => Some("it knows no crate of ours".to_owned()),
        Knows::Only(allowed) => Some(format!("it knows {} alone", allowed.join(" and "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `"db: domain, diesel, +testkit"`: a package and what it depends on, `+` for a dev-dependency.
    fn judge(packages: &[&str]) -> Vec<String> {
        let packages = packages
            .iter()
            .map(|line| {
                let (name, dependencies) = line.split_once(':').unwrap();
                let dependencies = dependencies.split(',').map(str::trim).filter(|name| !name.is_empty());
                let dependencies = dependencies.map(|name| Dependency {
                    name: name.trim_start_matches('+').to_owned(),
                    kind: name.starts_with('+').then(|| "dev".to_owned()),
                });
                Package { name: name.to_owned(), dependencies: dependencies.collect() }
            })
            .collect();
        violations(&Metadata { packages })
    }

    #[test]
    fn the_intended_picture_has_no_violation() {
        let none: [String; 0] = [];
        let picture = [
            "domain: chrono, +testkit",
            "gather: tokio",
            "telemetry: tracing",
            "db: domain, diesel, diesel-async, diesel_migrations, +testkit",
            "queue: domain, gather, redis, +testkit",
            "api-gateway: domain, db, queue, telemetry, gather, actix-web, actix-cors, +testkit, +distance-worker",
            "distance-worker: domain, db, queue, telemetry, +testkit",
            "testkit: domain, db",
            "xtask: testkit, domain, tool-for-redis",
        ];
        let judged = judge(&picture[..8]);
        assert_eq!(judged, none);
        assert_eq!(judge(&picture).len(), 1);
    }

    #[test]
    fn every_violation_is_named_at_once() {
        let judged = judge(&[
            "domain: db, redis",
            "gather: domain",
            "telemetry: domain",
            "db: queue, testkit",
            "queue: db, diesel",
            "api-gateway: distance-worker, deadpool-redis",
            "distance-worker: api-gateway, actix-web",
            "testkit:",
            "xtask:",
        ]);
        for expected in [
            "`domain` must not know `db`: it knows no crate of ours",
            "`domain` must not know `redis`: Redis lives in `queue` alone",
            "`gather` must not know `domain`: it knows no crate of ours",
            "`telemetry` must not know `domain`: it knows settings alone",
            "`db` must not know `queue`: it knows domain and settings alone",
            "`db` must not know `testkit`: it is for tests, so only a dev-dependency",
            "`queue` must not know `db`: it knows domain and gather and settings alone",
            "`queue` must not know `diesel`: Diesel lives in `db` alone",
            "`api-gateway` must not know `distance-worker`: services are known by nobody",
            "`api-gateway` must not know `deadpool-redis`: Redis lives in `queue` alone",
            "`distance-worker` must not know `api-gateway`: services are known by nobody",
            "`distance-worker` must not know `actix-web`: actix lives in `api-gateway` alone",
        ] {
            assert!(judged.iter().any(|violation| violation == expected), "{expected}\n{judged:#?}");
        }
        assert_eq!(judged.len(), 12);
    }

    #[test]
    fn a_new_crate_must_say_where_it_belongs() {
        assert_eq!(judge(&["helpers: serde"]).len(), 1);
    }

    #[test]
    fn this_workspace_keeps_to_it() {
        assert_eq!(run().unwrap(), ExitCode::SUCCESS);
    }
}
