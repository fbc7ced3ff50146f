//! What the host does, for operators.

use std::{collections::HashMap, sync::Arc};

use axum::{Json, extract::State};
use codiusd_control::pods::{Doing, PodFacts, Shares};
use codiusd_proxy::PodTraffic;
use serde_json::{Value, json};

use super::Desk;
use crate::telemetry;

pub(super) async fn status(State(desk): State<Arc<Desk>>) -> Json<Value> {
    let keeper = desk.orders.keeper();
    let (pods, room, asset) = (keeper.survey(), keeper.room(), desk.orders.asset());
    let running = pods.iter().filter(|pod| pod.doing == Doing::Running).count();
    let (code, scale) = asset.map(|asset| (asset.code, asset.scale)).unzip();
    let earnings = desk.orders.totals().into_iter().map(|(asset, sums)| {
        // Sums are text: a JSON reader may have doubles only.
        json!({
            "assetCode": asset.code,
            "assetScale": asset.scale,
            "received": sums.received.to_string(),
            "earned": sums.earned.to_string(),
            "forfeited": sums.forfeited.to_string(),
            "credit": (sums.received - sums.earned - sums.forfeited).to_string(),
        })
    });
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime": desk.started.elapsed().as_secs(),
        "draining": keeper.is_draining(),
        "runtime": keeper.capabilities().name,
        "ready": ready(&desk).await,
        "assetCode": code,
        "assetScale": scale,
        "costPerMonth": desk.orders.cost_per_month().to_string(),
        "pods": { "known": pods.len(), "running": running },
        "held": shares(&room.held),
        "max": shares(&room.max),
        "earnings": earnings.collect::<Vec<_>>(),
        "bans": keeper.bans().len(),
        "peers": desk.peers.count(),
        "selfTest": desk.self_test.as_ref().map(|test| test.json()),
        "log": telemetry::chosen(),
    }))
}

/// Whether uploads are taken, or why not.
async fn ready(desk: &Desk) -> String {
    match desk.orders.keeper().open().await {
        Err(refusal) => refusal.to_string(),
        Ok(()) if desk.self_test.as_ref().is_some_and(|test| !test.was_passed()) => "no self-test was passed yet".to_owned(),
        Ok(()) => "ready".to_owned(),
    }
}

fn shares(shares: &Shares) -> Value {
    // Without a limit there is no figure.
    let disk = Some(shares.disk_bytes).filter(|bytes| *bytes != u64::MAX);
    json!({ "memory": shares.memory_bytes, "vcpus": shares.vcpus, "disk": disk })
}

pub(super) async fn pods(State(desk): State<Arc<Desk>>) -> Json<Value> {
    let traffic: HashMap<String, PodTraffic> =
        desk.routes.busiest(usize::MAX).into_iter().map(|traffic| (traffic.pod.to_string(), traffic)).collect();
    let pods = desk.orders.keeper().survey();
    let shown: Vec<Value> = pods.iter().map(|pod| shown(pod, traffic.get(pod.order.spec.id.as_str()))).collect();
    Json(json!({ "pods": shown }))
}

/// One pod. What it was told in private isn't said.
fn shown(pod: &PodFacts, traffic: Option<&PodTraffic>) -> Value {
    let order = &pod.order;
    let images: Vec<&str> = order.spec.containers.iter().map(|container| container.image.as_str()).collect();
    let mut shown = json!({
        "manifestHash": order.spec.id,
        "state": pod.doing.word(),
        "machine": order.machine,
        "memory": pod.memory_bytes,
        "images": images,
        "start": null,
        "expiry": null,
        "remaining": null,
        "requests": traffic.map(|traffic| traffic.requests),
        "errors": traffic.map(|traffic| traffic.errors),
        "received": traffic.map(|traffic| traffic.received),
        "sent": traffic.map(|traffic| traffic.sent),
    });
    if let (Some(run), Some(remaining)) = (pod.run, pod.remaining) {
        shown["start"] = format!("{:.3}", run.since).into();
        shown["expiry"] = format!("{:.3}", run.term.expires_at).into();
        shown["remaining"] = remaining.as_secs().into();
    }
    shown
}

pub(super) async fn bans(State(desk): State<Arc<Desk>>) -> Json<Value> {
    let bans = desk.orders.keeper().bans();
    let shown: Vec<Value> =
        bans.iter().map(|(ban, stop)| json!({ "kind": ban.kind(), "subject": ban.to_string(), "stop": stop })).collect();
    Json(json!({ "bans": shown }))
}
