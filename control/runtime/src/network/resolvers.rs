//! Whom pods ask for names.

use std::{fs, net::Ipv4Addr};

use super::policy::NetworkRules;

/// The host's, and what stands behind the stub of systemd-resolved.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
/// Cloudflare and Quad9: if the host has none a pod could reach.
const PUBLIC: [Ipv4Addr; 2] = [Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(9, 9, 9, 9)];
/// More are of no use: resolvers of C libraries ask three.
const SERVERS_MAX: usize = 3;

impl NetworkRules {
    /// The same, with the name servers pods are told of: those that are set, or the host's own as far as pods can reach them: not
    /// on its loopback, not link-local. Public ones if there are none.
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
