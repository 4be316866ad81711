//! Receipts in a bucket of any store that speaks S3: AWS, MinIO, Supabase Storage.
//!
//! Clients put and read files at presigned addresses, so their bytes pass us by. A presigned PUT can bind the media
//! type that is declared, and neither the size nor the content; so both are looked at before a receipt is believed. Nor
//! can it be used only once by clients that do nothing but PUT; so the file that was seen first is known by its ETag, and
//! another one in its place is no receipt (`docs/receipts.md`).

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::receipt::{MAGIC_BYTES, ReceiptKind, ReceiptPath};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, RANGE};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use rusty_s3::actions::{GetObject, PutObject};
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use secrecy::{ExposeSecret, SecretString};

use super::{Found, Limits, ReceiptStore, StoreError};

/// How long the store may take to show the beginning of a file.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where the bucket is, and who may use it.
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// `RECEIPTS_S3_ENDPOINT`: as clients reach it, for it is part of what is signed (AWS in the region).
    pub endpoint: String,
    /// `RECEIPTS_S3_REGION` (`us-east-1`).
    pub region: String,
    /// `RECEIPTS_S3_BUCKET` (`receipts`).
    pub bucket: String,
    /// `RECEIPTS_S3_PATH_STYLE`: the bucket's name stands in the path and not in the host (true with an endpoint).
    pub path_style: bool,
    /// `RECEIPTS_S3_ACCESS_KEY_ID`.
    pub access_key_id: String,
    /// `RECEIPTS_S3_SECRET_ACCESS_KEY`.
    pub secret_access_key: SecretString,
}

impl S3Settings {
    /// The bucket at its address.
    pub(super) fn bucket(&self) -> Result<Bucket, &'static str> {
        let style = if self.path_style { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let endpoint = self.endpoint.parse().map_err(|_| "is no address of a bucket")?;
        Bucket::new(endpoint, style, self.bucket.clone(), self.region.clone()).map_err(|_| "is no address of a bucket")
    }
}

/// A bucket of receipts.
pub struct S3Receipts {
    bucket: Bucket,
    credentials: Credentials,
    client: Client,
    limits: Limits,
}

impl S3Receipts {
    /// Prepares it; nothing is connected yet.
    pub fn new(settings: &S3Settings, limits: Limits) -> Result<Self, StoreError> {
        let bucket = settings.bucket().map_err(|why| StoreError(why.to_owned()))?;
        let credentials = Credentials::new(settings.access_key_id.as_str(), settings.secret_access_key.expose_secret());
        // The HTTP client comes without cryptography of its own; an error means that somebody installed it before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().timeout(PATIENCE).redirect(Policy::none()).no_proxy();
        // Without TLS there is no need for certificates, which a bare machine does not have.
        let client = if settings.endpoint.starts_with("https://") { client } else { client.tls_certs_only([]) };
        let client = client.build().map_err(|error| StoreError(error.to_string()))?;
        Ok(Self { bucket, credentials, client, limits })
    }

    async fn see(&self, path: ReceiptPath, now: DateTime<Utc>) -> Result<Found, StoreError> {
        let name = path.to_string();
        let url = GetObject::new(&self.bucket, Some(&self.credentials), &name).sign_with_time(PATIENCE * 20, &at(now));
        let wanted = format!("bytes=0-{}", MAGIC_BYTES - 1);
        let failed = |error: reqwest::Error| StoreError(error.without_url().to_string());
        let answer = self.client.get(url).header(RANGE, wanted).send().await.map_err(failed)?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(Found::Nothing),
            // There is something, and it has no first byte.
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(Found::OtherKind),
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                let size = size(answer.headers()).ok_or_else(|| StoreError("it tells no size".to_owned()))?;
                let etag =
                    etag(answer.headers()).ok_or_else(|| StoreError("it does not mark what it holds".to_owned()))?;
                let start = start(answer).await.map_err(failed)?;
                Ok(match self.limits.judge(path.kind(), size, &start) {
                    Found::Receipt { .. } => Found::Receipt { etag: Some(etag) },
                    other => other,
                })
            }
            status => Err(StoreError(format!("it answered {status}"))),
        }
    }
}

/// The size of the whole file: of a part, what stands behind the slash.
fn size(headers: &HeaderMap) -> Option<u64> {
    match text(headers, CONTENT_RANGE) {
        Some(range) => range.rsplit_once('/')?.1.parse().ok(),
        None => text(headers, CONTENT_LENGTH)?.parse().ok(),
    }
}

/// The mark of the file. A proxy that weakens it says nothing about the file.
fn etag(headers: &HeaderMap) -> Option<String> {
    let mark = text(headers, ETAG)?.trim_start_matches("W/");
    (!mark.is_empty() && mark.len() <= 200).then(|| mark.to_owned())
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// The first bytes, however much is sent.
async fn start(mut answer: Response) -> reqwest::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(MAGIC_BYTES);
    while start.len() < MAGIC_BYTES
        && let Some(chunk) = answer.chunk().await?
    {
        start.extend(chunk.iter().take(MAGIC_BYTES - start.len()));
    }
    Ok(start)
}

fn at(time: DateTime<Utc>) -> Timestamp {
    Timestamp::from_second(time.timestamp()).unwrap_or_default()
}

impl ReceiptStore for S3Receipts {
    fn upload_url(&self, path: ReceiptPath, kind: Option<ReceiptKind>, now: DateTime<Utc>) -> String {
        let name = path.to_string();
        let mut put = PutObject::new(&self.bucket, Some(&self.credentials), &name);
        // Whoever says what they will send is held to it; whoever does not is not made to.
        if let Some(kind) = kind {
            put.headers_mut().insert("content-type", kind.media_type());
        }
        put.sign_with_time(Duration::from_secs(self.limits.upload_ttl_s.into()), &at(now)).into()
    }

    fn download_url(&self, path: ReceiptPath, now: DateTime<Utc>) -> (String, DateTime<Utc>) {
        let name = path.to_string();
        let mut get = GetObject::new(&self.bucket, Some(&self.credentials), &name);
        // Whatever type was declared at the upload, it is read as what its name says.
        get.query_mut().insert("response-content-type", path.kind().media_type());
        let url = get.sign_with_time(Duration::from_secs(self.limits.download_ttl_s.into()), &at(now));
        (url.into(), now + TimeDelta::seconds(self.limits.download_ttl_s.into()))
    }

    fn look(&self, path: ReceiptPath, now: DateTime<Utc>) -> BoxFuture<'_, Result<Found, StoreError>> {
        self.see(path, now).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::receipt::Extension;
    use domain::{EmployeeId, OrganizationId};

    fn store(settings: &S3Settings) -> S3Receipts {
        S3Receipts::new(settings, Limits { max_bytes: 100, upload_ttl_s: 900, download_ttl_s: 300 }).unwrap()
    }

    fn aws() -> S3Settings {
        S3Settings {
            endpoint: "https://s3.amazonaws.com".into(),
            region: "us-east-1".into(),
            bucket: "examplebucket".into(),
            path_style: false,
            access_key_id: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned().into(),
        }
    }

    /// "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)", the example of the S3 API reference.
    #[test]
    fn addresses_are_signed_as_aws_publishes_it() {
        let store = store(&aws());
        let now = "2013-05-24T00:00:00Z".parse::<Timestamp>().unwrap();
        let url = GetObject::new(&store.bucket, Some(&store.credentials), "test.txt")
            .sign_with_time(Duration::from_secs(86_400), &now);
        assert_eq!(
            url.as_str(),
            "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
             &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
             &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        );
    }

    #[test]
    fn an_upload_is_bound_to_the_type_that_was_announced() {
        let store = store(&S3Settings { endpoint: "http://minio:9000".into(), path_style: true, ..aws() });
        let path = ReceiptPath::generate(OrganizationId::generate(), EmployeeId::generate(), Extension::Png);
        let now = DateTime::from_timestamp(1_773_129_600, 0).unwrap();
        let bound = store.upload_url(path, Some(ReceiptKind::Png), now);
        assert!(bound.starts_with(&format!("http://minio:9000/examplebucket/{path}?")), "{bound}");
        assert!(bound.contains("X-Amz-SignedHeaders=content-type%3Bhost"), "{bound}");
        assert!(bound.contains("X-Amz-Date=20260310T080000Z&X-Amz-Expires=900"), "{bound}");
        let free = store.upload_url(path, None, now);
        assert!(free.contains("X-Amz-SignedHeaders=host"), "{free}");
        let (read, expires) = store.download_url(path, now);
        assert!(read.contains("X-Amz-Expires=300") && read.contains("response-content-type=image%2Fpng"), "{read}");
        assert_eq!(expires, now + TimeDelta::seconds(300));
        assert!(![bound, free, read].iter().any(|url| url.contains("wJalrXUtnFEMI")));
    }

    #[test]
    fn the_mark_of_a_file_is_the_same_whoever_passes_it_on() {
        let headers = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ETAG, value.parse().unwrap());
            headers
        };
        let mark = Some("\"9bb58f26192e4ba00f01e2e7b136bbd8\"".to_owned());
        assert_eq!(etag(&headers("\"9bb58f26192e4ba00f01e2e7b136bbd8\"")), mark);
        assert_eq!(etag(&headers("W/\"9bb58f26192e4ba00f01e2e7b136bbd8\"")), mark);
        assert_eq!(etag(&headers("")), None);
        assert_eq!(etag(&HeaderMap::new()), None);
    }

    #[test]
    fn the_size_of_a_whole_file_is_read_from_its_part() {
        let headers = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            headers
        };
        assert_eq!(size(&headers("content-range", "bytes 0-11/1048576")), Some(1_048_576));
        assert_eq!(size(&headers("content-length", "12")), Some(12));
        assert_eq!(size(&headers("content-range", "bytes 0-11/*")), None);
        assert_eq!(size(&HeaderMap::new()), None);
    }
}
