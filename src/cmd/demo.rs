//! `codiusd demo`: a whole host on this machine, a page uploaded to it and paid for.

use std::{
    num::NonZeroU32,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::json;
use tokio::time;

use super::{
    failure,
    serve::{StopSignals, office_runtime},
    usage,
};
use crate::{
    app::App,
    client::{self, Deed, Host, Purse},
    config::Config,
    demo_image, telemetry,
};

/// Run time bought for the page.
const DURATION: NonZeroU32 = NonZeroU32::new(3600).unwrap();
/// How long the page may take to answer once its pod runs.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at a page that doesn't answer yet.
const PAGE_INTERVAL: Duration = Duration::from_millis(5);

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Port of the host; 0 takes any free one
    #[arg(long, default_value_t = 3000)]
    port: u16,
    /// Port of the connector payments go through; 0 takes any free one
    #[arg(long, default_value_t = 7768)]
    connector_port: u16,
    /// Directory for everything; without it one that goes when the demo ends
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Fetch the page once, print the figures and end
    #[arg(long)]
    once: bool,
}

type Problem = Box<dyn std::error::Error>;

pub(super) fn run(args: &DemoArgs) -> ExitCode {
    telemetry::start();
    let runtime = match office_runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failure(&error),
    };
    // Containers' set-up runs as an unprivileged user: it must be able to pass through every directory above.
    let root = args.root.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("codius-demo-{}", std::process::id())));
    let config = match config(args, &root) {
        Ok(config) => config,
        Err(error) => return usage(&error),
    };
    let outcome = runtime.block_on(demo(args, &config));
    if args.root.is_none() && let Err(error) = std::fs::remove_dir_all(&root) {
        tracing::warn!(%error, root = %root.display(), "can't be removed");
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => failure(problem.as_ref()),
    }
}

/// Dev mode, in a directory of its own; the environment doesn't count.
fn config(args: &DemoArgs, root: &std::path::Path) -> Result<Config, crate::config::ConfigError> {
    let text = |value: &dyn std::fmt::Display| value.to_string();
    let listen = format!("127.0.0.1:{0},[::1]:{0}", args.connector_port);
    let settings = [
        ("CODIUS_DEV", "true".to_owned()),
        ("CODIUS_PORT", text(&args.port)),
        ("CODIUS_ROOT", text(&root.display())),
        ("CODIUS_ILP_LISTEN", listen),
        ("CODIUS_IMAGE_LAYOUTS", text(&root.join("layout").display())),
        ("CODIUS_STOP_PODS_AT_EXIT", "true".to_owned()),
    ];
    Config::read(None, settings.map(|(name, value)| (name.to_owned(), value)))
}

async fn demo(args: &DemoArgs, config: &Config) -> Result<(), Problem> {
    let mut stop = StopSignals::new()?;
    let begun = Instant::now();
    let image = demo_image::write(&config.root.join("layout"))?;
    let app = App::start(config).await?;
    println!("the host is up at {} ({} ms)", app.public_uri(), begun.elapsed().as_millis());
    let outcome = tokio::select! {
        outcome = pay_for_a_page(&app, &image) => outcome,
        () = stop.received() => Err("stopped".into()),
    };
    if outcome.is_ok() && !args.once {
        println!("stop it with Ctrl-C");
        tokio::select! {
            () = stop.received() => {}
            () = app.failed() => {}
        }
    }
    println!("stopping");
    app.drain().await;
    outcome
}

async fn pay_for_a_page(app: &App, image: &str) -> Result<(), Problem> {
    let manifest = json!({
        "name": "demo", "version": "1.0.0", "port": "8080", "machine": "small", "debug": true,
        "containers": [{ "id": "page", "image": image }],
    });
    let body = json!({ "manifest": manifest }).to_string().into_bytes();
    let host = Host::new(app.public_uri().clone())?;
    let connector = app.connector().first().ok_or("the host has no connector of its own")?;
    let mut purse = Purse::open(Some(format!("btp+ws://:demo@{connector}").parse()?)).await?;
    let quote = host.quote(&body, DURATION).await?;
    purse.limit(quote.price.parse()?);
    let begun = Instant::now();
    let receipt = client::pay_for(&host, &purse, &Deed::Upload(body, DURATION), None, &mut |_| {}).await?;
    println!("paid {} (billionths of an XRP, play money) and started in {} ms", quote.price, begun.elapsed().as_millis());
    wait_for_page(&Host::new(receipt.url.parse()?)?).await?;
    println!("upload to first page: {} ms", begun.elapsed().as_millis());
    println!("\n  {}\n\nruns until {}; its log: codiusd logs {} --host {}", receipt.url, receipt.expiry, receipt.manifest_hash, app.public_uri());
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
