//! `/pods`: a free quote (OPTIONS), a paid upload (POST), a paid extension (PUT), what runs (GET).

use std::{num::NonZeroU32, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use codiusd_runtime::PodId;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Api,
    error::{ApiError, Failure, PaymentDue},
    gate::Unavailable,
    request, trace,
};
use crate::{
    manifest::{ManifestHash, Upload, UploadBody},
    orders::Payment,
    pay::Binding,
    pods::{Receipt, Refusal},
};

/// What an upload would cost.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Quoted {
    /// The pod's name.
    manifest_hash: String,
    /// In the asset's smallest unit; digits.
    price: String,
    /// What is paid in.
    asset_code: String,
    /// Decimal places of its smallest unit.
    asset_scale: u8,
    /// Run time, in seconds.
    #[schema(value_type = u32)]
    duration: NonZeroU32,
}

/// A pod that runs.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Running {
    /// Where it is reached.
    url: String,
    /// Its name.
    #[schema(value_type = String)]
    manifest_hash: PodId,
    /// Until when it runs, ISO 8601.
    expiry: String,
    /// What was uploaded, without private values.
    #[schema(value_type = Object)]
    manifest: serde_json::Value,
}

/// What an upload would cost, for free
///
/// A browser asking for permission uses the same method, and is told apart by its header.
#[utoipa::path(
    options,
    path = "/pods",
    tag = "pods",
    params(("duration" = Option<u32>, Query, description = "run time in seconds; an hour if it isn't said", minimum = 1)),
    request_body(content = UploadBody, description = "What would be uploaded; private values may be left out"),
    responses(
        (status = 200, description = "The price", body = Quoted),
        (status = 204, description = "To a browser that asks for permission"),
        (status = 400, description = "The request is wrong", body = Failure),
        (status = 413, description = "The body is too large", body = Failure),
        (status = 415, description = "The body isn't JSON", body = Failure),
        (status = 422, description = "The manifest's fields don't go together", body = Failure),
        (
            status = 503,
            description = "The host can't do this now; what was paid is kept. Or it hasn't passed its own test yet",
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
    let quote = api.orders.quote(upload.machine(), seconds)?;
    let answer = Quoted {
        manifest_hash: upload.hash().to_string(),
        price: quote.price.to_string(),
        asset_code: quote.asset.code,
        asset_scale: quote.asset.scale,
        duration: seconds,
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

/// Runs a pod for money
///
/// A pod that runs already runs longer. Without a token this is a free check of all that is checked before money is asked for.
#[utoipa::path(
    post,
    path = "/pods",
    tag = "pods",
    params(("duration" = Option<u32>, Query, description = "run time in seconds; an hour if it isn't said", minimum = 1), ("Pay-Token" = Option<String>, Header, description = "16 random bytes in base64, which belong to this request; a 400 without one")),
    request_body(content = UploadBody, description = "The manifest, and its private values"),
    responses(
        (status = 200, description = "The pod runs", body = Receipt),
        (status = 400, description = "The request is wrong", body = Failure),
        (
            status = 402,
            description = "Pay, then send the same request again",
            body = PaymentDue,
            headers(("Pay" = String, description = "`interledger-stream <ILP address> <base64 of the shared secret>`"))
        ),
        (status = 409, description = "The token belongs to another request", body = Failure),
        (status = 413, description = "The body is too large", body = Failure),
        (status = 415, description = "The body isn't JSON", body = Failure),
        (status = 422, description = "The manifest's fields don't go together, or what its image holds can't be run; that is often found only when it is started, and then what was paid is kept", body = Failure),
        (status = 500, description = "The host has failed", body = Failure),
        (
            status = 503,
            description = "The host can't do this now; what was paid is kept. Or it hasn't passed its own test yet",
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
            api.orders.admit(&order).await?;
            return Err(error);
        }
    };
    let payment = Payment { token, binding: Binding::of(method.as_str(), target(&uri), &body) };
    Ok(Json(api.orders.upload(order, seconds, payment).await?))
}

/// Lets a pod run longer for money
#[utoipa::path(
    put,
    path = "/pods",
    tag = "pods",
    params(("manifestHash" = String, Query, description = "the pod's name"), ("duration" = Option<u32>, Query, description = "run time in seconds; an hour if it isn't said", minimum = 1), ("Pay-Token" = String, Header, description = "16 random bytes in base64, which belong to this request")),
    responses(
        (status = 200, description = "The pod runs longer", body = Receipt),
        (status = 400, description = "The request is wrong", body = Failure),
        (
            status = 402,
            description = "Pay, then send the same request again",
            body = PaymentDue,
            headers(("Pay" = String, description = "`interledger-stream <ILP address> <base64 of the shared secret>`"))
        ),
        (status = 404, description = "There is no such pod", body = Failure),
        (status = 409, description = "The token belongs to another request", body = Failure),
        (status = 413, description = "There is a body, which isn't wanted, and it is too large", body = Failure),
        (status = 422, description = "There is no manifestHash, or the size of the pod isn't sold any more", body = Failure),
        (status = 500, description = "The host has failed", body = Failure),
        (
            status = 503,
            description = "The host can't do this now; what was paid is kept",
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
    Ok(Json(api.orders.extend(&id, seconds, payment).await?))
}

/// What runs under a name
#[utoipa::path(
    get,
    path = "/pods",
    tag = "pods",
    params(("manifestHash" = String, Query, description = "the pod's name")),
    responses(
        (status = 200, description = "The pod", body = Running),
        (status = 400, description = "The query is wrong", body = Failure),
        (status = 404, description = "There is no such pod", body = Failure),
        (status = 422, description = "There is no manifestHash", body = Failure),
        (
            status = 503,
            description = "The pod has stopped, or is being started or stopped",
            body = Failure,
            headers(("Retry-After" = u32, description = "Seconds"))
        ),
    ),
)]
pub(super) async fn state(State(api): State<Arc<Api>>, uri: Uri) -> Result<Json<Running>, ApiError> {
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
    Ok(Json(Running { url: receipt.url, manifest_hash: receipt.manifest_hash, expiry: receipt.expiry, manifest }))
}

fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |target| target.as_str())
}
