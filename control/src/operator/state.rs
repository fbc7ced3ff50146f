//! The operator's changes, in memory. Pure.

use std::collections::BTreeMap;

use super::ban::{Ban, digest_of, repository_of};
use crate::{
    money::{CostPerMonth, Tariff},
    workload::PodOrder,
};

/// Most bans of one host.
pub const BANS_MAX: usize = 10_000;
/// The state as stored in the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperatorRows {
    /// Bans, each with whether it also stops running pods.
    pub bans: Vec<(Ban, bool)>,
    /// The price set by the operator, and the configured price at that time.
    pub cost: Option<(CostPerMonth, CostPerMonth)>,
    /// Whether the host is draining.
    pub draining: bool,
}

/// The operator's current settings and bans.
#[derive(Clone, Debug)]
pub struct OperatorState {
    pub(crate) tariff: Tariff,
    pub(crate) configured: CostPerMonth,
    pub(crate) bans: BTreeMap<Ban, bool>,
    pub(crate) draining: bool,
}

impl OperatorState {
    /// Restores the stored state. A price set at run time stays in effect until the configured price
    /// changes: the latest change wins.
    pub fn new(kept: OperatorRows, configured: CostPerMonth) -> Self {
        let set = kept.cost.filter(|(_, instead_of)| *instead_of == configured).map(|(cost, _)| cost);
        if let Some(cost) = set {
            tracing::info!(%cost, %configured, "price set through the admin API overrides the setting (pricing.cost_per_month, CODIUS_COST_PER_MONTH)");
        }
        if kept.draining {
            tracing::warn!("drain mode is on: uploads and extensions are refused (codiusd admin undrain)");
        }
        let tariff = Tariff::new(set.unwrap_or(configured));
        Self { tariff, configured, bans: kept.bans.into_iter().collect(), draining: kept.draining }
    }

    /// The tariff, which follows later price changes.
    pub fn tariff(&self) -> Tariff {
        self.tariff.clone()
    }

    /// The ban that covers `order`.
    pub(crate) fn ban_of(&self, order: &PodOrder) -> Option<&Ban> {
        // Looks up keys instead of iterating: an order has one hash and a few images, a host may have thousands of bans.
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

    fn order(image: &str) -> PodOrder {
        let machine = Machine { vcpus: 1, memory_bytes: 1, disk_bytes: 1 };
        let container = ContainerSpec { name: "app".to_owned(), image: image.to_owned(), command: None, workdir: None, env: Vec::new() };
        let spec = PodSpec { id: "a".repeat(52).parse().unwrap(), machine, containers: vec![container] };
        PodOrder { spec, machine: "small".to_owned(), manifest: "{}".into(), port: None, debug: false }
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
            let mut house = OperatorState::new(OperatorRows::default(), CostPerMonth::DEFAULT);
            house.bans.insert(ban.clone(), false);
            assert_eq!(house.ban_of(&order), expected.then_some(&ban), "{ban} and {image}");
            assert_eq!(Ban::image(&ban.to_string()), Ok(ban), "what is kept is read back");
        }
    }

    #[test]
    fn the_latest_word_on_the_price_wins() {
        let cost = |text: &str| -> CostPerMonth { text.parse().unwrap() };
        let kept = OperatorRows { cost: Some((cost("20"), cost("10"))), ..OperatorRows::default() };
        assert_eq!(OperatorState::new(kept.clone(), cost("10")).tariff().to_string(), "20", "set while the settings said 10");
        assert_eq!(OperatorState::new(kept, cost("15")).tariff().to_string(), "15", "the settings were changed since");
    }
}
