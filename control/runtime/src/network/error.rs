//! Why pods can't be run safely.

use std::io;

/// The policy can't be put in force.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The kernel refuses the table.
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
    /// The kernel took it for something else.
    #[error("the pods' network policy (nftables {table}) was changed while it was installed: {}", .differences.join("; "))]
    Changed {
        /// Its name.
        table: String,
        /// In words.
        differences: Vec<String>,
    },
    /// What the kernel has can't be compared with what it should have.
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
    /// Two policies under one name.
    #[error("bridge {bridge} (hyper_bridge) is used by another codiusd; each needs a bridge of its own, and a hyperd on it")]
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
    /// There is nothing pods could be given an address of.
    #[error(
        "bridge {bridge} (hyper_bridge) {why}: start hyperd, or name the bridge it uses in hyper_bridge (Bridge and BridgeIP in \
         /etc/hyper/config); on any other pods would have no network policy"
    )]
    NoBridge {
        /// Its name.
        bridge: String,
        /// What is missing.
        why: &'static str,
    },
    /// Pods at the bridge could be taken for each other.
    #[error("pods on bridge {bridge} can't be told apart by their addresses: that takes CAP_NET_ADMIN")]
    Neighbours {
        /// Its name.
        bridge: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel's settings.
    #[error("the host can't be made to route for pods ({setting})")]
    Setting {
        /// The file.
        setting: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}
