//! The API's description, for programs and for people: as JSON and YAML, and as a page that sends requests.
//!
//! The page is Swagger UI, compiled in: it loads nothing from elsewhere, and runs no script that is written into the
//! page, as the content security policy asks.

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::http::Method;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use serde_json::json;
use utoipa_swagger_ui::Config;

use crate::error::{ApiError, ApiResult};
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint, Routes};
use crate::http::input::{Input, Parts};
use crate::http::openapi::{self, About, Document};
use crate::http::reply::JSON;

/// The feature's routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes.add::<Json>().add::<Page>().add::<PageInFolder>().add::<PageJson>().add::<PageYaml>().add::<Asset>();
}

fn document() -> ApiResult<&'static Document> {
    openapi::document().map_err(|error| ApiError::Internal(error.to_owned()))
}

fn as_json() -> ApiResult<HttpResponse> {
    Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, JSON)).body(document()?.json.as_str()))
}

/// `GET /openapi.json`
struct Json;

impl Endpoint for Json {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/openapi.json";
    const ACCESS: Access = Access::Public;
    type Input = ();

    fn about() -> About {
        About::new("docs", "getOpenapi", "This description").object(200, "An OpenAPI document.")
    }

    async fn handle(_: Call<()>) -> ApiResult<HttpResponse> {
        as_json()
    }
}

/// `GET /docs/json`
struct PageJson;

impl Endpoint for PageJson {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/docs/json";
    const ACCESS: Access = Access::Public;
    type Input = ();

    fn about() -> About {
        About::new("docs", "getDocsJson", "This description, as JSON").object(200, "An OpenAPI document.")
    }

    async fn handle(_: Call<()>) -> ApiResult<HttpResponse> {
        as_json()
    }
}

/// `GET /docs/yaml`
struct PageYaml;

impl Endpoint for PageYaml {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/docs/yaml";
    const ACCESS: Access = Access::Public;
    type Input = ();

    fn about() -> About {
        About::new("docs", "getDocsYaml", "This description, as YAML").text(200, YAML, "An OpenAPI document.")
    }

    async fn handle(_: Call<()>) -> ApiResult<HttpResponse> {
        Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, YAML)).body(document()?.yaml.as_str()))
    }
}

const YAML: &str = "application/x-yaml";

/// `GET /docs`
struct Page;

impl Endpoint for Page {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/docs";
    const ACCESS: Access = Access::Public;
    type Input = ();

    fn about() -> About {
        About::new("docs", "getDocs", "This description, as a page that sends requests").text(
            200,
            "text/html",
            "The page.",
        )
    }

    async fn handle(_: Call<()>) -> ApiResult<HttpResponse> {
        Ok(page())
    }
}

/// `GET /docs/`
struct PageInFolder;

impl Endpoint for PageInFolder {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/docs/";
    const ACCESS: Access = Access::Public;
    type Input = ();

    fn about() -> About {
        About::new("docs", "getDocsInFolder", "The same page").text(200, "text/html", "The page.")
    }

    async fn handle(_: Call<()>) -> ApiResult<HttpResponse> {
        Ok(page())
    }
}

/// As every reply's, without upgrading to HTTPS: the page must work where a gateway is tried out, too.
const POLICY: &str = "default-src 'self';script-src 'self';style-src 'self' 'unsafe-inline';img-src 'self' data:;\
    base-uri 'self';form-action 'self';frame-ancestors 'self';object-src 'none';script-src-attr 'none'";

fn page() -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/html; charset=utf-8"))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .body(include_str!("page.html"))
}

/// `GET /docs/static/{file}`: what the page is made of.
struct Asset;

/// A file's name.
struct Name(String);

impl Input for Name {
    const READS_BODY: bool = false;
    const IS_JUDGED: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        Ok(Self(parts.request.match_info().query("file").to_owned()))
    }
}

impl Endpoint for Asset {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/docs/static/{file}";
    const ACCESS: Access = Access::Public;
    type Input = Name;

    fn about() -> About {
        About::new("docs", "getDocsAsset", "What the page is made of")
            .parameter("path", "file", true, json!({ "type": "string" }))
            .text(200, "*/*", "A script, a style sheet or a picture.")
            .refuses(404, "There is no such file.")
    }

    async fn handle(call: Call<Name>) -> ApiResult<HttpResponse> {
        let mut response = HttpResponse::Ok();
        // It changes with a release, under the same name.
        response.insert_header((CACHE_CONTROL, "public, max-age=3600"));
        if call.input.0 == "start.js" {
            response.insert_header((CONTENT_TYPE, "text/javascript; charset=utf-8"));
            return Ok(response.body(include_str!("start.js")));
        }
        let config = Arc::new(Config::from("/openapi.json"));
        let file = utoipa_swagger_ui::serve(&call.input.0, config)
            .map_err(|error| ApiError::Internal(error.to_string()))?
            .ok_or(ApiError::NotFound("There is no such file"))?;
        response.insert_header((CONTENT_TYPE, file.content_type));
        if file.gzpipped {
            response.insert_header((CONTENT_ENCODING, "gzip"));
        }
        Ok(response.body(file.bytes.into_owned()))
    }
}
