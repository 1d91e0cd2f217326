//! `/ui/`: the dashboard, as static files that are part of the program.
//!
//! The files need no token, because they hold no data: the page asks for the token and sends it with
//! its requests to the API. The rules for `Host` hold for them as well. The content security policy
//! forbids everything that does not come from this listener.

use std::sync::LazyLock;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Request};
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH,
    LOCATION, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};

macro_rules! ui_files {
    ($($path:literal,)*) => {
        &[$(UiFile { path: $path, bytes: include_bytes!(concat!("ui/", $path)) },)*]
    };
}

/// The files in `src/admin/ui/`. Add a new one here; a test fails for a file that is missing.
const FILES: &[UiFile] = ui_files![
    "api.js",
    "app.js",
    "base.css",
    "charts.js",
    "dom.js",
    "events.js",
    "format.js",
    "index.html",
    "pages/balancing.js",
    "pages/benchmarks.js",
    "pages/breakers.js",
    "pages/caches.js",
    "pages/degradation.js",
    "pages/differences.js",
    "pages/events.js",
    "pages/fleet.js",
    "pages/overview.js",
    "pages/policies.js",
    "pages/queue.js",
    "pages/request_detail.js",
    "pages/requests.js",
    "pages/retries.js",
    "parts.css",
    "parts.js",
    "router.js",
    "theme.js",
    "theme_choice.js",
    "vendor/LICENSE-htm",
    "vendor/LICENSE-preact",
    "vendor/LICENSE-uplot",
    "vendor/hooks.umd.js",
    "vendor/htm.mjs",
    "vendor/preact.umd.js",
    "vendor/uPlot.iife.min.js",
    "vendor/uPlot.min.css",
];

/// The headers of every response under `/ui/`.
const SECURITY_HEADERS: [(HeaderName, &str); 5] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
         img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

static ETAGS: LazyLock<Vec<String>> = LazyLock::new(|| FILES.iter().map(UiFile::etag).collect());

struct UiFile {
    path: &'static str,
    bytes: &'static [u8],
}

pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/ui", get(async || redirect()))
        .route("/ui/", get(async |headers: HeaderMap| respond("index.html", &headers)))
        .route("/ui/{*path}", get(file))
        .layer(from_fn(secure))
}

/// Whether a request is for a static file, which needs no token.
pub(super) fn is_static(method: &Method, path: &str, headers: &HeaderMap) -> bool {
    let in_folder = path == "/ui" || path.starts_with("/ui/");
    matches!(*method, Method::GET | Method::HEAD) && (in_folder || is_visit(path, headers))
}

/// Redirects a browser from `/` to the dashboard.
pub(super) async fn redirect_browsers(request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads && is_visit(request.uri().path(), request.headers()) {
        return redirect();
    }
    next.run(request).await
}

fn is_visit(path: &str, headers: &HeaderMap) -> bool {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut ranges = accept.flat_map(|value| value.split(','));
    path == "/" && ranges.any(|range| range.split(';').next().map(str::trim) == Some("text/html"))
}

fn redirect() -> Response {
    (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, "/ui/"), (VARY, "accept")]).into_response()
}

async fn secure(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in SECURITY_HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn file(Path(path): Path<String>, headers: HeaderMap) -> Response {
    respond(&path, &headers)
}

fn respond(path: &str, headers: &HeaderMap) -> Response {
    let Some(at) = FILES.iter().position(|file| file.path == path) else {
        return (StatusCode::NOT_FOUND, "not found; the dashboard is at `/ui/`\n").into_response();
    };
    let (file, etag) = (&FILES[at], ETAGS[at].as_str());
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|value| value.split(',')).map(str::trim);
    let validators = [(ETAG, etag), (CACHE_CONTROL, "no-cache")];
    if known.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag) {
        return (StatusCode::NOT_MODIFIED, validators).into_response();
    }
    let content_type = [(CONTENT_TYPE, content_type(path))];
    (validators, content_type, Bytes::from_static(file.bytes)).into_response()
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("json") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("woff2") => "font/woff2",
        _ => "text/plain; charset=utf-8",
    }
}

impl UiFile {
    /// The first half of the hash of the content, in quotes.
    fn etag(&self) -> String {
        let hash = Sha256::digest(self.bytes);
        let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("\"{hex}\"")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    /// All files together, compressed as one.
    const MAX_COMPRESSED: usize = 100 << 10;

    /// Otherwise a module is requested only when those that import it have arrived.
    #[test]
    fn every_module_is_requested_with_the_page() {
        let page = FILES.iter().find(|file| file.path == "index.html").expect("the page");
        let page = String::from_utf8_lossy(page.bytes);
        for UiFile { path, .. } in FILES {
            if path.ends_with("js") {
                let (script, module) = (format!("src=\"{path}\""), format!("href=\"{path}\""));
                assert!(page.contains(&script) || page.contains(&module), "{path}");
            }
        }
    }

    #[test]
    fn every_file_of_the_folder_is_served() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/ui");
        let (mut folders, mut found) = (vec![root.clone()], BTreeSet::new());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => {
                        let name = path.strip_prefix(&root).expect("below it");
                        found.insert(name.to_string_lossy().into_owned());
                    }
                }
            }
        }
        assert_eq!(found, FILES.iter().map(|file| file.path.to_owned()).collect());
    }

    #[test]
    fn the_files_are_small() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        for file in FILES {
            encoder.write_all(file.bytes).expect("in memory");
        }
        let size = encoder.finish().expect("in memory").len();
        assert!(size <= MAX_COMPRESSED, "{size} bytes");
    }

    /// The lines with an address of another origin outside comments.
    fn other_origins(text: &str) -> Vec<&str> {
        let mut found = Vec::new();
        for scheme in ["http://", "https://", "ws://", "wss://", "=\"//", "url(//"] {
            for (at, _) in text.match_indices(scheme) {
                let (before, after) = text.split_at(at);
                let is_open = |open: &str, close: &str| before.rfind(open) > before.rfind(close);
                let comment = is_open("/*", "*/") || is_open("<!--", "-->");
                let line = before.rsplit('\n').next().unwrap_or_default();
                let comment =
                    comment || line.trim_start().starts_with("//") || line.contains(" //");
                let namespace = after.starts_with("http://www.w3.org/");
                if !comment && !namespace {
                    found.push(after.lines().next().unwrap_or_default());
                }
            }
        }
        found
    }

    #[test]
    fn no_file_names_another_origin() {
        let texts = FILES.iter().filter(|file| !content_type(file.path).starts_with("image/png"));
        for file in texts.filter(|file| !file.path.to_ascii_lowercase().contains("licen")) {
            let text = std::str::from_utf8(file.bytes).expect("text");
            assert_eq!(other_origins(text), [""; 0], "{}", file.path);
        }
        let text =
            "/* https://a */\n// http://b\nx = 1; // http://c\nns('http://www.w3.org/2000/svg')";
        assert_eq!(other_origins(text), [""; 0]);
        assert_eq!(other_origins("get('https://cdn.example/x.js')").len(), 1);
        assert_eq!(other_origins("/* a */ get('https://cdn.example/x.js')").len(), 1);
        assert_eq!(other_origins("<script src=\"//cdn.example/x.js\">").len(), 1);
    }

    #[test]
    fn only_a_browser_is_redirected() {
        let with = |accept: &str| {
            HeaderMap::from_iter([(ACCEPT, HeaderValue::from_str(accept).expect("a value"))])
        };
        for (path, accept, expected) in [
            ("/", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", true),
            ("/", "application/xml, text/html;q=0.9", true),
            ("/", "*/*", false),
            ("/api/status", "text/html", false),
        ] {
            assert_eq!(is_visit(path, &with(accept)), expected, "{path} {accept}");
        }
    }
}
