//! From a pod's description to a running machine, and back to nothing after a failure at any point.

use std::time::{Duration, Instant, SystemTime};

use tokio::time;

use super::{
    Inner,
    addresses::NewInterface,
    client::Call,
    error::HyperdError,
    folders, generation, names,
    names::Attempt,
    unavailable,
    wire::{ContainerPhase, Info, NewPod, first_address},
};
use crate::{PodId, PodSpec, RunningPod, RuntimeError};

/// How long a create with a lost answer is polled: hyperd gives up a boot after 60 s.
const CREATE_ENDS_WITHIN: Duration = Duration::from_secs(90);
/// How long containers may take from the start call until they have begun.
const BEGIN_WITHIN: Duration = Duration::from_secs(10);
/// How long started containers are watched for a command that can't be run: hyperd reports them as running until their guest reports the
/// failure.
const WATCHED_FOR: Duration = Duration::from_millis(250);
/// Interval between polls of a pod that is changing.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Exit codes of a shell and of hyperd's guest when a command can't be run.
const CANNOT_RUN: [i32; 2] = [126, 127];

impl Inner {
    /// Starts a pod; the caller holds its turn.
    pub(super) async fn start(&self, spec: PodSpec) -> Result<RunningPod, RuntimeError> {
        let _admitted = self.admitted.try_acquire().map_err(|_| RuntimeError::Busy)?;
        self.killers.check(&spec)?;
        let mut images: Vec<&str> = spec.containers.iter().map(|container| container.image.as_str()).collect();
        images.sort_unstable();
        images.dedup();
        for image in &images {
            self.images.pull(&self.client, image).await?;
        }
        let _turn = self.creates.acquire().await.map_err(|_closed| RuntimeError::Busy)?;
        let generation = generation::current(&self.client).await.map_err(|error| unavailable("reaching hyperd", error))?;
        let attempt = Attempt::new(generation);
        let lease = self.lease().await?;
        let interface = lease.as_ref().map(|lease| &lease.interface);
        let created = match self.create(&spec, attempt, interface).await {
            Ok(()) => self.begin(&spec.id, attempt).await,
            Err(HyperdError::MissingImage) => {
                images.iter().for_each(|image| self.images.forget(image));
                Err(HyperdError::MissingImage.into_runtime(&spec.id, "an image was gone when it was needed; try again"))
            }
            Err(HyperdError::GuestKilled(text)) => Err(self.killers.killed(&spec, &text)),
            // The pod belongs to someone else, or to another attempt: nothing of ours to undo.
            Err(error @ (HyperdError::NameTaken(_) | HyperdError::Away(_))) => {
                return Err(error.into_runtime(&spec.id, "creating its virtual machine"));
            }
            Err(error) => Err(error.into_runtime(&spec.id, "creating its virtual machine")),
        };
        if created.is_ok() {
            self.killers.ran(&spec);
        }
        let apart = match created {
            Ok(run) => self.keep_apart(&spec.id, run, interface).await.map(|()| run),
            Err(error) => Err(error),
        };
        if apart.is_err()
            && let Err(error) = self.stop(&spec.id).await
        {
            tracing::warn!(pod = %spec.id, error = &error as &dyn std::error::Error, "remains of a failed pod start not removed yet");
        }
        if let Some(lease) = lease {
            lease.end().await;
        }
        apart
    }

    /// Boots the pod's machine and creates its containers. A create is never blindly repeated: hyperd continues with it when the connection
    /// is lost.
    async fn create(&self, spec: &PodSpec, attempt: Attempt, interface: Option<&NewInterface>) -> Result<(), HyperdError> {
        let mut pod = NewPod::of(spec, attempt, interface);
        let mut outcome = self.send_create(&pod).await;
        if let Err(HyperdError::NameLeaked { name, container }) = &outcome {
            // The last resort: adopts the container that a failed create has left, so that it is deleted with the pod.
            tracing::warn!(pod = %spec.id, name, "hyperd already has a container of this name from a failed create; adopting it");
            if let Some(leaked) = pod.containers.iter_mut().find(|ours| ours.name == *name) {
                leaked.id = Some(container.clone());
                outcome = self.send_create(&pod).await;
            }
        }
        match outcome {
            Err(HyperdError::Lost(cause)) => {
                tracing::warn!(pod = %spec.id, error = cause.as_ref() as &dyn std::error::Error, "hyperd did not answer a create; checking whether it continues");
                if self.created_after_all(&spec.id, attempt).await { Ok(()) } else { Err(HyperdError::Lost(cause)) }
            }
            outcome => outcome,
        }
    }

    async fn send_create(&self, pod: &NewPod) -> Result<(), HyperdError> {
        let body = serde_json::to_vec(pod).map_err(|_| HyperdError::Unreadable)?;
        self.client.call(Call::Create, &[], Some(body)).await.map(drop)
    }

    /// Waits for the end of a create whose answer was lost; returns whether the pod then exists and belongs to this attempt.
    async fn created_after_all(&self, id: &PodId, attempt: Attempt) -> bool {
        match self.settled(id).await {
            Ok(info) => {
                let ours = |name: &str| names::parse(name).is_some_and(|(_, _, theirs)| theirs == attempt);
                info.status.container_status.iter().any(|status| ours(&status.name))
            }
            Err(_) => false,
        }
    }

    /// The pod, once no create is working on it any more.
    async fn settled(&self, id: &PodId) -> Result<Info, HyperdError> {
        let deadline = Instant::now() + CREATE_ENDS_WITHIN;
        loop {
            match self.info(id).await {
                Ok(info) if !info.is_being_created() => return Ok(info),
                Err(HyperdError::NoSuchPod) => return Err(HyperdError::NoSuchPod),
                Ok(_) | Err(HyperdError::Busy(_) | HyperdError::Lost(_)) if Instant::now() < deadline => {}
                Ok(_) => return Err(HyperdError::Busy("it is still being created".to_owned())),
                Err(error) => return Err(error),
            }
            time::sleep(LOOK_EVERY).await;
        }
    }

    /// Starts the containers of a created pod; they have begun when this returns.
    async fn begin(&self, id: &PodId, attempt: Attempt) -> Result<RunningPod, RuntimeError> {
        let fail = |error: HyperdError| error.into_runtime(id, "starting its containers");
        let mut told = self.tell_to_start(id).await.map_err(fail)?;
        let (deadline, mut begun) = (Instant::now() + BEGIN_WITHIN, None);
        loop {
            match self.look_at_start(id, attempt, &mut begun).await {
                Ok(Some(run)) => return Ok(run),
                Ok(None) if begun.is_none() && !told => told = self.tell_to_start(id).await.map_err(fail)?,
                Err(error @ RuntimeError::Start { .. }) => return Err(error),
                // One lost answer doesn't fail the start.
                Ok(None) | Err(_) if Instant::now() < deadline => {}
                Ok(None) => {
                    let step = "its containers don't begin to run".to_owned();
                    return Err(RuntimeError::Start { id: id.clone(), step, source: None });
                }
                Err(error) => return Err(error),
            }
            time::sleep(LOOK_EVERY).await;
        }
    }

    /// Sends the start call; returns whether it was answered. Repeating it is harmless.
    async fn tell_to_start(&self, id: &PodId) -> Result<bool, HyperdError> {
        match self.client.call(Call::Start, &[("podId", id.as_str())], None).await {
            Ok(_) => Ok(true),
            Err(HyperdError::Lost(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The pod, if its containers have run for long enough; `begun` holds the time since when.
    async fn look_at_start(&self, id: &PodId, attempt: Attempt, begun: &mut Option<Instant>) -> Result<Option<RunningPod>, RuntimeError> {
        let fail = |error: HyperdError| error.into_runtime(id, "starting its containers");
        let info = self.info(id).await.map_err(fail)?;
        if let Some(step) = unable_to_run(&info) {
            return Err(RuntimeError::Start { id: id.clone(), step, source: None });
        }
        if info.status.container_status.iter().any(|status| status.phase == ContainerPhase::Pending) {
            return Ok(None);
        }
        let since = *begun.get_or_insert_with(Instant::now);
        if since.elapsed() < WATCHED_FOR {
            return Ok(None);
        }
        if !self.is_where_it_says(id, &info).await.map_err(fail)? {
            let step = "its machine was lost meanwhile".to_owned();
            return Err(RuntimeError::Unavailable { operation: step, source: None });
        }
        let run = RunningPod { started_at: SystemTime::now(), ..running(&info, attempt).map_err(fail)? };
        self.seen.remember(id, attempt, run, info.memory_bytes());
        Ok(Some(run))
    }

    /// Deletes the pod and everything of it; the caller holds its turn. Not while it is being created: hyperd would leak its containers'
    /// names.
    pub(super) async fn stop(&self, id: &PodId) -> Result<(), RuntimeError> {
        self.delete(id).await?;
        folders::remove(&self.logs, id).await;
        Ok(())
    }

    async fn delete(&self, id: &PodId) -> Result<(), RuntimeError> {
        let fail = |error: HyperdError| unavailable("stopping the pod", error);
        match self.settled(id).await {
            Err(HyperdError::NoSuchPod) => return Ok(()),
            Err(error) => return Err(fail(error)),
            Ok(_) => {}
        }
        self.seen.forget(id);
        match self.client.call(Call::Delete, &[("podId", id.as_str())], None).await {
            Ok(_) | Err(HyperdError::NoSuchPod) => Ok(()),
            // The pod may be deleted, and the daemon may have died of it.
            Err(HyperdError::Lost(cause)) => match self.info(id).await {
                Err(HyperdError::NoSuchPod) => Ok(()),
                _ => Err(fail(HyperdError::Lost(cause))),
            },
            Err(error) => Err(fail(error)),
        }
    }
}

/// The error for a pod whose command doesn't exist or isn't a program.
fn unable_to_run(info: &Info) -> Option<String> {
    let ended = info.status.container_status.iter().filter(|status| status.phase.has_ended());
    let failed = ended.map(|status| (status, status.terminated.exit_code)).find(|(_, code)| CANNOT_RUN.contains(code));
    failed.map(|(status, code)| {
        let container = names::parse(&status.name).map_or("?", |(_, container, _)| container);
        format!("the command of container {container} can't be run (exit code {code})")
    })
}

/// A running pod, from its `/pod/info`. The address is right from the first start on; a stopped pod is never started again, because its
/// address would be wrong then.
pub(super) fn running(info: &Info, attempt: Attempt) -> Result<RunningPod, HyperdError> {
    let address = first_address(&info.status.pod_ip).ok_or(HyperdError::Unreadable)?;
    let started_at = SystemTime::UNIX_EPOCH + Duration::from_secs(info.created_at);
    Ok(RunningPod { address, incarnation: attempt.incarnation(), started_at })
}
