#![forbid(unsafe_code)]
//! `/metrics` for Prometheus and its like.

use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::Office;
use super::views;
use crate::control;
use crate::http::{Answer, Around, Request, Response};
use crate::session::Lane;

/// The media type of OpenMetrics 1.0.
const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics, for somebody logged in, from an address that is listed, or with the token.
pub(super) fn answer(
    office: &Arc<Office>,
    request: &Request<'_, '_>,
    around: &Around<'_>,
    logged_in: bool,
) -> Answer {
    if !logged_in && !office.is_listed(around) && !shows_token(office, request) {
        let response = Response::with(
            401,
            "text/plain; charset=utf-8",
            "a token is wanted, or a listed address\n",
        );
        return views::guarded(response.field("WWW-Authenticate", "Bearer realm=\"metrics\""))
            .into();
    }
    let office = Arc::clone(office);
    Answer::Later(
        Lane::Wait,
        Box::new(move || {
            views::guarded(match office.ask::<String>(&control::Request::Metrics) {
                Ok(text) => Response::with(200, TYPE, text),
                Err(refused) => Response::error(503, &refused.lines().join(" ")),
            })
        }),
    )
}

/// RFC 6750, 2.1.
fn shows_token(office: &Office, request: &Request<'_, '_>) -> bool {
    let Some(token) = &office.setup.metrics_token else {
        return false;
    };
    let shown = request
        .get("authorization")
        .and_then(|value| value.split_once(' '));
    shown.is_some_and(|(scheme, shown)| {
        scheme.eq_ignore_ascii_case("bearer")
            && bool::from(shown.trim().as_bytes().ct_eq(token.as_bytes()))
    })
}
