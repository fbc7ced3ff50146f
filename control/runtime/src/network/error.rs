//! Why pods can't be run safely.

use std::io;

/// The policy can't be installed.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The kernel rejects the table.
    #[error(
        "the pods' network policy (nftables {table}) can't be installed: that takes CAP_NET_ADMIN and a kernel with \
         nf_tables (modules nf_tables, nft_ct, nft_limit, nft_connlimit, nft_reject_inet, nft_fib_inet, nft_masq, at a bridge nf_tables_bridge)"
    )]
    Install {
        /// Its name.
        table: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The installed table differs from the intended one.
    #[error("the pods' network policy (nftables {table}) was changed while it was installed: {}", .differences.join("; "))]
    Changed {
        /// Its name.
        table: String,
        /// As text.
        differences: Vec<String>,
    },
    /// The kernel's table can't be compared with the intended one.
    #[error(
        "the pods' network policy (nftables {table}) can't be verified: that takes CAP_SYS_ADMIN and network namespaces, \
         to make the same table where nobody else changes it"
    )]
    Unverified {
        /// Its name.
        table: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Two policies with one name.
    #[error("bridge {bridge} (hyperd.bridge) is used by another codiusd; each needs a bridge of its own, and a hyperd on it")]
    BridgeInUse {
        /// Its name.
        bridge: String,
    },
    /// Pods on the bridge would reach each other.
    #[error("pods on bridge {bridge} can't be kept apart: that takes CAP_NET_ADMIN and Linux 4.18, or the module br_netfilter")]
    Bridge {
        /// Its name.
        bridge: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// There is no network from which pods could get addresses.
    #[error(
        "bridge {bridge} (hyperd.bridge) {why}: start hyperd, or name the bridge it uses in hyperd.bridge (Bridge and BridgeIP in \
         /etc/hyper/config); on any other pods would have no network policy"
    )]
    NoBridge {
        /// Its name.
        bridge: String,
        /// What is missing.
        why: &'static str,
    },
    /// Pods at the bridge could be mistaken for each other.
    #[error("pods on bridge {bridge} can't be told apart by their addresses: that takes CAP_NET_ADMIN")]
    Neighbours {
        /// Its name.
        bridge: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A kernel setting can't be changed.
    #[error("the host can't be made to route for pods ({setting})")]
    Setting {
        /// The file.
        setting: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}
