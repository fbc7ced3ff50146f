//! A paid order and its pod, step by step; what each step writes down.
//!
//! ```text
//! begin: paid -> in hand, no pod -> Starting        one commit
//! start: the runtime, then the pod's page
//! started: in hand -> used, Starting -> Running     one commit; then the route opens
//! give_back: in hand -> paid, Starting -> no pod    one commit
//! ```

use std::sync::Arc;

use codiusd_runtime::{PodId, RunningPod, RuntimeError};
use jiff::Timestamp;

use super::{
    keeper::{Gone, Inner, Receipt, Refusal},
    listen,
    state::{EXITED_KEPT, Entry, Order, Pod, PodRecord, Stage, Term, upstream},
    table::Table,
};
use crate::store::{StoreFailed, Write};

impl Inner {
    /// Uses the payment up and moves the end of a pod that runs.
    pub(super) fn extend(&self, table: &mut Table, id: &PodId, seconds: u32, segment: &str) -> Result<(Receipt, Vec<Write>), Refusal> {
        let Some(&Entry { stage: Stage::Running { run, term }, .. }) = table.get(id) else {
            return Err(Refusal::NoSuchPod(id.clone()));
        };
        let term = term.extended(seconds);
        let (receipt, answer) = self.answer(id, term.expires_at);
        let mut writes = vec![self.desk.begin(segment)?];
        writes.extend(self.desk.finish(segment, answer)?);
        table.set_stage(id, Stage::Running { run, term });
        writes.push(Write::PodProgress(id.clone(), Pod::Running { term }));
        Ok((receipt, writes))
    }

    /// Gives the pod its place, on the machine and in the table, and takes the payment in hand. Nothing happens if there is none.
    pub(super) fn begin(
        &self,
        table: &mut Table,
        order: &Arc<Order>,
        seconds: u32,
        kept_seconds: u32,
        segment: &str,
    ) -> Result<Vec<Write>, Refusal> {
        self.startable(order)?;
        let (id, machine) = (&order.spec.id, order.spec.machine);
        // From here on nobody else gets it.
        self.capacity.claim(id, machine, self.clock.now()).map_err(Refusal::Full)?;
        let payment = self.desk.begin(segment).inspect_err(|_| self.capacity.set(id, table.get(id).and_then(Entry::holds)))?;
        let seconds = seconds.saturating_add(kept_seconds);
        let pod = Pod::Starting { segment: segment.to_owned(), seconds, kept_seconds };
        let stage = Stage::Starting { segment: segment.to_owned(), seconds, kept_seconds };
        table.insert(id.clone(), Entry { order: order.clone(), stage });
        let record = PodRecord { order: Order::clone(order), pod };
        Ok(vec![payment, Write::Pod(Box::new(record))])
    }

    /// Starts a pod that is `Starting`, and writes down how that went.
    pub(super) async fn start(&self, order: &Arc<Order>) -> Result<Receipt, Refusal> {
        let id = &order.spec.id;
        let daemon = self.daemon_now().await;
        match self.run(order).await {
            Ok(run) => {
                self.answers(order, &run).await;
                let started_at = Timestamp::try_from(run.started_at).unwrap_or_else(|_| self.clock.now());
                Ok(self.started(order, run, started_at).await?)
            }
            Err(error) => {
                tracing::warn!(pod = %id, error = &error as &dyn std::error::Error, "pod failed to start; its payment is kept");
                // The payment isn't used: without a mark it could take the daemon down as often as it likes.
                let marked = self.mark_failed_start(id, daemon).await;
                self.give_back(id).await?;
                marked?;
                Err(error.into())
            }
        }
    }

    /// Runs a pod anew. What is left of an earlier run (an exited pod kept for its log, a worn one) makes room first.
    pub(super) async fn run(&self, order: &Order) -> Result<RunningPod, RuntimeError> {
        self.runtime.stop(&order.spec.id).await?;
        self.runtime.start(order.spec.clone()).await
    }

    /// Waits for the page of a pod that was just started, if it has one and really runs.
    pub(super) async fn answers(&self, order: &Order, run: &RunningPod) {
        if let Some(address) = upstream(order, run).filter(|_| self.runtime.capabilities().isolation != "none") {
            listen::awaited(address).await;
        }
    }

    /// Starting -> Running: uses up the payment and opens the route.
    pub(super) async fn started(&self, order: &Arc<Order>, run: RunningPod, started_at: Timestamp) -> Result<Receipt, StoreFailed> {
        let id = &order.spec.id;
        // From here on the pod's disk is counted as what isn't free.
        self.measure_disk().await;
        let permit = self.store.reserve().await?;
        let (receipt, durable) = {
            let mut table = self.table();
            let (segment, seconds) = match table.get(id).map(|entry| &entry.stage) {
                Some(Stage::Starting { segment, seconds, .. }) => (segment.clone(), *seconds),
                stage => unreachable!("only the task that starts a pod changes it, but {id} became {stage:?}"),
            };
            let term = Term::new(started_at, seconds);
            let (receipt, answer) = self.answer(id, term.expires_at);
            let mut writes = self.desk.finish(&segment, answer).unwrap_or_else(|_| unreachable!("payment {segment} was begun"));
            writes.push(Write::PodProgress(id.clone(), Pod::Running { term }));
            table.insert(id.clone(), Entry { order: order.clone(), stage: Stage::Running { run, term } });
            (receipt, permit.send(writes))
        };
        durable.await?;
        self.publish(id, &run);
        tracing::info!(pod = %id, expiry = receipt.expiry, "pod runs");
        self.announce();
        Ok(receipt)
    }

    /// Opens the route of a pod, unless it has ended meanwhile: routes only change while the table is locked.
    pub(super) fn publish(&self, id: &PodId, run: &RunningPod) {
        let table = self.table();
        let Some(Entry { order, stage: Stage::Running { run: now, .. } }) = table.get(id) else { return };
        if now.incarnation != run.incarnation {
            return;
        }
        match upstream(order, run) {
            Some(address) => self.routes.publish(id, address, run.incarnation),
            // For visitors there is none, whatever they were told while it was started anew.
            None => self.routes.withdraw(id, Gone::Stopped),
        }
    }

    /// Starting -> gone (or exited, with what it had left before): the payment is free to be used again.
    pub(super) async fn give_back(&self, id: &PodId) -> Result<(), StoreFailed> {
        let permit = self.store.reserve().await?;
        let durable = {
            let mut table = self.table();
            let Some(Entry { order, stage: Stage::Starting { segment, kept_seconds, .. } }) = table.get(id).cloned() else {
                unreachable!("only the task that starts a pod changes it");
            };
            let mut writes: Vec<Write> = self.desk.give_back(&segment).into_iter().collect();
            if kept_seconds == 0 {
                table.remove(id);
                writes.push(Write::ForgetPod(id.clone()));
            } else {
                let forget_at = self.clock.now().saturating_add(EXITED_KEPT).unwrap_or(Timestamp::MAX);
                table.insert(id.clone(), Entry { order, stage: Stage::Exited { seconds: kept_seconds, forget_at } });
                writes.push(Write::PodProgress(id.clone(), Pod::Exited { seconds: kept_seconds, forget_at }));
            }
            permit.send(writes)
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
