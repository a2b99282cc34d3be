//! The admin HTTP without I/O: requests and responses ([`http`]), the table of routes and what is made from it
//! ([`routes`]), and who may ask ([`guard`]). Driven by `runtime::admin`.

pub mod guard;
pub mod http;
pub mod routes;

/// The style and the program of the dashboard.
pub const STYLE: &str = include_str!("dashboard/style.css");
pub const SCRIPT: &str = concat!(include_str!("dashboard/chart.js"), "\n", include_str!("dashboard/page.js"));

/// The dashboard: one page without resources from elsewhere.
pub fn dashboard() -> String {
    let page = include_str!("dashboard/page.html");
    page.replace("/*STYLE*/", STYLE).replace("/*SCRIPT*/", SCRIPT)
}

/// What the dashboard may load and run: itself. `digest` is that of SHA-256, in base64. Keys of clients are shown there;
/// should one ever become markup, it still does nothing.
pub fn dashboard_policy(digest: impl Fn(&str) -> String) -> String {
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        digest(STYLE),
        digest(SCRIPT)
    )
}
