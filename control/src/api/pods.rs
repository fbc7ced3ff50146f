//! `/pods`: a free quote (OPTIONS), a paid upload (POST), a paid extension (PUT), what runs (GET).

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use codiusd_runtime::PodId;
use serde_json::json;

use super::{Api, error::ApiError, request};
use crate::{
    manifest::{ManifestHash, Upload},
    orders::Payment,
    pay::Binding,
    pods::{Receipt, Refusal},
};

/// What it would cost. A browser asking for permission uses the same method, and is told apart by its header.
pub(super) async fn quote(State(api): State<Arc<Api>>, uri: Uri, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    if headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        return Ok(preflight());
    }
    let body = request::json_body(&headers, body).await?;
    let upload = Upload::parse_question(&body, &api.config.rules)?;
    let seconds = request::duration(&uri, &api.config)?;
    let quote = api.orders.quote(upload.machine(), seconds)?;
    let answer = json!({
        "manifestHash": upload.hash().to_string(),
        "price": quote.price.to_string(),
        "assetCode": quote.asset.code,
        "assetScale": quote.asset.scale,
        "duration": seconds,
    });
    Ok(Json(answer).into_response())
}

fn preflight() -> Response {
    let allow = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, OPTIONS")),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Content-Type, Pay-Token")),
        (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400")),
    ];
    (StatusCode::NO_CONTENT, allow).into_response()
}

/// Runs a pod for money.
pub(super) async fn upload(
    State(api): State<Arc<Api>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Receipt>, ApiError> {
    let body = request::json_body(&headers, body).await?;
    let upload = Upload::parse(&body, &api.config.rules)?;
    let seconds = request::duration(&uri, &api.config)?;
    let order = Arc::new(upload.order(&api.config.rules, &api.config.public_uri));
    let token = match request::token(&headers) {
        Ok(token) => token,
        Err(error) => {
            // Without a token this is a free check, of all that would be checked before money is asked for.
            api.orders.admit(&order).await?;
            return Err(error);
        }
    };
    let payment = Payment { token, binding: Binding::of(method.as_str(), target(&uri), &body) };
    Ok(Json(api.orders.upload(order, seconds, payment).await?))
}

/// Lets a pod run longer for money.
pub(super) async fn extend(
    State(api): State<Arc<Api>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Receipt>, ApiError> {
    request::no_body(&headers, body).await?;
    let token = request::token(&headers)?;
    let text = request::parameter(&uri, "manifestHash")?.filter(|text| !text.is_empty()).ok_or(ApiError::NoHash)?;
    let seconds = request::duration(&uri, &api.config)?;
    let unknown = || ApiError::NoPodToExtend(text.clone().into_owned());
    let id: PodId = text.parse().map_err(|_| unknown())?;
    let payment = Payment { token, binding: Binding::of(method.as_str(), target(&uri), b"") };
    Ok(Json(api.orders.extend(&id, seconds, payment).await?))
}

/// What runs under a name.
pub(super) async fn state(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, ApiError> {
    let text = request::parameter(&uri, "manifestHash")?.filter(|text| !text.is_empty()).ok_or(ApiError::NoHash)?;
    let unknown = || ApiError::NoManifest(text.clone().into_owned());
    let hash: ManifestHash = text.parse().map_err(|_| unknown())?;
    let view = match api.orders.running(hash.pod_id()) {
        Ok(view) => view,
        Err(Refusal::NoSuchPod(_)) => return Err(unknown()),
        Err(refusal) => return Err(refusal.into()),
    };
    let manifest: serde_json::Value = serde_json::from_str(&view.order.manifest).unwrap_or_default();
    let receipt = view.receipt;
    let answer = json!({ "url": receipt.url, "manifestHash": receipt.manifest_hash, "expiry": receipt.expiry, "manifest": manifest });
    Ok(Json(answer).into_response())
}

fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |target| target.as_str())
}
