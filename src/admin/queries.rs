//! The state of the host, for operators.

use std::{collections::HashMap, sync::Arc};

use axum::{Json, extract::State};
use codiusd_api_types::admin::{BanEntry, BanList, Capacity, Earnings, HostStatus, PodCounts, PodEntry, PodList};
use codiusd_control::{
    capacity::Resources,
    money::{Asset, Totals},
    pods::{PodPhase, PodSummary},
};
use codiusd_proxy::PodTraffic;

use super::AdminState;
use crate::logging;

/// Returns the state of the host
#[utoipa::path(get, path = "/status", tag = "host", responses((status = 200, description = "The status", body = HostStatus)))]
pub(super) async fn status(State(admin): State<Arc<AdminState>>) -> Json<HostStatus> {
    Json(status_of(&admin).await)
}

pub(super) async fn status_of(admin: &AdminState) -> HostStatus {
    let manager = admin.paid_requests.pods();
    let host = admin.host.snapshot();
    let running = host.pods.iter().filter(|phase| **phase == PodPhase::Running).count();
    let (asset_code, asset_scale) = host.asset.map(|asset| (asset.code, asset.scale)).unzip();
    let capabilities = manager.capabilities();
    HostStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime: admin.started.elapsed().as_secs(),
        draining: host.draining,
        runtime: capabilities.name.to_owned(),
        isolation: capabilities.isolation.to_string(),
        isolation_note: manager.isolation_note(),
        ready: ready(admin).await,
        asset_code,
        asset_scale,
        cost_per_month: admin.paid_requests.cost_per_month().to_string(),
        pods: PodCounts { known: count(host.pods.len()), running: count(running) },
        held: capacity(&host.room.held),
        max: capacity(&host.room.max),
        earnings: host.totals.into_iter().map(earnings).collect(),
        bans: count(manager.bans().len()),
        peers: count(host.peers),
        self_test: admin.self_test.as_ref().map(|test| test.status()),
        log: logging::chosen().unwrap_or_default(),
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn earnings((asset, sums): (Asset, Totals)) -> Earnings {
    Earnings {
        asset_code: asset.code,
        asset_scale: asset.scale,
        received: sums.received.to_string(),
        earned: sums.earned.to_string(),
        forfeited: sums.forfeited.to_string(),
        credit: (sums.received - sums.earned - sums.forfeited).to_string(),
    }
}

/// Whether uploads are accepted, or why not.
async fn ready(admin: &AdminState) -> String {
    match admin.paid_requests.pods().open().await {
        Err(refusal) => refusal.to_string(),
        Ok(()) if admin.self_test.as_ref().is_some_and(|test| !test.was_passed()) => "no self-test has passed yet".to_owned(),
        Ok(()) => "ready".to_owned(),
    }
}

fn capacity(resources: &Resources) -> Capacity {
    // `u64::MAX` means unlimited, which has no number.
    let disk = Some(resources.disk_bytes).filter(|bytes| *bytes != u64::MAX);
    Capacity { memory: resources.memory_bytes, vcpus: resources.vcpus, disk }
}

/// Lists the pods
#[utoipa::path(get, path = "/pods", tag = "pods", responses((status = 200, description = "Every pod, in the order of their names", body = PodList)))]
pub(super) async fn pods(State(admin): State<Arc<AdminState>>) -> Json<PodList> {
    Json(pods_of(&admin))
}

pub(super) fn pods_of(admin: &AdminState) -> PodList {
    let traffic: HashMap<String, PodTraffic> =
        admin.routes.busiest(usize::MAX).into_iter().map(|traffic| (traffic.pod.to_string(), traffic)).collect();
    let pods = admin.paid_requests.pods().summaries();
    PodList { pods: pods.iter().map(|pod| entry(pod, traffic.get(pod.order.spec.id.as_str()))).collect() }
}

fn entry(pod: &PodSummary, traffic: Option<&PodTraffic>) -> PodEntry {
    let order = &pod.order;
    PodEntry {
        manifest_hash: order.spec.id.to_string(),
        state: pod.phase.word().to_owned(),
        machine: order.machine.clone(),
        memory: pod.memory_bytes,
        images: order.spec.containers.iter().map(|container| container.image.clone()).collect(),
        start: pod.run.map(|run| format!("{:.3}", run.since)),
        expiry: pod.run.map(|run| format!("{:.3}", run.term.expires_at)),
        remaining: pod.remaining.map(|remaining| remaining.as_secs()),
        requests: traffic.map(|traffic| traffic.requests),
        errors: traffic.map(|traffic| traffic.errors),
        received: traffic.map(|traffic| traffic.received),
        sent: traffic.map(|traffic| traffic.sent),
    }
}

/// Lists the bans
#[utoipa::path(get, path = "/bans", tag = "bans", responses((status = 200, description = "Every ban", body = BanList)))]
pub(super) async fn bans(State(admin): State<Arc<AdminState>>) -> Json<BanList> {
    Json(bans_of(&admin))
}

pub(super) fn bans_of(admin: &AdminState) -> BanList {
    let bans = admin.paid_requests.pods().bans();
    let entry = |(ban, stop): &(codiusd_control::operator::Ban, bool)| BanEntry {
        kind: ban.kind().to_owned(),
        subject: ban.to_string(),
        stop: *stop,
    };
    BanList { bans: bans.iter().map(entry).collect() }
}
