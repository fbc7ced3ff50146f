//! Settings about other hosts.

use std::time::Duration;

use codiusd_control::peers::{PeerUri, Reach, Rhythm};

use super::{ConfigError, Settings, units::parse_duration};

/// Longest of the intervals.
const TIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Which other hosts may be contacted.
pub(crate) fn reach(dev: bool) -> Reach {
    if dev { Reach::Anywhere } else { Reach::Public }
}

/// A list, or JSON as in the Node codiusd.
pub(super) fn bootstrap(settings: &Settings, dev: bool) -> Result<Vec<PeerUri>, ConfigError> {
    settings.get("peers.bootstrap", "origins such as https://codius.example.com, separated by commas", |text| {
        let of_json = serde_json::from_str::<Vec<String>>(text).ok();
        let names = of_json.unwrap_or_else(|| text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect());
        names.iter().map(|name| PeerUri::parse(name, reach(dev))).collect()
    })
}

pub(super) fn rhythm(settings: &Settings, dev: bool) -> Result<Rhythm, ConfigError> {
    let default = if dev { Rhythm::DEVELOPMENT } else { Rhythm::default() };
    let time = |name, default| -> Result<Duration, ConfigError> {
        let parse = |text: &str| parse_duration(text).filter(|time| (Duration::from_millis(100)..=TIME_MAX).contains(time));
        Ok(settings.optional(name, "a duration from 100ms to 30d, such as 60s", parse)?.unwrap_or(default))
    };
    Ok(Rhythm {
        ask_every: time("peers.ask_every", default.ask_every)?,
        look_every: time("peers.check_every", default.look_every)?,
        retry_after: time("peers.retry_after", default.retry_after)?,
    })
}
