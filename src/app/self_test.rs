//! Sets up the self-test: an image, an account to pay from, and the token for the gate.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use codiusd_control::{api::SelfTestGate, paid_requests::PaidRequests};
use codiusd_ilp::btp::client::BtpUrl;
use prometheus::Registry;
use tokio::task::spawn_blocking;
use url::Url;

use super::StartError;
use crate::{
    client::{LOCAL_CONNECTOR, connector},
    config::{Config, IlpChoice},
    demo_image, runtimes,
    self_test::{SelfTest, SelfTestMetrics, Subject},
};

/// The image that the test runs; none: the runtime can't run the built-in image (hyperd pulls from registries only).
pub(super) async fn image(config: &Config) -> Result<Option<String>, StartError> {
    let Some(directory) = runtimes::plan(config).self_test_layout() else {
        return Ok(config.self_test.as_ref().and_then(|test| test.image.clone()));
    };
    let fail = |source| StartError::Root { path: config.root.join("self-test"), operation: "write the self-test's image", source };
    let write = move || {
        // The image of another version is obsolete.
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        demo_image::write(&directory)
    };
    let written = spawn_blocking(write).await.map_err(|error| fail(io::Error::other(error)))?;
    written.map(Some).map_err(fail)
}

/// The self-test, if it is enabled, and the gate it opens.
pub(super) fn self_test(
    config: &Config,
    public_uri: &Url,
    image: Option<String>,
    paid_requests: &PaidRequests,
    payer: BtpUrl,
    registry: &Registry,
) -> Result<(SelfTestGate, Option<Arc<SelfTest>>), StartError> {
    let Some(choice) = &config.self_test else { return Ok((SelfTestGate::open(), None)) };
    let (gate, token) = SelfTestGate::closed();
    let subject = Subject {
        public_uri: public_uri.clone(),
        gate: gate.clone(),
        token,
        paid_requests: paid_requests.clone(),
        machine: config.pod_sizes.small().machine,
        image,
        payer: choice.credentials.clone().unwrap_or(payer),
    };
    let metrics = SelfTestMetrics::register(registry)?;
    Ok((gate, Some(Arc::new(SelfTest::new(subject, metrics, choice.retries, choice.interval)))))
}

/// Tests until the gate is open.
pub(super) async fn keep_trying(self_test: Option<Arc<SelfTest>>) {
    if let Some(self_test) = self_test {
        self_test.keep_trying().await;
    }
}

/// An account other than the host's at the same connector, unchanged across starts: an account can't pay itself, and a second connection
/// with the host's credentials would replace the first.
pub(super) fn payer(ilp: &IlpChoice, listening: &[SocketAddr], server_secret: &[u8; 32]) -> BtpUrl {
    let secret = super::derived(b"self-test", server_secret);
    match (ilp, listening.first()) {
        (IlpChoice::Uplink(Some(uplink)), _) => uplink.stranger(&secret),
        (IlpChoice::Uplink(None), _) | (IlpChoice::Embedded(_), None) => connector(LOCAL_CONNECTOR, &secret),
        (IlpChoice::Embedded(_), Some(address)) => connector(&reachable(*address).to_string(), &secret),
    }
}

/// Maps an unspecified address to loopback: a wildcard listener accepts connections there.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}
