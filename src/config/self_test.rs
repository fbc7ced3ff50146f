//! Settings of the self-test.

use std::time::Duration;

use codiusd_ilp::btp::client::BtpUrl;
use url::Url;

use super::{ConfigError, credentials, parse, parse_bool, source::Settings};

/// An hour between two tries is as good as none.
const INTERVAL_MAX: u64 = 3600;

/// How a host tests itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfTestChoice {
    /// How often a test that fails is repeated soon.
    pub retries: u16,
    /// How soon that is.
    pub interval: Duration,
    /// What it pays from; none: whatever account the connector gives it.
    pub credentials: Option<BtpUrl>,
    /// What it runs; none: the image that codiusd brings along.
    pub image: Option<String>,
}

/// None: the host doesn't test itself. Unless it is said, a lab doesn't: nobody else is to find it there.
pub(super) fn choice(settings: &Settings, dev: bool, public_uri: Option<&Url>) -> Result<Option<SelfTestChoice>, ConfigError> {
    let is_local = public_uri.and_then(Url::domain).is_none_or(|name| name == "localhost" || name.ends_with(".localhost"));
    let wanted = settings.optional("self_test", "on or off", parse_bool)?.unwrap_or(!dev && !is_local);
    let interval = settings.get("self_test_interval", "a number of seconds from 1 to 3600", |text| {
        parse(text).filter(|seconds| (1..=INTERVAL_MAX).contains(seconds))
    })?;
    let choice = SelfTestChoice {
        retries: settings.get("self_test_retries", "a number from 0 to 65535", parse)?,
        interval: Duration::from_secs(interval),
        credentials: settings.optional(
            "self_test_credentials",
            "JSON such as {\"server\":\"btp+ws://:secret@localhost:7768\"}, with a btp+ws:// or btp+wss:// URL",
            credentials,
        )?,
        image: settings.optional("self_test_image", "an image with its digest, name@sha256:<64 hex digits>", |text| {
            text.contains("@sha256:").then(|| text.to_owned())
        })?,
    };
    Ok(wanted.then_some(choice))
}
