//! Selects the pod sizes that are sold: those that can start on this machine. Clients would pay for any other size, and every start
//! would fail.
//!
//! A size that exceeds the capacity for all pods is not filtered here: uploads of it are refused as on a full host.

use std::{num::NonZeroUsize, thread};

use codiusd_control::pod_sizes::{PodSize, PodSizes, SMALL};

use super::StartError;
use crate::{config::Config, runtimes};

/// The sizes that are sold; the others are logged.
pub(super) fn sold(config: &Config) -> Result<PodSizes, StartError> {
    let (sold, unsold) = divided(config)?;
    for (size, against) in unsold {
        tracing::warn!(%size, against, "pod size not sold: no pod of this size can start here (pod_size, CODIUS_MACHINES)");
    }
    Ok(sold)
}

/// The sizes that are sold, and the others with the reason; an error if `small`, which every host sells, is one of the others.
pub(crate) fn divided(config: &Config) -> Result<(PodSizes, Vec<(PodSize, String)>), StartError> {
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let plan = runtimes::plan(config);
    let (sold, unsold) = config.pod_sizes.partition(|size| plan.refuses_size(processors, &size.machine));
    match unsold.iter().find(|(size, _)| size.name == SMALL) {
        Some((small, against)) => Err(StartError::Small { size: small.to_string(), against: against.clone() }),
        None => Ok((sold, unsold)),
    }
}
