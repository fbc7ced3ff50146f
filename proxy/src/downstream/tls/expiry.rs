//! How long certificates last, as metrics.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::certificates::Certificates;

const EXPIRY: &str = "codius_edge_certificate_expiry_seconds";
const EXPIRY_HELP: &str = "When a certificate in use ends, in seconds since 1970, by its first name and the kind of its key.";
const RELOADS: &str = "codius_edge_certificate_reloads_total";
const RELOADS_HELP: &str = "Certificates read again after their files have changed (ok), or that could not be used (failed).";

/// Says of certificates what is true when it is asked: they come and go with their files.
pub(crate) struct Watched {
    certificates: Arc<Certificates>,
    expiry: IntGaugeVec,
    reloads: IntCounterVec,
}

impl Watched {
    pub(crate) fn register(certificates: Arc<Certificates>, registry: &Registry) -> Result<(), prometheus::Error> {
        let (expiry, reloads) = (expiry()?, reloads()?);
        registry.register(Box::new(Watched { certificates, expiry, reloads }))
    }

    fn now(&self) -> Result<Vec<MetricFamily>, prometheus::Error> {
        // Made anew each time: what a certificate that is gone was called is no label any more.
        let (expiry, reloads) = (expiry()?, reloads()?);
        for ((name, kind), not_after) in self.certificates.ends().iter() {
            expiry.with_label_values(&[name, kind.name()]).set(*not_after);
        }
        let (ok, failed) = self.certificates.reloads();
        reloads.with_label_values(&["ok"]).inc_by(ok);
        reloads.with_label_values(&["failed"]).inc_by(failed);
        Ok([expiry.collect(), reloads.collect()].concat())
    }
}

fn expiry() -> Result<IntGaugeVec, prometheus::Error> {
    IntGaugeVec::new(Opts::new(EXPIRY, EXPIRY_HELP), &["name", "key"])
}

fn reloads() -> Result<IntCounterVec, prometheus::Error> {
    IntCounterVec::new(Opts::new(RELOADS, RELOADS_HELP), &["result"])
}

impl Collector for Watched {
    fn desc(&self) -> Vec<&Desc> {
        [self.expiry.desc(), self.reloads.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.now().unwrap_or_default()
    }
}
