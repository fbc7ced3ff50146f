//! Bodies, query strings and headers of requests: untrusted, bounded, parsed into types.

use std::{borrow::Cow, io::Read, num::NonZeroU32};

use axum::{
    body::{Body, to_bytes},
    http::{HeaderMap, Uri, header},
};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use url::form_urlencoded;

use super::{ApiConfig, error::ApiError};
use crate::money::PayToken;

/// Largest request body, before and after decompression, in bytes.
pub(super) const BODY_MAX: usize = 1_048_576;

/// Reads a JSON body, inflated if it is gzipped.
pub(super) async fn json_body(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    check_content_type(headers)?;
    let bytes = bounded(headers, body).await?;
    match headers.get(header::CONTENT_ENCODING).map(|encoding| encoding.as_bytes().to_ascii_lowercase()).as_deref() {
        None | Some(b"" | b"identity") => Ok(bytes),
        Some(b"gzip" | b"x-gzip") => inflate(&bytes),
        Some(_) => Err(ApiError::ContentType),
    }
}

/// Reads the body of a request that needs none: it must be empty, or an empty JSON object.
pub(super) async fn no_body(headers: &HeaderMap, body: Body) -> Result<(), ApiError> {
    let bytes = bounded(headers, body).await?;
    if bytes.is_empty() || bytes.as_ref() == b"{}" { Ok(()) } else { Err(ApiError::UnexpectedBody) }
}

async fn bounded(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > BODY_MAX as u64) {
        return Err(ApiError::TooLarge(BODY_MAX));
    }
    to_bytes(body, BODY_MAX).await.map_err(|error| {
        let too_large = std::error::Error::source(&error).is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
        if too_large { ApiError::TooLarge(BODY_MAX) } else { ApiError::Body }
    })
}

fn inflate(bytes: &[u8]) -> Result<Bytes, ApiError> {
    let mut inflated = Vec::new();
    MultiGzDecoder::new(bytes).take(BODY_MAX as u64 + 1).read_to_end(&mut inflated).map_err(|_| ApiError::Gzip)?;
    if inflated.len() > BODY_MAX { Err(ApiError::TooLarge(BODY_MAX)) } else { Ok(inflated.into()) }
}

/// A missing content type counts as JSON.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = value.to_str().map_err(|_| ApiError::ContentTypeHeader)?;
    let kind = text.split(';').next().unwrap_or_default().trim();
    if kind.is_empty() || kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let valid = kind.split_once('/').is_some_and(|(kind, subkind)| !kind.is_empty() && !subkind.is_empty());
    Err(if valid { ApiError::ContentType } else { ApiError::ContentTypeHeader })
}

/// The single value of a query parameter; a repeated name is an error, because the intended value is ambiguous.
pub(super) fn parameter<'a>(uri: &'a Uri, name: &str) -> Result<Option<Cow<'a, str>>, ApiError> {
    let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let mut values = pairs.filter(|(key, _)| key == name).map(|(_, value)| value);
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(ApiError::Query(format!("{name} is given more than once"))),
    }
}

/// `duration`, in seconds.
pub(super) fn duration(uri: &Uri, config: &ApiConfig) -> Result<NonZeroU32, ApiError> {
    match parameter(uri, "duration")? {
        None => Ok(config.duration_default),
        Some(text) if text.is_empty() => Ok(config.duration_default),
        Some(text) => {
            let plain = text.bytes().all(|byte| byte.is_ascii_digit());
            let seconds = text.parse().ok().filter(|seconds| plain && *seconds <= config.duration_max);
            let problem = || format!("duration must be a whole number of seconds from 1 to {}", config.duration_max);
            seconds.ok_or_else(|| ApiError::Query(problem()))
        }
    }
}

/// The payer's token.
pub(super) fn token(headers: &HeaderMap) -> Result<PayToken, ApiError> {
    let value = headers.get("pay-token").ok_or(ApiError::NoToken)?;
    Ok(PayToken::parse(value.to_str().unwrap_or_default())?)
}
