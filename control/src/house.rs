//! What the operator may change while the host runs: its price, whom it doesn't serve, whether it takes anything new. Pure; what
//! survives a restart is written by [`Keeper`](crate::pods::Keeper), which holds it.

use std::{collections::BTreeMap, fmt};

use codiusd_runtime::PodId;

use crate::{
    pay::{CostPerMonth, Tariff},
    pods::Order,
};

/// Bans of one host, at most.
pub const BANS_MAX: usize = 10_000;
/// Longest name of an image that is banned, in bytes.
const NAME_MAX: usize = 512;
/// What Docker's own registry is called.
const DOCKER: &str = "docker.io";

/// What isn't run here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ban {
    /// Any image of this content, whatever it is called: `sha256:` and 64 hex digits.
    Digest(String),
    /// One manifest.
    Manifest(PodId),
    /// All images of a repository, by its full name.
    Repository(String),
}

/// The text names no image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an image: its digest (sha256: and 64 hex digits, also behind name@), or a repository such as docker.io/library/nginx, without a tag"
)]
pub struct BadImage;

impl Ban {
    /// Reads what images are meant: those of a digest, or of a repository.
    pub fn image(text: &str) -> Result<Self, BadImage> {
        if text.len() > NAME_MAX {
            return Err(BadImage);
        }
        if let Some(digest) = digest_of(text) {
            return if is_digest(digest) { Ok(Self::Digest(digest.to_owned())) } else { Err(BadImage) };
        }
        let repository = repository_of(text);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        let is_name = repository.split('/').all(|part| !part.is_empty() && part.bytes().all(is_plain));
        if is_name && !text.is_empty() && without_tag(text) == text { Ok(Self::Repository(repository)) } else { Err(BadImage) }
    }

    /// `manifest` or `image`: what `Display` shows of it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Digest(_) | Self::Repository(_) => "image",
            Self::Manifest(_) => "manifest",
        }
    }

    /// Whether `order` is what is meant.
    pub fn covers(&self, order: &Order) -> bool {
        let mut images = order.spec.containers.iter().map(|container| container.image.as_str());
        match self {
            Self::Digest(digest) => images.any(|image| digest_of(image) == Some(digest)),
            Self::Manifest(id) => order.spec.id == *id,
            Self::Repository(name) => images.any(|image| repository_of(image) == *name),
        }
    }
}

impl fmt::Display for Ban {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(name) | Self::Repository(name) => f.write_str(name),
            Self::Manifest(id) => fmt::Display::fmt(id, f),
        }
    }
}

fn is_digest(text: &str) -> bool {
    let is_hex = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(is_hex))
}

/// The digest a reference is pinned by.
fn digest_of(reference: &str) -> Option<&str> {
    if reference.starts_with("sha256:") { Some(reference) } else { reference.split_once('@').map(|(_, digest)| digest) }
}

/// A name before its tag.
fn without_tag(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    }
}

/// The full name of a reference's repository, one for all ways to write it: `nginx` is `docker.io/library/nginx`.
fn repository_of(reference: &str) -> String {
    let name = without_tag(reference.split_once('@').map_or(reference, |(name, _)| name)).to_ascii_lowercase();
    let is_host = |part: &str| part.contains(['.', ':']) || part == "localhost" || part == "local";
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if is_host(host) => (host.strip_suffix(":443").unwrap_or(host), path),
        _ => (DOCKER, name.as_str()),
    };
    match host {
        DOCKER | "index.docker.io" | "registry-1.docker.io" if !path.contains('/') => format!("{DOCKER}/library/{path}"),
        "index.docker.io" | "registry-1.docker.io" => format!("{DOCKER}/{path}"),
        _ => format!("{host}/{path}"),
    }
}

/// What was kept of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HouseRows {
    /// What isn't run, and whether what ran of it was to be stopped.
    pub bans: Vec<(Ban, bool)>,
    /// The price the operator has set, and the one of the settings it was set instead of.
    pub cost: Option<(CostPerMonth, CostPerMonth)>,
    /// Whether nothing new is taken.
    pub draining: bool,
}

/// What the operator has said.
#[derive(Clone, Debug)]
pub struct House {
    pub(crate) tariff: Tariff,
    pub(crate) configured: CostPerMonth,
    pub(crate) bans: BTreeMap<Ban, bool>,
    pub(crate) draining: bool,
}

impl House {
    /// What was kept, under settings with this price. A price that was set while the host ran counts until the settings say another
    /// one than they did then: the latest word wins.
    pub fn new(kept: HouseRows, configured: CostPerMonth) -> Self {
        let set = kept.cost.filter(|(_, instead_of)| *instead_of == configured).map(|(cost, _)| cost);
        if let Some(cost) = set {
            tracing::info!(%cost, %configured, "the price set over the operator's API counts, not that of the settings (CODIUS_COST_PER_MONTH)");
        }
        if kept.draining {
            tracing::warn!("the host takes no uploads and extensions: it was told to drain (codiusd undrain)");
        }
        let tariff = Tariff::new(set.unwrap_or(configured));
        Self { tariff, configured, bans: kept.bans.into_iter().collect(), draining: kept.draining }
    }

    /// What a small pod costs for a month, now and whenever that changes.
    pub fn tariff(&self) -> Tariff {
        self.tariff.clone()
    }

    /// Why `order` isn't run.
    pub(crate) fn ban_of(&self, order: &Order) -> Option<&Ban> {
        // By name first: an order has one hash and a few images, a host may have thousands of bans.
        let images = order.spec.containers.iter().map(|container| container.image.as_str());
        let by_image = images
            .flat_map(|image| [digest_of(image).map(|digest| Ban::Digest(digest.to_owned())), Some(Ban::Repository(repository_of(image)))]);
        let mut keys = by_image.flatten().chain([Ban::Manifest(order.spec.id.clone())]);
        keys.find_map(|key| self.bans.get_key_value(&key)).map(|(ban, _)| ban)
    }
}

#[cfg(test)]
mod tests {
    use codiusd_runtime::{ContainerSpec, Machine, PodSpec};

    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn order(image: &str) -> Order {
        let machine = Machine { vcpus: 1, memory_bytes: 1, disk_bytes: 1 };
        let container = ContainerSpec { name: "app".to_owned(), image: image.to_owned(), command: None, workdir: None, env: Vec::new() };
        let spec = PodSpec { id: "a".repeat(52).parse().unwrap(), machine, containers: vec![container] };
        Order { spec, machine: "small".to_owned(), manifest: "{}".into(), port: None, debug: false }
    }

    #[test]
    fn images_are_banned_by_content_or_by_name() {
        let pinned = |name: &str| format!("{name}@{DIGEST}");
        let table = [
            (DIGEST, "nginx", true),
            (&pinned("other/name"), "ghcr.io/x/y", true),
            ("nginx", "nginx", true),
            ("nginx", "docker.io/library/nginx", true),
            ("nginx", "registry-1.docker.io/library/nginx:1.25", true),
            ("nginx", "docker.io:443/nginx", true),
            ("nginx", "evil/nginx", false),
            ("evil/miner", "index.docker.io/evil/miner", true),
            ("ghcr.io/evil/miner", "GHCR.io/evil/miner:1", true),
            ("ghcr.io/evil/miner", "ghcr.io/evil/miner2", false),
            ("localhost:5000/a", "localhost:5000/a", true),
            ("local/demo", "local/demo", true),
        ];
        for (ban, image, expected) in table {
            let ban = Ban::image(ban).unwrap();
            let order = order(&pinned(image));
            assert_eq!(ban.covers(&order), expected, "{ban} and {image}");
            let mut house = House::new(HouseRows::default(), CostPerMonth::DEFAULT);
            house.bans.insert(ban.clone(), false);
            assert_eq!(house.ban_of(&order), expected.then_some(&ban), "{ban} and {image}");
            assert_eq!(Ban::image(&ban.to_string()), Ok(ban), "what is kept is read back");
        }
    }

    #[test]
    fn what_names_no_image_is_refused() {
        let long = "a".repeat(NAME_MAX + 1);
        for text in ["", "nginx:1.25", "a b", "name@sha256:12", "sha256:XYZ", "@", "/", "a//b", "ghcr.io/", "a\u{0}b", "é", &long] {
            assert_eq!(Ban::image(text), Err(BadImage), "{text}");
        }
    }

    #[test]
    fn the_latest_word_on_the_price_wins() {
        let cost = |text: &str| -> CostPerMonth { text.parse().unwrap() };
        let kept = HouseRows { cost: Some((cost("20"), cost("10"))), ..HouseRows::default() };
        assert_eq!(House::new(kept.clone(), cost("10")).tariff().to_string(), "20", "set while the settings said 10");
        assert_eq!(House::new(kept, cost("15")).tariff().to_string(), "15", "the settings were changed since");
    }
}
