//! `codiusd demo`: a whole host on this machine, a page uploaded to it and paid for.

use std::{
    collections::BTreeMap,
    fs::DirBuilder,
    net::Ipv4Addr,
    num::NonZeroU32,
    ops::RangeInclusive,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use codiusd_net::Ipv4Cidr;
use codiusd_runtime::{
    Isolation,
    embedded::{OpenError, SubnetLock},
};
use serde_json::json;
use tokio::time;

use super::{
    failure,
    serve::{StopSignals, office_runtime},
    usage,
};
use crate::{
    app::{App, StartError},
    client::{self, Host, PaidAction, Payer},
    config::{self, Config, ConfigError, RuntimeChoice, Settings},
    demo_image, logging,
};

/// Run time bought for the page.
const DURATION: NonZeroU32 = NonZeroU32::new(3600).unwrap();
/// How long the page may take to answer once its pod runs.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval between requests to a page that doesn't answer yet.
const PAGE_INTERVAL: Duration = Duration::from_millis(5);

/// Networks a demo chooses from unless one is set: 10.200.0.0/16 and the following. The first is every host's default.
const SUBNETS: RangeInclusive<u8> = 200..=219;

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Port of the host, 3000 if CODIUS_PORT doesn't say; 0 takes any free one
    #[arg(long)]
    port: Option<u16>,
    /// Port of the connector payments go through, 7768 if CODIUS_ILP_LISTEN doesn't say; 0 takes any free one
    #[arg(long)]
    connector_port: Option<u16>,
    /// Directory for everything; without it one that goes when the demo ends
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Fetch the page once, print the figures and end
    #[arg(long)]
    once: bool,
}

type Problem = Box<dyn std::error::Error>;

pub(super) fn run(args: &DemoArgs) -> ExitCode {
    let temporary = std::env::temp_dir().join(format!("codius-demo-{:016x}", rand::random::<u64>()));
    let (settings, config) = match config(args, &temporary) {
        Ok(both) => both,
        Err(error) => return usage(&error),
    };
    logging::start(&config);
    let runtime = match office_runtime(config.control_threads) {
        Ok(runtime) => runtime,
        Err(error) => return failure(&error),
    };
    // It must be new: files that another user of this machine had put there would be trusted.
    if config.root == temporary
        && let Err(error) = DirBuilder::new().mode(0o711).create(&temporary)
    {
        eprintln!("codiusd: can't make {}; choose a directory with --root", temporary.display());
        return failure(&error);
    }
    let outcome = runtime.block_on(demo(args, &settings, config.clone()));
    if config.root == temporary
        && let Err(error) = std::fs::remove_dir_all(&temporary)
    {
        tracing::warn!(%error, directory = %temporary.display(), "temporary directory not removed");
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => failure(problem.as_ref()),
    }
}

/// Always dev mode and an embedded connector; for other settings flags override the environment. The settings file belongs to a
/// real host and isn't read.
fn config(args: &DemoArgs, temporary: &Path) -> Result<(Settings, Config), ConfigError> {
    let text = |value: &dyn std::fmt::Display| value.to_string();
    let defaults = [("CODIUS_ROOT", text(&temporary.display())), ("CODIUS_STOP_PODS_AT_EXIT", "true".to_owned())];
    let mut environment: BTreeMap<String, String> = defaults.map(|(name, value)| (name.to_owned(), value)).into();
    environment.extend(config::environment());
    let mut set = |name: &str, value: String| environment.insert(name.to_owned(), value);
    set("CODIUS_DEV", "true".to_owned());
    set("CODIUS_ILP", "embedded".to_owned());
    if let Some(root) = &args.root {
        set("CODIUS_ROOT", text(&root.display()));
    }
    if let Some(port) = args.port {
        set("CODIUS_PORT", text(&port));
    }
    if let Some(port) = args.connector_port {
        set("CODIUS_ILP_LISTEN", format!("127.0.0.1:{port},[::1]:{port}"));
    }
    let settings = Settings::of_environment(environment)?;
    let mut config = Config::from_settings(&settings)?;
    config.image_layouts.push(layout_of(&config));
    Ok((settings, config))
}

/// Claims the first free network, so that a demo can run next to any host and other demos.
fn choose_subnet(root: &Path) -> Result<(Ipv4Cidr, SubnetLock), StartError> {
    let mut taken = None;
    for second in SUBNETS {
        let subnet = Ipv4Cidr { network: Ipv4Addr::new(10, second, 0, 0), prefix: 16 };
        match SubnetLock::take(root, subnet) {
            Ok(claim) => return Ok((subnet, claim)),
            Err(error @ OpenError::SubnetInUse { .. }) => taken = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(taken.map_or_else(|| unreachable!("there are networks to choose from"), StartError::from))
}

fn layout_of(config: &Config) -> PathBuf {
    config.root.join("layout")
}

async fn demo(args: &DemoArgs, settings: &Settings, mut config: Config) -> Result<(), Problem> {
    let mut stop = StopSignals::new()?;
    let begun = Instant::now();
    let image = demo_image::write(&layout_of(&config))?;
    let mut claim = None;
    if config.runtime == RuntimeChoice::Embedded && !settings.is_set("pods.subnet") {
        let (subnet, claimed) = choose_subnet(&config.root)?;
        config.pod_subnet = subnet;
        claim = Some(claimed);
    }
    let app = App::start(&config, Vec::new()).await?;
    drop(claim); // the host has one of its own now
    println!("the host is up at {} ({} ms)", app.public_uri(), begun.elapsed().as_millis());
    println!("isolation: {}", isolation(&app));
    let mut outcome = tokio::select! {
        outcome = pay_for_a_page(&app, &image) => outcome,
        () = stop.received() => Err("stopped".into()),
    };
    if outcome.is_ok() && !args.once {
        println!("stop it with Ctrl-C");
        tokio::select! {
            () = stop.received() => {}
            failure = app.failed() => outcome = Err(failure.to_string().into()),
        }
    }
    println!("stopping");
    app.drain().await;
    outcome
}

/// How pods are isolated, for people.
fn isolation(app: &App) -> String {
    let (isolation, note) = app.isolation();
    let words = match isolation {
        Isolation::VirtualMachine => "virtual machine",
        Isolation::SharedKernel => "shared kernel",
        Isolation::Emulated => "none (emulated virtual machine, for tests)",
        Isolation::None => "none (nothing is run)",
    };
    note.map_or_else(|| words.to_owned(), |note| format!("{words}; {note}"))
}

async fn pay_for_a_page(app: &App, image: &str) -> Result<(), Problem> {
    let manifest = json!({
        "name": "demo", "version": "1.0.0", "port": "8080", "machine": "small", "debug": true,
        "containers": [{ "id": "page", "image": image }],
    });
    let body = json!({ "manifest": manifest }).to_string().into_bytes();
    let host = Host::new(app.public_uri().clone())?;
    let connector = app.connector().first().ok_or("the host has no connector of its own")?;
    let mut payer = Payer::open(Some(format!("btp+ws://:demo@{connector}").parse()?)).await?;
    let quote = host.quote(&body, DURATION).await?;
    payer.limit(quote.price.parse()?);
    let begun = Instant::now();
    let receipt = client::pay_for(&host, Some(&payer), &PaidAction::Upload(body, DURATION), None, &mut |_| {}).await?;
    println!("paid {} (billionths of an XRP, play money) and started in {} ms", quote.price, begun.elapsed().as_millis());
    wait_for_page(&Host::new(receipt.url.parse()?)?).await?;
    println!("upload to first page: {} ms", begun.elapsed().as_millis());
    println!(
        "\n  {}\n\nruns until {}; its log: codiusd logs {} --host {}",
        receipt.url,
        receipt.expiry,
        receipt.manifest_hash,
        app.public_uri()
    );
    Ok(())
}

async fn wait_for_page(page: &Host) -> Result<(), Problem> {
    let deadline = Instant::now() + PAGE_TIMEOUT;
    loop {
        let answer = page.page().await?;
        if answer.is_success() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("the page still answers {answer} after {} s", PAGE_TIMEOUT.as_secs()).into());
        }
        time::sleep(PAGE_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demos_side_by_side_have_networks_of_their_own() {
        let roots = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let chosen: Vec<_> = roots.iter().map(|root| choose_subnet(root.path()).unwrap()).collect();
        let mut networks: Vec<_> = chosen.iter().map(|(subnet, _)| subnet.network).collect();
        networks.dedup();
        assert_eq!(networks.len(), 3, "{chosen:?}");

        let (taken, _claim) = &chosen[0];
        let subnet = *taken;
        let error = StartError::from(SubnetLock::take(roots[1].path(), subnet).unwrap_err());
        assert_eq!(
            error.to_string(),
            format!("pods.subnet (CODIUS_POD_SUBNET) = \"{taken}\" is in use by another codiusd; choose another network")
        );
    }
}
