//! `/pods`: a free quote (OPTIONS), a paid upload (POST), a paid extension (PUT), what runs (GET).

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use codiusd_api_types::{
    error::Failure,
    pods::{Quote, Receipt},
};
use codiusd_runtime::PodId;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Api,
    error::{ApiError, PaymentDue},
    request,
    self_test_gate::Unavailable,
    trace,
};
use crate::{
    manifest::{ManifestHash, Upload, UploadBody},
    money::Binding,
    paid_requests::Payment,
    pods::Refusal,
};

/// A pod that runs.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Running {
    /// Where it is reached.
    url: String,
    /// Its name.
    manifest_hash: String,
    /// Until when it runs, ISO 8601.
    expiry: String,
    /// What was uploaded, without private values.
    #[schema(value_type = Object)]
    manifest: serde_json::Value,
}

/// Quotes the price of an upload, for free
///
/// A CORS preflight uses the same method; its `Access-Control-Request-Method` header tells the two apart.
#[utoipa::path(
    options,
    path = "/pods",
    tag = "pods",
    params(("duration" = Option<u32>, Query, description = "run time in seconds; 3600 if absent", minimum = 1)),
    request_body(content = UploadBody, description = "What would be uploaded; private values may be left out"),
    responses(
        (status = 200, description = "The price", body = Quote),
        (status = 204, description = "a CORS preflight"),
        (status = 400, description = "A query parameter, a header or a field of the body is invalid; the message names it", body = Failure),
        (status = 413, description = "The body is too large", body = Failure),
        (status = 415, description = "The body is not JSON", body = Failure),
        (status = 422, description = "The manifest contradicts itself", body = Failure),
        (
            status = 503,
            description = "The host is full, draining, or has not passed its self-test; a payment already made stays on the Pay-Token",
            body = Unavailable,
            headers(("Retry-After" = u32, description = "Seconds"))
        ),
    ),
)]
pub(super) async fn quote(State(api): State<Arc<Api>>, uri: Uri, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    if headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        return Ok(preflight());
    }
    let body = request::json_body(&headers, body).await?;
    let upload = Upload::parse_question(&body, &api.config.rules)?;
    let seconds = request::duration(&uri, &api.config)?;
    let quote = api.paid_requests.quote(upload.machine(), seconds)?;
    let answer = Quote {
        manifest_hash: upload.hash().to_string(),
        price: quote.price.to_string(),
        asset_code: Some(quote.asset.code),
        asset_scale: Some(quote.asset.scale),
        duration: Some(seconds.get()),
    };
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

/// Uploads a pod and pays for its run time; extends it if it runs already
///
/// Without a Pay-Token this is a free check of everything that is checked before a payment is due.
#[utoipa::path(
    post,
    path = "/pods",
    tag = "pods",
    params(("duration" = Option<u32>, Query, description = "run time in seconds; 3600 if absent", minimum = 1), ("Pay-Token" = Option<String>, Header, description = "16 random bytes in base64 that belong to this request; 400 without it")),
    request_body(content = UploadBody, description = "The manifest, and its private values"),
    responses(
        (status = 200, description = "The pod runs", body = Receipt),
        (status = 400, description = "A query parameter, a header or a field of the body is invalid; the message names it", body = Failure),
        (
            status = 402,
            description = "Payment is due: pay what the `Pay` header says, then repeat the request with the same Pay-Token",
            body = PaymentDue,
            headers(("Pay" = String, description = "`interledger-stream <ILP address> <base64 of the shared secret>`"))
        ),
        (status = 403, description = "The operator bans this manifest or image; a payment already made stays on the Pay-Token", body = Failure),
        (status = 409, description = "The Pay-Token belongs to another request", body = Failure),
        (status = 413, description = "The body is too large", body = Failure),
        (status = 415, description = "The body is not JSON", body = Failure),
        (status = 422, description = "The manifest contradicts itself, or its image cannot be run; a payment made before that was found stays on the Pay-Token", body = Failure),
        (status = 500, description = "The host failed; the log has the request id", body = Failure),
        (
            status = 503,
            description = "The host is full, draining, or has not passed its self-test; a payment already made stays on the Pay-Token",
            body = Unavailable,
            headers(("Retry-After" = u32, description = "Seconds"))
        ),
    ),
)]
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
    trace::about(&order.spec.id);
    let token = match request::token(&headers) {
        Ok(token) => token,
        Err(error) => {
            // Without a token this is a free check, of all that would be checked before money is asked for.
            api.paid_requests.admit(&order).await?;
            return Err(error);
        }
    };
    let payment = Payment { token, binding: Binding::of(method.as_str(), target(&uri), &body) };
    Ok(Json(api.paid_requests.upload(order, seconds, payment).await?))
}

/// Pays for more run time of a running pod
#[utoipa::path(
    put,
    path = "/pods",
    tag = "pods",
    params(("manifestHash" = String, Query, description = "the pod's name"), ("duration" = Option<u32>, Query, description = "run time in seconds; 3600 if absent", minimum = 1), ("Pay-Token" = String, Header, description = "16 random bytes in base64 that belong to this request")),
    responses(
        (status = 200, description = "The pod runs longer", body = Receipt),
        (status = 400, description = "A query parameter, a header or a field of the body is invalid; the message names it", body = Failure),
        (
            status = 402,
            description = "Payment is due: pay what the `Pay` header says, then repeat the request with the same Pay-Token",
            body = PaymentDue,
            headers(("Pay" = String, description = "`interledger-stream <ILP address> <base64 of the shared secret>`"))
        ),
        (status = 403, description = "The operator bans this manifest or image; a payment already made stays on the Pay-Token", body = Failure),
        (status = 404, description = "There is no such pod", body = Failure),
        (status = 409, description = "The Pay-Token belongs to another request", body = Failure),
        (status = 413, description = "The request has a body, and it is too large", body = Failure),
        (status = 422, description = "`manifestHash` is missing, or the host no longer sells this pod size", body = Failure),
        (status = 500, description = "The host failed; the log has the request id", body = Failure),
        (
            status = 503,
            description = "The host is draining, or the pod is being started or stopped; a payment already made stays on the Pay-Token",
            body = Failure,
            headers(("Retry-After" = u32, description = "Seconds"))
        ),
    ),
)]
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
    trace::about(&id);
    let payment = Payment { token, binding: Binding::of(method.as_str(), target(&uri), b"") };
    Ok(Json(api.paid_requests.extend(&id, seconds, payment).await?))
}

/// Returns a running pod and its manifest
#[utoipa::path(
    get,
    path = "/pods",
    tag = "pods",
    params(("manifestHash" = String, Query, description = "the pod's name")),
    responses(
        (status = 200, description = "The pod", body = Running),
        (status = 400, description = "A query parameter is invalid", body = Failure),
        (status = 404, description = "There is no such pod", body = Failure),
        (status = 422, description = "`manifestHash` is missing", body = Failure),
        (
            status = 503,
            description = "The pod has exited, or is being started or stopped",
            body = Failure,
            headers(("Retry-After" = u32, description = "Seconds"))
        ),
    ),
)]
pub(super) async fn state(State(api): State<Arc<Api>>, uri: Uri) -> Result<Json<Running>, ApiError> {
    let text = request::parameter(&uri, "manifestHash")?.filter(|text| !text.is_empty()).ok_or(ApiError::NoHash)?;
    let unknown = || ApiError::NoManifest(text.clone().into_owned());
    let hash: ManifestHash = text.parse().map_err(|_| unknown())?;
    let view = match api.paid_requests.running(hash.pod_id()) {
        Ok(view) => view,
        Err(Refusal::NoSuchPod(_)) => return Err(unknown()),
        Err(refusal) => return Err(refusal.into()),
    };
    let manifest: serde_json::Value = serde_json::from_str(&view.order.manifest).unwrap_or_default();
    let receipt = view.receipt;
    Ok(Json(Running { url: receipt.url, manifest_hash: receipt.manifest_hash, expiry: receipt.expiry, manifest }))
}

fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |target| target.as_str())
}
