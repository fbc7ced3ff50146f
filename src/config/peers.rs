//! What becomes of the settings about other hosts.

use std::time::Duration;

use codiusd_control::peers::{PeerUri, Reach, Rhythm};

use super::{ConfigError, Settings};

/// The longest of the times, in seconds: 30 days.
const SECONDS_MAX: u32 = 30 * 24 * 3600;

/// Which other hosts are spoken to.
pub(crate) fn reach(dev: bool) -> Reach {
    if dev { Reach::Anywhere } else { Reach::Public }
}

/// As a list, or as JSON, which the Node codiusd wanted.
pub(super) fn bootstrap(settings: &Settings, dev: bool) -> Result<Vec<PeerUri>, ConfigError> {
    settings.get("bootstrap_peers", "origins such as https://codius.example.com, separated by commas", |text| {
        let of_json = serde_json::from_str::<Vec<String>>(text).ok();
        let names = of_json.unwrap_or_else(|| text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect());
        names.iter().map(|name| PeerUri::parse(name, reach(dev))).collect()
    })
}

pub(super) fn rhythm(settings: &Settings, dev: bool) -> Result<Rhythm, ConfigError> {
    let default = if dev { Rhythm::DEVELOPMENT } else { Rhythm::default() };
    let time = |name, default| -> Result<Duration, ConfigError> {
        let parse = |text: &str| text.parse().ok().filter(|seconds: &u32| (1..=SECONDS_MAX).contains(seconds));
        let seconds = settings.optional(name, "a number of seconds from 1 to 2592000", parse)?;
        Ok(seconds.map_or(default, |seconds| Duration::from_secs(seconds.into())))
    };
    Ok(Rhythm {
        ask_every: time("peers_ask_every", default.ask_every)?,
        look_every: time("peers_look_every", default.look_every)?,
        retry_after: time("peers_retry_after", default.retry_after)?,
    })
}
