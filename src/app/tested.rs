//! What a host needs to test itself: an image, an account to pay from, and the token for its gate.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use codiusd_control::{api::Gate, orders::Orders};
use codiusd_ilp::btp::client::BtpUrl;
use prometheus::Registry;
use tokio::task::spawn_blocking;
use url::Url;

use super::StartError;
use crate::{
    client::{LOCAL_CONNECTOR, connector},
    config::{Config, IlpChoice, RuntimeChoice},
    demo_image,
    self_test::{SelfTest, SelfTestMetrics, Subject},
};

/// Where the image is written that the embedded runtime finds there.
pub(super) fn layout(config: &Config) -> Option<PathBuf> {
    let wanted = config.self_test.as_ref().is_some_and(|test| test.image.is_none());
    (wanted && config.runtime == RuntimeChoice::Embedded).then(|| config.root.join("self-test"))
}

/// What the test runs, if this runtime can run anything of ours. hyperd takes images from registries only.
pub(super) async fn image(config: &Config) -> Result<Option<String>, StartError> {
    let Some(directory) = layout(config) else { return Ok(config.self_test.as_ref().and_then(|test| test.image.clone())) };
    let fail = |source| StartError::Root { path: config.root.join("self-test"), operation: "write the self-test's image", source };
    let write = move || {
        // That of another version is of no more use.
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        demo_image::write(&directory)
    };
    let written = spawn_blocking(write).await.map_err(|error| fail(io::Error::other(error)))?;
    written.map(Some).map_err(fail)
}

/// The test, if there is to be one, and the gate it opens.
pub(super) fn self_test(
    config: &Config,
    public_uri: &Url,
    image: Option<String>,
    orders: &Orders,
    payer: BtpUrl,
    registry: &Registry,
) -> Result<(Gate, Option<Arc<SelfTest>>), StartError> {
    let Some(choice) = &config.self_test else { return Ok((Gate::open(), None)) };
    let (gate, token) = Gate::closed();
    let subject = Subject {
        public_uri: public_uri.clone(),
        gate: gate.clone(),
        token,
        orders: orders.clone(),
        machine: config.machines.small().machine,
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

/// An account that isn't ours, the same at every start, at the connector that is: an account can't pay itself, and a second connection
/// with our credentials would take the place of the first.
pub(super) fn payer(ilp: &IlpChoice, listening: &[SocketAddr], server_secret: &[u8; 32]) -> BtpUrl {
    let secret = super::derived(b"self-test", server_secret);
    match (ilp, listening.first()) {
        (IlpChoice::Uplink(Some(uplink)), _) => uplink.stranger(&secret),
        (IlpChoice::Uplink(None), _) | (IlpChoice::Embedded(_), None) => connector(LOCAL_CONNECTOR, &secret),
        (IlpChoice::Embedded(_), Some(address)) => connector(&reachable(*address).to_string(), &secret),
    }
}

/// Who listens everywhere does so on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}
