//! An upload, ready to run: the result of a manifest, and the subject of pods, prices and bans.

use std::{fmt, sync::Arc};

use codiusd_runtime::PodSpec;

/// An upload, ready to run.
#[derive(Clone, PartialEq, Eq)]
pub struct PodOrder {
    /// The pod spec; holds private values.
    pub spec: PodSpec,
    /// The size it was sold as; determines the price of an extension.
    pub machine: String,
    /// The manifest as uploaded: JSON without private values.
    pub manifest: Arc<str>,
    /// The port it listens on for HTTP; none: it has no page.
    pub port: Option<u16>,
    /// Whether anyone may read its log.
    pub debug: bool,
}

impl fmt::Debug for PodOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodOrder").field("id", &self.spec.id).field("port", &self.port).field("debug", &self.debug).finish_non_exhaustive()
    }
}
