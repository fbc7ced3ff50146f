//! Whatever takes a Prepare and answers.

use async_trait::async_trait;

use crate::packet::{Prepare, Reply};

/// One way to send packets: a neighbour, or something that stands for one.
#[async_trait]
pub trait Link: std::fmt::Debug + Send + Sync {
    /// Sends a Prepare and waits for its answer, at most until it expires; then the answer is a Reject made here.
    async fn send(&self, prepare: Prepare) -> Reply;
}
