//! A paid order and its pod, step by step; what each step makes durable.
//!
//! ```text
//! begin: paid -> consuming, no pod -> Starting         one commit
//! start: the runtime, then the pod's page
//! started: consuming -> used, Starting -> Running      one commit; then the route opens
//! give_back: consuming -> paid, Starting -> no pod     one commit
//! ```

use std::sync::Arc;

use codiusd_api_types::pods::Receipt;
use codiusd_runtime::{PodId, RunningPod, RuntimeError};
use jiff::Timestamp;

use super::{
    manager::{Inner, Refusal, WithdrawReason},
    readiness_probe,
    state::{EXITED_KEPT, Entry, Pod, PodRecord, Stage, Term, upstream},
    table::Table,
    tables::PodChange,
};
use crate::db::{Changes, DatabaseFailed};
use crate::workload::PodOrder;

impl Inner {
    /// Consumes the payment and extends the expiry of a running pod.
    pub(super) fn extend(&self, table: &mut Table, id: &PodId, seconds: u32, segment: &str) -> Result<(Receipt, Changes), Refusal> {
        let Some(&Entry { stage: Stage::Running { run, term }, .. }) = table.get(id) else {
            return Err(Refusal::NoSuchPod(id.clone()));
        };
        let term = term.extended(seconds);
        let (receipt, answer) = self.answer(id, term.expires_at);
        let changes = Changes::from(self.payments.begin(segment)?).and(self.payments.finish(segment, answer)?);
        table.set_stage(id, Stage::Running { run, term });
        Ok((receipt, changes.and(PodChange::Progress(id.clone(), Pod::Running { term }))))
    }

    /// Claims capacity and an entry in the table for the pod, and begins to consume the payment. Changes nothing if it fails.
    pub(super) fn begin(
        &self,
        table: &mut Table,
        order: &Arc<PodOrder>,
        seconds: u32,
        kept_seconds: u32,
        segment: &str,
    ) -> Result<Changes, Refusal> {
        self.startable(order)?;
        let (id, machine) = (&order.spec.id, order.spec.machine);
        // From here on no other pod can get this capacity.
        self.capacity.claim(id, machine, self.clock.now()).map_err(Refusal::Full)?;
        let payment = self.payments.begin(segment).inspect_err(|_| self.capacity.set(id, table.get(id).and_then(Entry::holds)))?;
        let seconds = seconds.saturating_add(kept_seconds);
        let pod = Pod::Starting { segment: segment.to_owned(), seconds, kept_seconds };
        let stage = Stage::Starting { segment: segment.to_owned(), seconds, kept_seconds };
        table.insert(id.clone(), Entry { order: order.clone(), stage });
        let record = PodRecord { order: PodOrder::clone(order), pod };
        Ok(Changes::from(payment).and(PodChange::Put(Box::new(record))))
    }

    /// Starts a pod that is `Starting`, and records the result.
    pub(super) async fn start(&self, order: &Arc<PodOrder>) -> Result<Receipt, Refusal> {
        let id = &order.spec.id;
        let daemon = self.daemon_now().await;
        match self.run(order).await {
            Ok(run) => {
                self.answers(order, &run).await;
                let started_at = Timestamp::try_from(run.started_at).unwrap_or_else(|_| self.clock.now());
                Ok(self.started(order, run, started_at).await?)
            }
            Err(error) => {
                tracing::warn!(pod = %id, error = &error as &dyn std::error::Error, "pod start failed; its payment is kept");
                // The payment isn't consumed: without a mark the pod could crash the daemon any number of times for free.
                let marked = self.mark_failed_start(id, daemon).await;
                self.give_back(id).await?;
                marked?;
                Err(error.into())
            }
        }
    }

    /// Starts a new incarnation of a pod. Remains of an earlier one (an exited pod kept for its log, a degraded pod) are removed first.
    pub(super) async fn run(&self, order: &PodOrder) -> Result<RunningPod, RuntimeError> {
        self.runtime.stop(&order.spec.id).await?;
        self.runtime.start(order.spec.clone()).await
    }

    /// Waits until the page of a pod that has just started answers, if the pod has one and the runtime really runs pods.
    pub(super) async fn answers(&self, order: &PodOrder, run: &RunningPod) {
        if let Some(address) = upstream(order, run).filter(|_| self.runtime.capabilities().isolation != codiusd_runtime::Isolation::None) {
            readiness_probe::awaited(address).await;
        }
    }

    /// Starting -> Running: consumes the payment and opens the route.
    pub(super) async fn started(&self, order: &Arc<PodOrder>, run: RunningPod, started_at: Timestamp) -> Result<Receipt, DatabaseFailed> {
        let id = &order.spec.id;
        // From here on the pod's disk counts as used space instead of held capacity.
        self.measure_disk().await;
        let permit = self.database.reserve().await?;
        let (receipt, durable) = {
            let mut table = self.table();
            let (segment, seconds) = match table.get(id).map(|entry| &entry.stage) {
                Some(Stage::Starting { segment, seconds, .. }) => (segment.clone(), *seconds),
                stage => unreachable!("only the task that starts a pod changes it, but {id} became {stage:?}"),
            };
            let term = Term::new(started_at, seconds);
            let (receipt, answer) = self.answer(id, term.expires_at);
            let spent = self.payments.finish(&segment, answer).unwrap_or_else(|_| unreachable!("invoice {segment} was begun"));
            let changes = Changes::from(spent).and(PodChange::Progress(id.clone(), Pod::Running { term }));
            table.insert(id.clone(), Entry { order: order.clone(), stage: Stage::Running { run, term } });
            (receipt, permit.send(changes))
        };
        durable.await?;
        self.publish(id, &run).await;
        tracing::info!(pod = %id, expiry = receipt.expiry, "pod running");
        self.announce();
        Ok(receipt)
    }

    /// Opens the route of a pod, unless it has ended meanwhile: routes are published only while the table is locked.
    pub(super) async fn publish(&self, id: &PodId, run: &RunningPod) {
        {
            let table = self.table();
            let Some(Entry { order, stage: Stage::Running { run: now, .. } }) = table.get(id) else { return };
            if now.incarnation != run.incarnation {
                return;
            }
            if let Some(address) = upstream(order, run) {
                return self.routes.publish(id, address, run.incarnation);
            }
        }
        // The pod has no page: this replaces a "restarting" that visitors may have been shown.
        self.routes.withdraw(id, WithdrawReason::Stopped).await;
    }

    /// Starting -> removed (or exited, with the time left from before): the payment can be used again.
    pub(super) async fn give_back(&self, id: &PodId) -> Result<(), DatabaseFailed> {
        let permit = self.database.reserve().await?;
        let durable = {
            let mut table = self.table();
            let Some(Entry { order, stage: Stage::Starting { segment, kept_seconds, .. } }) = table.get(id).cloned() else {
                unreachable!("only the task that starts a pod changes it");
            };
            let restored = self.payments.give_back(&segment).map(Changes::from).unwrap_or_default();
            let changes = if kept_seconds == 0 {
                table.remove(id);
                restored.and(PodChange::Remove(id.clone()))
            } else {
                let forget_at = self.clock.now().saturating_add(EXITED_KEPT).unwrap_or(Timestamp::MAX);
                table.insert(id.clone(), Entry { order, stage: Stage::Exited { seconds: kept_seconds, forget_at } });
                restored.and(PodChange::Progress(id.clone(), Pod::Exited { seconds: kept_seconds, forget_at }))
            };
            permit.send(changes)
        };
        durable.await?;
        self.announce();
        Ok(())
    }

    fn answer(&self, id: &PodId, expires_at: Timestamp) -> (Receipt, String) {
        let receipt = self.receipt(id, expires_at);
        let answer = serde_json::json!({ "url": receipt.url, "manifestHash": receipt.manifest_hash, "expiry": receipt.expiry });
        (receipt, answer.to_string())
    }
}
