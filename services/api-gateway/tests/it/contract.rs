//! The description against the contract: every difference is explained in `docs/api/differences.yaml`, or this fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::schema::{Api, LIMITS, Shape, described, plain};

const CONTRACT: &str = include_str!("../../../../docs/api/openapi.yaml");
const DIFFERENCES: &str = include_str!("../../../../docs/api/differences.yaml");
const TESTED: &str = include_str!("../../../../docs/api/tested.yaml");

/// `docs/api/differences.yaml`.
#[derive(Deserialize)]
struct Differences {
    explained: Vec<Explained>,
}

#[derive(Deserialize)]
struct Explained {
    why: String,
    /// `*` stands for anything.
    differences: Vec<String>,
}

fn contract() -> Api {
    Api(yaml_serde::from_str(CONTRACT).unwrap())
}

#[test]
fn the_description_says_what_the_contract_says_except_where_that_is_explained() {
    let Differences { explained } = yaml_serde::from_str(DIFFERENCES).unwrap();
    let found = compare(described(), &contract());
    let patterns: Vec<(&str, &str)> = explained
        .iter()
        .flat_map(|part| part.differences.iter().map(|line| (line.as_str(), part.why.as_str())))
        .collect();
    let mut report = String::new();
    for line in found.iter().filter(|line| !patterns.iter().any(|(pattern, _)| matches(pattern, line))) {
        writeln!(report, "not explained: {line}").unwrap();
    }
    for (pattern, why) in &patterns {
        assert!(why.len() >= 20, "explain it: {pattern}");
        if !found.iter().any(|line| matches(pattern, line)) {
            writeln!(report, "explained, but gone: {pattern}").unwrap();
        }
    }
    assert!(report.is_empty(), "docs/api/differences.yaml:\n{report}");
}

#[test]
fn what_is_served_is_described_and_what_is_described_is_served() {
    let routes: BTreeSet<String> =
        api_gateway::features::table().into_iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    assert_eq!(described().operations().into_keys().collect::<BTreeSet<_>>(), routes);
}

/// Every test below a folder, as `module::function`.
fn tests(folder: &Path, module: &str, found: &mut BTreeSet<String>) {
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if path.is_dir() {
            tests(&path, &format!("{module}{name}::"), found);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if ["#[test]", "#[tokio::test"].iter().any(|mark| line.starts_with(mark))
                && let Some((_, function)) = lines.next().and_then(|line| line.split_once("fn "))
            {
                found.insert(format!("{module}{name}::{}", function.split('(').next().unwrap()));
            }
        }
    }
}

#[test]
fn every_deliberate_difference_has_tests_that_hold_it() {
    let tested: BTreeMap<String, Vec<String>> = yaml_serde::from_str(TESTED).unwrap();
    let mut found = BTreeSet::new();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests(&here.join("tests/it"), "", &mut found);
    tests(&here.join("../distance-worker/tests/it"), "worker ", &mut found);
    assert!(found.len() > 200 && found.contains("security::ssrf::a_webhook_at_home_cannot_be_registered"));
    let gone: Vec<&String> = tested.values().flatten().filter(|test| !found.contains(*test)).collect();
    assert_eq!(gone, Vec::<&String>::new(), "named in docs/api/tested.yaml and not there");
    // They are numbered without a gap; not all of them belong to an operation.
    let number = |name: &String| name.strip_prefix('D').unwrap().parse::<u32>().unwrap();
    let last = tested.keys().map(number).max().unwrap();
    assert!(last >= 56);
    let mut named: BTreeSet<String> = (1..=last).map(|number| format!("D{number}")).collect();
    for operation in contract().operations().into_values() {
        named.extend(
            operation["x-differences"].as_array().into_iter().flatten().map(|one| one.as_str().unwrap().to_owned()),
        );
    }
    named.retain(|one| tested.get(one).is_none_or(Vec::is_empty));
    assert_eq!(named, BTreeSet::new(), "differences without a test in docs/api/tested.yaml");
}

#[test]
fn the_comparison_sees_what_it_is_for() {
    let operation = |schema: &Value, required: bool| {
        let parameter = json!({ "name": "limit", "in": "query", "required": required, "schema": schema });
        let answer =
            |schema: &Value| json!({ "description": "", "content": { "application/json": { "schema": schema } } });
        Api(json!({ "paths": { "/x": { "post": {
            "operationId": "x", "tags": ["x"], "security": [], "parameters": [parameter],
            "requestBody": { "required": required, "content": { "application/json": { "schema": schema } } },
            "responses": { "200": answer(schema) },
        } } } }))
    };
    let object = |name: &str, field: Value, required: &[&str]| json!({ "type": "object", "properties": { name: field }, "required": required });
    let number = json!({ "type": "number", "minimum": 1 });
    let plain = operation(&object("a", number.clone(), &["a"]), true);
    let lines = |other: &Api| compare(&plain, other);
    assert_eq!(lines(&plain), Vec::<String>::new());
    for (other, says) in [
        (operation(&object("a", number.clone(), &["a"]), false), "must be there"),
        (operation(&object("a", number.clone(), &[]), true), "x.a: is required, in the contract it is not"),
        (operation(&object("b", number.clone(), &["b"]), true), "x.b: is missing"),
        (
            operation(&object("a", json!({ "type": "number", "minimum": 0 }), &["a"]), true),
            "minimum 1, in the contract 0",
        ),
        (operation(&object("a", json!({ "type": "number" }), &["a"]), true), "minimum 1, in the contract null"),
        (
            operation(&object("a", json!({ "type": ["number", "null"], "minimum": 1 }), &["a"]), true),
            "number, in the contract",
        ),
        (
            operation(&object("a", json!({ "type": "string", "format": "uuid" }), &["a"]), true),
            "string, in the contract",
        ),
        (
            operation(&object("a", json!({ "type": "array", "items": number }), &["a"]), true),
            "number, in the contract array",
        ),
    ] {
        let lines = lines(&other).join("\n").replace("body.", "x.");
        let said = says.split(", in the contract").all(|part| lines.contains(part));
        assert!(said, "{says}: {lines}");
    }
    assert!(matches("GET * 200: *", "GET /x 200: a") && !matches("GET * 200", "GET /x 200: a"));
}

/// Whether a line is the pattern, `*` standing for anything.
fn matches(pattern: &str, line: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == line,
        Some((head, rest)) => line
            .strip_prefix(head)
            .is_some_and(|line| (0..=line.len()).any(|at| line.get(at..).is_some_and(|line| matches(rest, line)))),
    }
}

fn compare(ours: &Api, theirs: &Api) -> Vec<String> {
    let mut notes = Notes(Vec::new());
    let (served, wanted) = (ours.operations(), theirs.operations());
    for name in served.keys().filter(|name| !wanted.contains_key(*name)) {
        notes.add(name, "is not in the contract");
    }
    for (name, operation) in wanted {
        match served.get(&name) {
            Some(described) => compare_operation(&name, (ours, described), (theirs, &operation), &mut notes),
            None => notes.add(&name, "is not served"),
        }
    }
    notes.0
}

struct Notes(Vec<String>);

impl Notes {
    fn add(&mut self, place: &str, difference: &str) {
        self.0.push(format!("{place}: {difference}"));
    }

    fn differ(&mut self, place: &str, what: &str, ours: &Value, theirs: &Value) {
        if ours != theirs {
            self.add(place, &format!("{what} {}, in the contract {}", plain(ours), plain(theirs)));
        }
    }
}

fn compare_operation(name: &str, ours: (&Api, &Value), theirs: (&Api, &Value), notes: &mut Notes) {
    let ((our_api, our), (their_api, their)) = (ours, theirs);
    for part in ["operationId", "tags", "deprecated"] {
        notes.differ(name, part, &our[part], &their[part]);
    }
    let credentials = |operation: &Value| -> Value {
        let mut names: Vec<String> = operation["security"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|one| one.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join("+"))
            .collect();
        names.sort();
        names.into()
    };
    notes.differ(name, "credentials", &credentials(our), &credentials(their));

    let (our_parameters, their_parameters) = (parameters(our), parameters(their));
    for parameter in our_parameters.keys().filter(|parameter| !their_parameters.contains_key(*parameter)) {
        notes.add(&format!("{name} {parameter}"), "is not in the contract");
    }
    for (parameter, theirs) in &their_parameters {
        let place = format!("{name} {parameter}");
        let Some(ours) = our_parameters.get(parameter) else {
            notes.add(&place, "is missing");
            continue;
        };
        notes.differ(&place, "required", &ours["required"], &theirs["required"]);
        compare_schema(&place, Use::Request, (our_api, &ours["schema"]), (their_api, &theirs["schema"]), notes);
    }

    let place = format!("{name} body");
    let is_there = |operation: &Value| Value::from(operation["requestBody"].is_object());
    notes.differ(&place, "is read", &is_there(our), &is_there(their));
    if our["requestBody"].is_object() && their["requestBody"].is_object() {
        let (ours, theirs) = (&our["requestBody"], &their["requestBody"]);
        notes.differ(&place, "must be there", &ours["required"], &theirs["required"]);
        compare_content(&place, Use::Request, (our_api, ours), (their_api, theirs), notes);
    }

    let empty = serde_json::Map::new();
    let answers = |operation: &'_ Value| operation["responses"].as_object().unwrap_or(&empty).clone();
    let (our_answers, their_answers) = (answers(our), answers(their));
    for status in our_answers.keys().filter(|status| !their_answers.contains_key(*status)) {
        notes.add(&format!("{name} {status}"), "is not in the contract");
    }
    for (status, theirs) in &their_answers {
        let place = format!("{name} {status}");
        match our_answers.get(status) {
            None => notes.add(&place, "is missing"),
            Some(ours) => {
                let (ours, theirs) = (our_api.resolved(ours), their_api.resolved(theirs));
                compare_content(&place, Use::Reply, (our_api, &ours), (their_api, &theirs), notes);
            }
        }
    }
}

fn parameters(operation: &Value) -> BTreeMap<String, Value> {
    let list = operation["parameters"].as_array().cloned().unwrap_or_default();
    list.into_iter()
        .map(|one| (format!("{}.{}", one["in"].as_str().unwrap(), one["name"].as_str().unwrap()), one))
        .collect()
}

fn compare_content(place: &str, used: Use, ours: (&Api, &Value), theirs: (&Api, &Value), notes: &mut Notes) {
    let kinds = |answer: &Value| -> Value {
        answer["content"].as_object().into_iter().flatten().map(|(kind, _)| Value::from(kind.clone())).collect()
    };
    notes.differ(place, "is", &kinds(ours.1), &kinds(theirs.1));
    let schema = |answer: &Value| answer["content"]["application/json"]["schema"].clone();
    let (our, their) = (schema(ours.1), schema(theirs.1));
    if !our.is_null() && !their.is_null() {
        compare_schema(place, used, (ours.0, &our), (theirs.0, &their), notes);
    }
}

/// Limits bind who sends, and say little to who reads.
#[derive(Clone, Copy, PartialEq)]
enum Use {
    Request,
    Reply,
}

fn compare_schema(place: &str, used: Use, ours: (&Api, &Value), theirs: (&Api, &Value), notes: &mut Notes) {
    let (our, their) = (ours.0.shape(ours.1), theirs.0.shape(theirs.1));
    // The contract leaves some values open.
    if their.kinds.is_empty() {
        return;
    }
    let list = |words: &BTreeSet<String>| Value::from(words.iter().cloned().collect::<Vec<_>>());
    notes.differ(place, "type", &list(&our.kinds), &list(&their.kinds));
    notes.differ(place, "format", &our.format, &their.format);
    notes.differ(place, "words", &list(&our.words), &list(&their.words));
    if used == Use::Request {
        for limit in LIMITS {
            let of = |shape: &Shape| shape.limits.get(limit).cloned().unwrap_or_default();
            notes.differ(place, limit, &of(&our), &of(&their));
        }
    }
    let within = |name: &str| format!("{place}.{name}");
    for name in our.fields.keys().filter(|name| !their.fields.contains_key(*name)) {
        // An object without a list of fields may hold any.
        if !their.fields.is_empty() {
            notes.add(&within(name), "is not in the contract");
        }
    }
    for (name, field) in &their.fields {
        match our.fields.get(name) {
            None => notes.add(&within(name), "is missing"),
            Some(schema) => compare_schema(&within(name), used, (ours.0, schema), (theirs.0, field), notes),
        }
    }
    for name in their.fields.keys().filter(|name| our.fields.contains_key(*name)) {
        match (our.required.contains(name), their.required.contains(name)) {
            (true, false) => notes.add(&within(name), "is required, in the contract it is not"),
            (false, true) => notes.add(&within(name), "is not required, in the contract it is"),
            _ => {}
        }
    }
    if let (Some(our), Some(their)) = (&our.items, &their.items) {
        compare_schema(&format!("{place}[]"), used, (ours.0, our), (theirs.0, their), notes);
    }
}
