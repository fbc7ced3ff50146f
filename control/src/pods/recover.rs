//! After a start: the store's pods and the runtime's are made to agree, before anything is served.

use std::sync::Arc;

use codiusd_runtime::{PodId, RuntimeError};
use jiff::Timestamp;

use super::{
    keeper::{Inner, Keeper},
    reconcile::{Repair, reconcile},
    state::{Entry, Order, Pod, PodRecord, Stage},
};
use crate::store::{StoreFailed, Write};

/// The pods of the store can't be taken over.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The runtime can't say what runs.
    #[error("can't list the pods that run")]
    List(#[source] RuntimeError),
    /// Repairs can't be made durable.
    #[error(transparent)]
    Store(#[from] StoreFailed),
}

impl Keeper {
    /// Takes over the stored pods: those that run go on, interrupted starts are completed or their payment given back,
    /// pods lost with the machine are started again, and what nobody pays for is stopped.
    pub async fn recover(&self, stored: Vec<PodRecord>) -> Result<(), RecoverError> {
        let found = self.0.runtime.list().await.map_err(RecoverError::List)?;
        let (repairs, orphans) = reconcile(&stored, &found, self.0.clock.now());
        for (record, (id, repair)) in stored.into_iter().zip(repairs) {
            tracing::info!(pod = %id, ?repair, "pod from before the start");
            self.repair(&id, Arc::new(record.order), repair).await?;
        }
        for id in orphans {
            tracing::warn!(pod = %id, "a pod nobody pays for is stopped");
            self.stop_quietly(&id).await;
        }
        self.free_payments().await?;
        Ok(())
    }

    async fn repair(&self, id: &PodId, order: Arc<Order>, repair: Repair) -> Result<(), StoreFailed> {
        let place = |stage| {
            self.0.table().insert(id.clone(), Entry { order: order.clone(), stage });
        };
        match repair {
            Repair::Complete { run, segment, seconds } => {
                place(Stage::Starting { segment, seconds, kept_seconds: 0 });
                let started_at = Timestamp::try_from(run.started_at).unwrap_or_else(|_| self.0.clock.now());
                self.0.started(&order, run, started_at).await?;
            }
            Repair::GiveBack { segment, kept_seconds } => {
                self.stop_quietly(id).await;
                place(Stage::Starting { segment, seconds: kept_seconds, kept_seconds });
                self.0.give_back(id).await?;
            }
            Repair::Adopt { run, expires_at } => {
                place(Stage::Running { run, expires_at });
                self.0.publish(id, &run);
            }
            Repair::Revive { expires_at } => {
                place(Stage::Reviving);
                let inner = self.0.clone();
                let order = order.clone();
                tokio::spawn(async move { inner.revive(&order, expires_at).await });
            }
            Repair::Exited { expires_at } => {
                let (seconds, forget_at) = self.0.what_is_left(expires_at);
                place(Stage::Exited { seconds, forget_at });
                self.0.keep(id, Pod::Exited { seconds, forget_at }).await?;
            }
            Repair::Keep { seconds, forget_at } => place(Stage::Exited { seconds, forget_at }),
            Repair::Forget => {
                place(Stage::Exited { seconds: 0, forget_at: Timestamp::UNIX_EPOCH });
                self.0.end(id).await;
            }
        }
        Ok(())
    }

    /// Payments that were in hand when the process ended and belong to no pod are free again.
    async fn free_payments(&self) -> Result<(), StoreFailed> {
        for segment in self.0.desk.consuming() {
            let permit = self.0.store.reserve().await?;
            let writes: Vec<Write> = self.0.desk.give_back(&segment).into_iter().collect();
            permit.send(writes).await?;
        }
        Ok(())
    }

    async fn stop_quietly(&self, id: &PodId) {
        if let Err(error) = self.0.runtime.stop(id).await {
            tracing::error!(pod = %id, error = &error as &dyn std::error::Error, "a pod can't be stopped");
        }
    }
}

impl Inner {
    /// Starts a pod that was lost with the machine; it keeps its end.
    async fn revive(&self, order: &Arc<Order>, expires_at: Timestamp) {
        let id = &order.spec.id;
        let started = match self.runtime.stop(id).await {
            Ok(()) => self.runtime.start(order.spec.clone()).await,
            Err(error) => Err(error),
        };
        let place = |stage| {
            self.table().insert(id.clone(), Entry { order: order.clone(), stage });
        };
        match started {
            Ok(run) => {
                place(Stage::Running { run, expires_at });
                self.publish(id, &run);
            }
            Err(error) => {
                tracing::error!(pod = %id, error = &error as &dyn std::error::Error, "pod can't be started again; its time left is kept");
                let (seconds, forget_at) = self.what_is_left(expires_at);
                place(Stage::Exited { seconds, forget_at });
                // If the store has failed, the next start finds the pod as it was.
                let _ = self.keep(id, Pod::Exited { seconds, forget_at }).await;
            }
        }
        self.announce();
    }

    async fn keep(&self, id: &PodId, pod: Pod) -> Result<(), StoreFailed> {
        self.store.reserve().await?.send(vec![Write::PodProgress(id.clone(), pod)]).await
    }
}
