//! Every route refuses strangers: found in the table of routes, so that a new one cannot be forgotten.

use api_gateway::features;
use api_gateway::http::caller::{Access, KeyAccess};
use api_gateway::http::endpoint::Route;
use domain::api_key::Scope;
use reqwest::Method;
use serde_json::json;

use crate::support::{Answer, TestApp};

const ID: &str = "3f9f0c52-1f5e-4a55-9f0e-5d1b6f0a7c11";

fn guarded() -> Vec<Route> {
    let table = features::table();
    assert!(table.len() >= 15);
    table.into_iter().filter(|route| route.access != Access::Public).collect()
}

async fn call(app: &TestApp, route: &Route, headers: &[(&str, &str)]) -> Answer {
    let method: Method = route.method.as_str().parse().unwrap();
    let path =
        route.path.split('/').map(|part| if part.starts_with('{') { ID } else { part }).collect::<Vec<_>>().join("/");
    let mut request = app.request(method.clone(), &path);
    if method != Method::GET {
        request = request.json(&json!({}));
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    app.send(request).await
}

#[tokio::test]
async fn every_route_refuses_callers_without_a_token() {
    let app = TestApp::start().await;
    for route in guarded() {
        let missing = "Missing or malformed Authorization header";
        call(&app, &route, &[]).await.refused(401, "UNAUTHORIZED", missing);
        call(&app, &route, &[("authorization", "Basic eDp5")]).await.refused(401, "UNAUTHORIZED", missing);
    }
}

#[tokio::test]
async fn every_route_refuses_bad_tokens_and_unknown_keys() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let (head, rest) = organization.admin.token.split_once('.').unwrap();
    let (claims, _) = rest.split_once('.').unwrap();
    let unsigned = format!("{head}.{claims}.");
    let swapped = format!("eyJhbGciOiJub25lIn0.{claims}.");
    for route in guarded() {
        for token in ["x", "a.b.c", &unsigned, &swapped] {
            let header = format!("Bearer {token}");
            let answer = call(&app, &route, &[("authorization", &header)]).await;
            answer.refused(401, "UNAUTHORIZED", "Invalid or missing authentication token");
        }
        call(&app, &route, &[("x-api-key", "ft_live_1")]).await.refused(
            401,
            "INVALID_API_KEY",
            "Invalid API key format",
        );
        let key = format!("ft_live_{}", "0a".repeat(24));
        call(&app, &route, &[("x-api-key", &key)]).await.refused(401, "INVALID_API_KEY", "Invalid API key");
    }
}

#[tokio::test]
async fn every_route_refuses_the_wrong_role() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    for route in guarded() {
        let (person, error) = match route.access {
            Access::Admins => (&asha, "This action requires ADMIN role"),
            Access::Employees => (&organization.admin, "This action requires EMPLOYEE role"),
            Access::WorkingEmployees => {
                (&organization.admin, "Employee context required. This endpoint is for employees only.")
            }
            Access::Public | Access::Everyone => continue,
        };
        let header = format!("Bearer {}", person.token);
        call(&app, &route, &[("authorization", &header)]).await.refused(403, "FORBIDDEN", error);
    }
}

#[tokio::test]
async fn every_employee_route_refuses_somebody_who_may_no_longer_work() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    asha.check_in().await;
    app.database.superuser().await.execute("UPDATE employees SET is_active = false", &[]).await.unwrap();
    // The answer is believed for half a minute.
    app.clock.advance(chrono::TimeDelta::seconds(31));
    for route in guarded() {
        if matches!(route.access, Access::Employees | Access::WorkingEmployees) {
            let header = format!("Bearer {}", asha.token);
            let error = "Employee context required. This endpoint is for employees only.";
            call(&app, &route, &[("authorization", &header)]).await.refused(403, "FORBIDDEN", error);
        }
    }
    let list = asha.get("/attendance/my-sessions").await.json();
    assert_eq!(list["pagination"]["total"], 0);
}

#[tokio::test]
async fn no_route_shows_or_changes_the_rows_of_another_organization() {
    let app = TestApp::start().await;
    let (ours, theirs) = (app.organization().await, app.organization().await);
    let (asha, stranger) = (ours.employee("Asha").await, theirs.employee("Stranger").await);
    let session = asha.check_in().await;
    let employee = asha.employee_id();
    let user = asha.get("/auth/me").await.data(200)["id"].as_str().unwrap().to_owned();
    let before = everything(&app, &ours.id.to_string()).await;
    for route in guarded() {
        // A stream has no end to wait for; live.rs listens to what it says.
        if route.path == "/admin/events" {
            continue;
        }
        for person in [&stranger, &theirs.admin] {
            let path = route
                .path
                .split('/')
                .map(|part| match part {
                    "{id}" if route.path.starts_with("/admin/employees/") => &*employee,
                    "{id}" if route.path.starts_with("/admin/users/") => &*user,
                    "{employeeId}" => &*employee,
                    part if part.starts_with('{') => &*session,
                    part => part,
                })
                .collect::<Vec<_>>()
                .join("/");
            let path = if route.path == "/locations/my-route" { format!("{path}?sessionId={session}") } else { path };
            let method: Method = route.method.as_str().parse().unwrap();
            let mut body = crate::support::location(&app, &session, 1);
            body["points"] = json!([crate::support::point(&app, 1)]);
            body["name"] = json!("Mallory");
            body["employee_id"] = json!(employee);
            body["is_active"] = json!(false);
            body["banned"] = json!(true);
            let request = person.request(method.clone(), &path);
            let request = if method == Method::GET { request } else { request.json(&body) };
            let answer = app.send(request).await;
            // That nobody keeps this organization's read models is an answer, too.
            let degraded =
                matches!(route.path, "/internal/snapshot-health" | "/internal/ready-deep") && answer.status == 503;
            assert!(answer.status.as_u16() < 500 || degraded, "{path}: {}", answer.text);
            assert!(!answer.text.contains(&ours.id.to_string()), "{path}: {}", answer.text);
        }
    }
    assert_eq!(everything(&app, &ours.id.to_string()).await, before);
}

/// Every row of an organization, as text.
async fn everything(app: &TestApp, organization: &str) -> Vec<String> {
    let client = app.database.superuser().await;
    let mut rows = Vec::new();
    for table in [
        "users",
        "user_credentials",
        "refresh_tokens",
        "employees",
        "attendance_sessions",
        "gps_locations",
        "session_summaries",
        "expenses",
        "employee_expense_totals",
        "webhook_events",
        "admin_audit_log",
        "employee_daily_metrics",
        "org_daily_metrics",
        "employee_last_state",
        "employee_metrics_snapshot",
        "org_dashboard_snapshot",
        "api_keys",
        "webhooks",
        "webhook_deliveries",
        "admin_sessions",
        "queue_retry_intents",
    ] {
        let query = format!("SELECT t::text FROM {table} AS t WHERE organization_id = '{organization}' ORDER BY 1");
        rows.extend(client.query(&query, &[]).await.unwrap().into_iter().map(|row| row.get::<_, String>(0)));
    }
    rows
}

#[test]
fn every_route_has_the_access_that_the_contract_names() {
    let contract = include_str!("../../../../docs/api/openapi.yaml");
    let mut checked = 0;
    for route in features::table() {
        if is_ours(&route) {
            continue;
        }
        let x_auth = x_auth(contract, route.path, &route.method.as_str().to_lowercase());
        let (admin, employee) = (x_auth.contains("ADMIN"), x_auth.contains("EMPLOYEE"));
        let expected = match (x_auth.contains("bearer: true"), admin, employee) {
            (false, ..) => Access::Public,
            (true, true, true) if x_auth.contains("employee_context: required") => Access::WorkingEmployees,
            (true, true, true) => Access::Everyone,
            (true, true, false) => Access::Admins,
            (true, false, _) => Access::Employees,
        };
        assert_eq!(route.access, expected, "{} {}", route.method, route.path);
        checked += 1;
    }
    assert!(checked >= 14);
}

#[test]
fn every_route_asks_keys_for_the_scope_that_the_contract_names() {
    let contract = include_str!("../../../../docs/api/openapi.yaml");
    let mut checked = 0;
    for route in features::table() {
        if route.access == Access::Public || is_ours(&route) {
            continue;
        }
        let x_auth = x_auth(contract, route.path, &route.method.as_str().to_lowercase());
        let expected = if x_auth.contains("JWT_REQUIRED") {
            KeyAccess::People
        } else {
            match x_auth.split_once("api_key_scope: ") {
                Some((_, rest)) if rest.starts_with("any") => KeyAccess::Any,
                Some((_, rest)) => {
                    let word = rest.trim_start_matches('\'').split(['\'', ',', '}', ' ']).next().unwrap_or_default();
                    KeyAccess::Scope(Scope::parse(word).unwrap_or_else(|| panic!("{x_auth}")))
                }
                // Nobody with a key is an employee; the scope is asked for all the same.
                None => KeyAccess::Scope(Scope::AdminAll),
            }
        };
        assert_eq!(route.keys, expected, "{} {}: {x_auth}", route.method, route.path);
        checked += 1;
    }
    assert!(checked >= 14);
}

/// Ours alone: the identity protocol, sockets that follow tables, what the page of the description is made of, the management of users, how receipts
/// get out, and the proof of the audit log.
fn is_ours(route: &Route) -> bool {
    ["/auth/v1/", "/realtime/v1/", "/admin/users", "/receipts/"].iter().any(|start| route.path.starts_with(start))
        || route.path == "/expenses/{id}/receipt"
        || matches!(route.path, "/docs/" | "/docs/static/{file}" | "/admin/organization" | "/admin/audit-log/verify")
}

/// An operation's `x-auth` in the contract, which writes it in one line.
fn x_auth<'a>(contract: &'a str, path: &str, method: &str) -> &'a str {
    let mut lines = contract.lines();
    let found = lines.any(|line| line == format!("  {path}:")) && lines.any(|line| line == format!("    {method}:"));
    assert!(found, "{method} {path} is not in the contract");
    lines.find_map(|line| line.strip_prefix("      x-auth: ")).unwrap()
}
