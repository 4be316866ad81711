//! Receipts: uploaded to an address that was handed out, named in a claim, read by those who may.

use std::sync::Arc;
use std::sync::Mutex;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Person, TestApp};

const API: &str = "https://api.fieldtrack.test";
const JPEG: &[u8] = b"\xFF\xD8\xFF\xE0\0\x10JFIF\0\x01 and a picture";
const PDF: &[u8] = b"%PDF-1.7\n and a document";

/// Asks for an address; answers where to put the file, and its path.
async fn announce(person: &Person<'_>, extension: &str) -> (String, String) {
    let body = json!({ "extension": extension });
    let data = person.post("/expenses/receipt-upload-url", &body).await.data(200);
    assert_eq!(data.as_object().unwrap().len(), 2);
    (data["uploadUrl"].as_str().unwrap().to_owned(), data["receiptUrl"].as_str().unwrap().to_owned())
}

/// Sends to an address that names the public host.
async fn at(app: &TestApp, method: Method, url: &str, content: Option<&[u8]>) -> Answer {
    let request = app.request(method, url.strip_prefix(API).unwrap_or_else(|| panic!("{url}")));
    let request = match content {
        Some(content) => request.header("content-type", "application/octet-stream").body(content.to_vec()),
        None => request,
    };
    app.send(request).await
}

async fn claim(person: &Person<'_>, receipt_url: &str) -> Answer {
    person.post("/expenses", &json!({ "amount": 1, "description": "Fuel", "receipt_url": receipt_url })).await
}

#[tokio::test]
async fn a_receipt_goes_in_and_comes_out_again() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let (upload_url, receipt_url) = announce(&asha, "jpg").await;
    let me = asha.get("/auth/me").await.data(200);
    assert_eq!(receipt_url.split('/').next().unwrap(), organization.id.to_string());
    assert!(receipt_url.ends_with(".jpg"), "{receipt_url} {me}");
    let uploaded = at(&app, Method::PUT, &upload_url, Some(JPEG)).await.data(200);
    assert_eq!(uploaded, json!({ "receiptUrl": receipt_url }));
    let stored = claim(&asha, &receipt_url).await.data(201);
    assert_eq!(stored["receipt_url"], receipt_url);
    assert_eq!(receipt_url.split('/').nth(1).unwrap(), stored["employee_id"].as_str().unwrap());

    let path = format!("/expenses/{}/receipt", stored["id"].as_str().unwrap());
    for reader in [&asha, &organization.admin] {
        let data = reader.get(&path).await.data(200);
        assert!(data["expiresAt"].as_str().unwrap().ends_with('Z'));
        let read = at(&app, Method::GET, data["url"].as_str().unwrap(), None).await;
        assert_eq!(read.status, 200);
        assert_eq!((read.header("content-type"), read.header("x-content-type-options")), ("image/jpeg", "nosniff"));
        assert_eq!(read.header("content-length"), JPEG.len().to_string());
        assert_eq!(read.header("cross-origin-resource-policy"), "cross-origin");
        assert_eq!(read.text, String::from_utf8_lossy(JPEG));
    }
    // Nobody else, and for nothing else.
    let not_found = "Expense not found";
    organization.employee("Ben").await.get(&path).await.refused(404, "NOT_FOUND", not_found);
    app.organization().await.admin.get(&path).await.refused(404, "NOT_FOUND", not_found);
    let elsewhere = claim(&asha, "https://files.example/1.jpg").await.data(201);
    let data = asha.get(&format!("/expenses/{}/receipt", elsewhere["id"].as_str().unwrap())).await.data(200);
    assert_eq!(data, json!({ "url": "https://files.example/1.jpg", "expiresAt": null }));
    let without = asha.post("/expenses", &json!({ "amount": 1, "description": "Fuel" })).await.data(201);
    let without = format!("/expenses/{}/receipt", without["id"].as_str().unwrap());
    asha.get(&without).await.refused(404, "NOT_FOUND", "Receipt not found");
    asha.get("/expenses/7/receipt").await.refused(400, "VALIDATION_ERROR", "params/id Invalid UUID");
}

#[tokio::test]
async fn an_address_is_asked_for_with_an_extension_and_a_matching_type() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let extension = "body/extension extension must be one of: jpg, jpeg, png, webp, pdf";
    for (body, error) in [
        (json!({}), extension.to_owned()),
        (json!({ "extension": "JPG" }), extension.to_owned()),
        (json!({ "extension": "exe" }), extension.to_owned()),
        (json!({ "extension": "../../x" }), extension.to_owned()),
        (json!({ "extension": 5 }), extension.to_owned()),
        (
            json!({ "extension": "jpg", "mimeType": 5 }),
            "body/mimeType Invalid input: expected string, received number".to_owned(),
        ),
        (
            json!({ "extension": "jpg", "mimeType": "text/plain" }),
            "Unsupported MIME type 'text/plain'. Allowed: image/jpeg, image/png, image/webp, application/pdf"
                .to_owned(),
        ),
        (
            json!({ "extension": "jpg", "mimeType": "image/png" }),
            "MIME type 'image/png' does not match extension 'jpg' (expected 'image/jpeg')".to_owned(),
        ),
    ] {
        asha.post("/expenses/receipt-upload-url", &body).await.refused(400, "VALIDATION_ERROR", &error);
    }
    let mut paths = std::collections::BTreeSet::new();
    for (extension, kind) in [
        ("jpg", "image/jpeg"),
        ("jpeg", "image/jpeg"),
        ("png", "image/png"),
        ("webp", "image/webp"),
        ("pdf", "application/pdf"),
    ] {
        let body = json!({ "extension": extension, "mimeType": kind });
        let data = asha.post("/expenses/receipt-upload-url", &body).await.data(200);
        assert!(paths.insert(data["receiptUrl"].as_str().unwrap().to_owned()));
    }
    organization.admin.post("/expenses/receipt-upload-url", &json!({})).await.refused(
        403,
        "FORBIDDEN",
        "This action requires EMPLOYEE role",
    );
}

#[tokio::test]
async fn addresses_expire_and_cannot_be_bent() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    let (url, path) = announce(&asha, "pdf").await;
    let (other_url, other_path) = announce(&asha, "pdf").await;
    let expired = "This address is not valid or has expired";
    let query = |url: &str| url.split_once('?').unwrap().1.to_owned();
    let mut bent = vec![
        url.replace(&path, &other_path),
        url.replace(".pdf", ".png"),
        url.replace("expires=1", "expires=2"),
        url.replace("&signature=", "&signature=A"),
        url.split_once('?').unwrap().0.to_owned(),
        format!("{API}/receipts/{path}?{}", query(&other_url)),
        format!("{API}/receipts/a/b/c?{}", query(&url)),
        format!("{API}/receipts/..%2f..%2fetc/passwd/x.pdf?{}", query(&url)),
    ];
    bent.retain(|one| *one != url);
    assert_eq!(bent.len(), 8);
    for one in &bent {
        at(&app, Method::PUT, one, Some(PDF)).await.refused(403, "FORBIDDEN", expired);
        at(&app, Method::GET, one, None).await.refused(403, "FORBIDDEN", expired);
    }
    // An address to put a file is none to read it.
    at(&app, Method::PUT, &url, Some(PDF)).await.data(200);
    at(&app, Method::GET, &url, None).await.refused(403, "FORBIDDEN", expired);
    let id = claim(&asha, &path).await.data(201)["id"].as_str().unwrap().to_owned();
    let read = asha.get(&format!("/expenses/{id}/receipt")).await.data(200)["url"].as_str().unwrap().to_owned();
    at(&app, Method::PUT, &read, Some(PDF)).await.refused(403, "FORBIDDEN", expired);
    app.clock.advance(TimeDelta::seconds(300));
    assert_eq!(at(&app, Method::GET, &read, None).await.text.as_bytes(), PDF);
    app.clock.advance(TimeDelta::seconds(1));
    at(&app, Method::GET, &read, None).await.refused(403, "FORBIDDEN", expired);
    app.clock.advance(TimeDelta::seconds(600));
    at(&app, Method::PUT, &other_url, Some(PDF)).await.refused(403, "FORBIDDEN", expired);
}

#[tokio::test]
async fn a_file_is_judged_by_its_content_and_its_size() {
    let app = TestApp::start_with(&[("RECEIPTS_MAX_BYTES", "100000")]).await;
    let asha = app.organization().await.employee("Asha").await;
    let (url, path) = announce(&asha, "pdf").await;
    let wrong = "The file is not of type application/pdf";
    for content in [JPEG, b"<html><script>", b"%PD", b"", b"MZ\x90\0\x03\0\0\0\x04\0\0\0\xFF\xFF"] {
        at(&app, Method::PUT, &url, Some(content)).await.refused(400, "VALIDATION_ERROR", wrong);
    }
    let large = [PDF, &[b'x'; 100_000]].concat();
    let too_large = "Request body is too large";
    at(&app, Method::PUT, &url, Some(&large)).await.refused(413, "PAYLOAD_TOO_LARGE", too_large);
    // The same without a declared length.
    let (target, size) = (url.strip_prefix(API).unwrap(), large.len());
    let head = format!("PUT {target} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{size:x}\r\n");
    let answer = raw(&app, &[head.as_bytes(), &large, b"\r\n0\r\n\r\n"].concat()).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains(too_large), "{answer}");
    // Nothing of all that was kept, and the address is still good.
    let exactly = [PDF, &vec![b'x'; 100_000 - PDF.len()]].concat();
    at(&app, Method::PUT, &url, Some(&exactly)).await.data(200);
    // What lies there stays; the same file again is a phone that did not hear the answer.
    at(&app, Method::PUT, &url, Some(&exactly)).await.data(200);
    let taken = "Another file has been uploaded to this address already";
    at(&app, Method::PUT, &url, Some(PDF)).await.refused(400, "VALIDATION_ERROR", taken);
    assert_eq!(std::fs::read(app.receipts.path().join(&path)).unwrap(), exactly);
    assert_eq!(std::fs::read_dir(app.receipts.path().join("incoming")).unwrap().count(), 0);
}

#[tokio::test]
async fn of_two_files_put_to_one_address_at_once_one_stays_whole() {
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    let (url, path) = announce(&asha, "pdf").await;
    let files: Vec<Vec<u8>> = (0..4_u8).map(|number| [PDF, &vec![number; 200_000]].concat()).collect();
    let answers =
        futures_util::future::join_all(files.iter().map(|file| at(&app, Method::PUT, &url, Some(file)))).await;
    let won: Vec<usize> = (0..4).filter(|place| answers[*place].status == 200).collect();
    assert_eq!(won.len(), 1);
    assert!(std::fs::read(app.receipts.path().join(&path)).unwrap() == files[won[0]]);
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    use tokio::io::AsyncWriteExt;
    let app = TestApp::start().await;
    let asha = app.organization().await.employee("Asha").await;
    let (url, path) = announce(&asha, "pdf").await;
    let mut phone = tokio::net::TcpStream::connect(app.api.trim_start_matches("http://")).await.unwrap();
    let target = url.strip_prefix(API).unwrap();
    phone
        .write_all(format!("PUT {target} HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\n").as_bytes())
        .await
        .unwrap();
    phone.write_all(PDF).await.unwrap();
    let incoming = app.receipts.path().join("incoming");
    let files = || std::fs::read_dir(&incoming).map_or(0, Iterator::count);
    eventually("the upload begins", || files() == 1).await;
    drop(phone);
    eventually("what came is removed", || files() == 0).await;
    assert!(!app.receipts.path().join(&path).exists());
    at(&app, Method::PUT, &url, Some(PDF)).await.data(200);
}

/// Sends these bytes and reads the beginning of the answer.
async fn raw(app: &TestApp, bytes: &[u8]) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut phone = tokio::net::TcpStream::connect(app.api.trim_start_matches("http://")).await.unwrap();
    // A server that answers before it has read everything may close under our writing.
    let _ = phone.write_all(bytes).await;
    let mut answer = vec![0; 8192];
    let read = phone.read(&mut answer).await.unwrap_or(0);
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed().as_secs() < 30, "{what}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_claim_names_an_upload_of_the_same_employee_and_no_other() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let (asha, ben) = (organization.employee("Asha").await, organization.employee("Ben").await);
    let (_, hers) = announce(&asha, "jpg").await;
    let (_, his) = announce(&ben, "jpg").await;
    // The file may still be on its way.
    claim(&asha, &hers).await.data(201);
    let error = "body/receipt_url receipt_url must be a valid URL, body/receipt_url receipt_url must use HTTPS";
    for path in [
        his.clone(),
        hers.replace(".jpg", ".exe"),
        format!("/{hers}"),
        format!("{hers}/.."),
        hers.to_uppercase(),
        hers.replace(&organization.id.to_string(), "9b2b7f7e-7c1d-4c58-8a35-2f4f2f4f9e02"),
    ] {
        claim(&asha, &path).await.refused(400, "VALIDATION_ERROR", error);
    }
    let waiting = asha.get("/expenses/my").await.json();
    let id = waiting["data"][0]["id"].as_str().unwrap();
    asha.get(&format!("/expenses/{id}/receipt")).await.refused(404, "NOT_FOUND", "Receipt not found");
}

/// A store that speaks as much S3 as receipts need: puts, and gets of a range.
#[derive(Clone, Default)]
struct Bucket(Arc<Mutex<std::collections::BTreeMap<String, Vec<u8>>>>);

impl Bucket {
    /// Starts it; answers its address.
    fn serve(&self) -> String {
        let (ready, started) = std::sync::mpsc::channel();
        let bucket = self.clone();
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = HttpServer::new(move || {
                    App::new().app_data(web::Data::new(bucket.clone())).default_service(web::to(Self::answer))
                })
                .workers(1)
                .disable_signals()
                .bind("127.0.0.1:0")
                .unwrap();
                ready.send(server.addrs()[0]).unwrap();
                server.run().await.unwrap();
            });
        });
        format!("http://{}", started.recv().unwrap())
    }

    async fn answer(request: HttpRequest, body: web::Bytes, bucket: web::Data<Self>) -> HttpResponse {
        if !request.query_string().contains("X-Amz-Signature=") {
            return HttpResponse::Forbidden().finish();
        }
        let mut files = bucket.0.lock().unwrap();
        let name = request.path().to_owned();
        if request.method() == actix_web::http::Method::PUT {
            files.insert(name, body.to_vec());
            return HttpResponse::Ok().finish();
        }
        let Some(file) = files.get(&name) else { return HttpResponse::NotFound().finish() };
        if request.headers().get("range").is_none_or(|range| range != "bytes=0-11") {
            return HttpResponse::Ok().body(file.clone());
        }
        if file.is_empty() {
            return HttpResponse::RangeNotSatisfiable().finish();
        }
        let end = file.len().min(12);
        HttpResponse::PartialContent()
            .insert_header(("etag", format!("\"{}\"", mark(file))))
            .insert_header(("content-range", format!("bytes 0-{}/{}", end - 1, file.len())))
            .body(file[..end].to_vec())
    }
}

/// What tells two files apart, as an ETag does.
fn mark(file: &[u8]) -> u64 {
    file.iter().fold(5381, |mark, byte| mark.wrapping_mul(33).wrapping_add(u64::from(*byte)))
}

/// A gateway whose receipts lie in a bucket.
async fn with_bucket(endpoint: &str) -> TestApp {
    TestApp::start_with(&[
        ("RECEIPTS_STORE", "s3"),
        ("RECEIPTS_S3_ENDPOINT", endpoint),
        ("RECEIPTS_S3_ACCESS_KEY_ID", "key"),
        ("RECEIPTS_S3_SECRET_ACCESS_KEY", "planted-secret"),
        ("RECEIPTS_MAX_BYTES", "1000"),
    ])
    .await
}

/// What a client does: a PUT of the file, with nothing around it.
async fn put(app: &TestApp, url: &str, content: &[u8]) {
    assert_eq!(app.http.put(url).body(content.to_vec()).send().await.unwrap().status(), 200);
}

/// A bucket takes in what is put at an address until that expires. Whatever was seen first stays the receipt.
#[tokio::test]
async fn a_file_that_is_put_over_a_receipt_is_never_shown() {
    let bucket = Bucket::default();
    let app = with_bucket(&bucket.serve()).await;
    let organization = app.organization().await;
    let (asha, admin) = (organization.employee("Asha").await, &organization.admin);
    let other = [PDF, b", but of another amount"].concat();
    let place = "The receipt cannot be shown: another file was put in its place";
    // Seen when it was claimed, and seen when it was first shown: it came after the claim.
    for comes_later in [false, true] {
        let (url, path) = announce(&asha, "pdf").await;
        if !comes_later {
            put(&app, &url, PDF).await;
        }
        let id = claim(&asha, &path).await.data(201)["id"].as_str().unwrap().to_owned();
        let receipt = format!("/expenses/{id}/receipt");
        if comes_later {
            put(&app, &url, PDF).await;
            asha.get(&receipt).await.data(200);
        }
        put(&app, &url, &other).await;
        for reader in [admin, &asha] {
            reader.get(&receipt).await.refused(400, "VALIDATION_ERROR", place);
        }
        // A phone that did not hear the answer puts the same file again.
        put(&app, &url, PDF).await;
        let read = admin.get(&receipt).await.data(200)["url"].as_str().unwrap().to_owned();
        assert_eq!(app.http.get(read).send().await.unwrap().bytes().await.unwrap(), PDF);
    }
}

/// Of two who look first while the file is being replaced, both believe the same one afterwards.
#[tokio::test]
async fn who_looks_first_decides_for_everybody() {
    let app = TestApp::start().await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let id: domain::ExpenseId = {
        let stored = claim(&asha, "https://files.example/1.pdf").await.data(201);
        stored["id"].as_str().unwrap().parse::<uuid::Uuid>().unwrap().into()
    };
    let db = app.database.open();
    let looks = (0..8).map(|number| {
        let (db, tenant) = (db.clone(), testkit::database::tenant(organization.id));
        tokio::spawn(async move {
            let mut tx = db.tenant(tenant).await.unwrap();
            let is_first = db::expenses::is_first_receipt(&mut tx, id, &format!("\"{number}\"")).await.unwrap();
            tx.commit().await.unwrap();
            is_first
        })
    });
    let looks = futures_util::future::join_all(looks.collect::<Vec<_>>()).await;
    assert_eq!(looks.into_iter().filter(|is_first| *is_first.as_ref().unwrap()).count(), 1);
}

#[tokio::test]
async fn a_bucket_keeps_receipts_and_bad_ones_are_never_shown() {
    let bucket = Bucket::default();
    let endpoint = bucket.serve();
    let app = with_bucket(&endpoint).await;
    let organization = app.organization().await;
    let asha = organization.employee("Asha").await;
    let put = async |url: &str, content: &[u8]| put(&app, url, content).await;
    let (url, path) = announce(&asha, "pdf").await;
    assert!(url.starts_with(&format!("{endpoint}/receipts/{path}?X-Amz-Algorithm=AWS4-HMAC-SHA256")), "{url}");
    assert!(!url.contains("planted-secret"));
    put(&url, PDF).await;
    let id = claim(&asha, &path).await.data(201)["id"].as_str().unwrap().to_owned();
    let receipt = format!("/expenses/{id}/receipt");
    let read = organization.admin.get(&receipt).await.data(200);
    let file = app.http.get(read["url"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(file.bytes().await.unwrap(), PDF);

    let large = [PDF, &[b'x'; 1000]].concat();
    for (content, complaint) in [
        (&large[..], "the uploaded file is too large"),
        (JPEG, "the uploaded file is not of the type its name says"),
        (b"", "the uploaded file is not of the type its name says"),
    ] {
        let (url, bad) = announce(&asha, "pdf").await;
        put(&url, content).await;
        claim(&asha, &bad).await.refused(400, "VALIDATION_ERROR", &format!("body/receipt_url {complaint}"));
    }
    // What was fine when it was claimed is looked at again before it is shown.
    put(&url, JPEG).await;
    organization.admin.get(&receipt).await.refused(
        400,
        "VALIDATION_ERROR",
        "The receipt cannot be shown: the uploaded file is not of the type its name says",
    );
    // The gateway's own addresses know nothing of buckets.
    at(&app, Method::GET, &format!("{API}/receipts/{path}?expires=1&signature=x"), None).await.refused(
        404,
        "NOT_FOUND",
        "Receipt not found",
    );
}

#[tokio::test]
async fn a_claim_is_not_lost_because_the_bucket_is_away() {
    let app = TestApp::start_with(&[
        ("RECEIPTS_STORE", "s3"),
        ("RECEIPTS_S3_ENDPOINT", "http://127.0.0.1:9"),
        ("RECEIPTS_S3_ACCESS_KEY_ID", "key"),
        ("RECEIPTS_S3_SECRET_ACCESS_KEY", "secret"),
    ])
    .await;
    let asha = app.organization().await.employee("Asha").await;
    let (_, path) = announce(&asha, "pdf").await;
    let stored: Value = claim(&asha, &path).await.data(201);
    let receipt = format!("/expenses/{}/receipt", stored["id"].as_str().unwrap());
    asha.get(&receipt).await.refused(503, "SERVICE_UNAVAILABLE", "Service unavailable");
}
