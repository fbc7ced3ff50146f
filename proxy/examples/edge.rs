//! An edge on its own, for measuring it beside other proxies:
//!
//! ```text
//! edge ROUTES UPSTREAM HTTP_LISTEN [TLS_LISTEN CHAIN KEY]
//! ```
//!
//! Routes as many pods to one upstream and prints their hosts, one per line, when it listens; ends when its standard input does.
//! Limits that would stop a load test are out of the way, but what they count is counted.

#![expect(clippy::expect_used, reason = "a tool for developers: what is wrong with its arguments may be said by a panic")]

use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use codiusd_proxy::{
    CertificateFiles, Certificates, Edge, EdgeConfig, Limits, PodKey, Policy, RouteTable, TlsConfig, Upstream, UpstreamPolicy,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [routes, upstream, listen, tls @ ..] = arguments.as_slice() else { panic!("ROUTES UPSTREAM HTTP_LISTEN [TLS_LISTEN CHAIN KEY]") };
    let routes: NonZeroUsize = routes.parse().expect("ROUTES is a number");
    let upstream = upstream.parse().expect("UPSTREAM is an address");
    let table = Arc::new(RouteTable::new());
    let mut hosts = String::new();
    for number in 0..routes.get() {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_be_bytes());
        let key = PodKey::from_digest(digest);
        table.publish(key, Upstream { address: upstream, incarnation: 1 });
        hosts.push_str(&format!("{key}.localhost\n"));
    }
    let config = EdgeConfig {
        tls: tls_config(tls),
        limits: Limits {
            requests_per_pod: u64::MAX,
            requests_per_client: u64::MAX,
            connections_per_client: usize::MAX,
            idle_upstream: 100_000,
            ..Limits::default()
        },
        policy: Policy { uncounted: Vec::new(), upstreams: UpstreamPolicy::Any, ..Policy::default() },
        ..EdgeConfig::new(listen.parse().expect("HTTP_LISTEN is an address"), "/nowhere".into())
    };
    let edge = Edge::start(config, table, &prometheus::Registry::new()).expect("the edge starts");
    std::io::stdout().write_all(hosts.as_bytes()).and_then(|()| std::io::stdout().flush()).expect("standard output takes the hosts");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).expect("standard input is there");
    let office = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    office.block_on(edge.drain(Duration::from_secs(1)));
}

fn tls_config(arguments: &[String]) -> Option<TlsConfig> {
    let [listen, chain, key] = arguments else { return None };
    let files = CertificateFiles { chain: chain.into(), key: key.into() };
    Some(TlsConfig {
        listen: vec![listen.parse().expect("TLS_LISTEN is an address")],
        certificates: Arc::new(Certificates::load(vec![files]).expect("CHAIN and KEY can be used")),
        redirect: false,
        public_port: None,
        hsts_seconds: 0,
    })
}
