//! The pods' name servers.

use std::{fs, net::Ipv4Addr};

use super::policy::NetworkRules;

/// The host's, and the upstreams of systemd-resolved's stub.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
/// Cloudflare and Quad9: used if the host has none that pods could reach.
const PUBLIC: [Ipv4Addr; 2] = [Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(9, 9, 9, 9)];
/// C libraries use only the first three.
const SERVERS_MAX: usize = 3;

impl NetworkRules {
    /// The same, with the name servers filled in: the configured ones, or the host's own as far as pods can reach them (not on its
    /// loopback, not link-local), or public ones if there are none.
    #[must_use]
    pub fn resolved(&self) -> Self {
        Self { nameservers: resolvers(&self.nameservers), ..self.clone() }
    }
}

fn resolvers(set: &[Ipv4Addr]) -> Vec<Ipv4Addr> {
    if !set.is_empty() {
        return set.to_vec();
    }
    let found = FILES.iter().map(|path| listed(&fs::read_to_string(path).unwrap_or_default())).find(|servers| !servers.is_empty());
    found.unwrap_or_else(|| PUBLIC.to_vec())
}

fn listed(text: &str) -> Vec<Ipv4Addr> {
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse::<Ipv4Addr>().ok());
    servers.filter(|server| !server.is_loopback() && !server.is_link_local() && !server.is_unspecified()).take(SERVERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_a_pod_reaches_are_taken_over() {
        let text = "# nameserver 9.9.9.1\nnameserver 127.0.0.53\nnameserver 169.254.169.253\nnameserver fe80::1\nnameserver\t10.0.0.2\nsearch x\nnameserver 8.8.8.8";
        assert_eq!(listed(text), [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(8, 8, 8, 8)]);
        assert_eq!(resolvers(&[Ipv4Addr::new(10, 9, 9, 9)]), [Ipv4Addr::new(10, 9, 9, 9)]);
    }
}
