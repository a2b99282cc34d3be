//! The admin HTTP without I/O: requests and responses ([`http`]), the table of routes and what is made from it
//! ([`routes`]), and who may ask ([`guard`]). Driven by `runtime::admin`.

pub mod guard;
pub mod http;
pub mod routes;

/// The one page: no resources from elsewhere.
pub const DASHBOARD: &str = include_str!("dashboard.html");

/// What a page of ours may load: itself.
pub const DASHBOARD_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                                    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                                    frame-ancestors 'none'";
