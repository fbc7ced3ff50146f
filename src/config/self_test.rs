//! Settings of the self-test.

use std::time::Duration;

use codiusd_ilp::btp::client::BtpUrl;
use url::Url;

use super::{
    ConfigError, parse, parse_bool,
    source::Settings,
    units::parse_duration,
    uplink::{ACCOUNT, credentials},
};

/// Longest interval: retries further apart would be of no use.
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// Settings of the self-test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfTestChoice {
    /// How many times a failing test is repeated after `interval`; after that it is repeated slowly.
    pub retries: u16,
    /// Time between these retries.
    pub interval: Duration,
    /// The account that pays; none: one that the connector opens.
    pub credentials: Option<BtpUrl>,
    /// The image that runs; none: codiusd's built-in one.
    pub image: Option<String>,
}

/// None: the self-test is off. By default it is off in dev mode and on localhost, where visitors can't reach the host anyway.
pub(super) fn choice(settings: &Settings, dev: bool, public_uri: Option<&Url>) -> Result<Option<SelfTestChoice>, ConfigError> {
    let is_local = public_uri.and_then(Url::domain).is_none_or(|name| name == "localhost" || name.ends_with(".localhost"));
    let wanted = settings.optional("self_test.enabled", "true or false", parse_bool)?.unwrap_or(!dev && !is_local);
    let interval = settings.get("self_test.interval", "a duration from 1s to 1h, such as 5s", |text| {
        parse_duration(text).filter(|interval| (Duration::from_secs(1)..=INTERVAL_MAX).contains(interval))
    })?;
    let choice = SelfTestChoice {
        retries: settings.get("self_test.retries", "a number from 0 to 65535", parse)?,
        interval,
        credentials: settings.optional("self_test.url", ACCOUNT, credentials)?,
        image: settings.optional("self_test.image", "an image with its digest, name@sha256:<64 hex digits>", |text| {
            text.contains("@sha256:").then(|| text.to_owned())
        })?,
    };
    Ok(wanted.then_some(choice))
}
