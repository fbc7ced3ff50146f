//! Anything that takes a Prepare and returns a reply.

use async_trait::async_trait;

use crate::packet::{Prepare, Reply};

/// One way to send packets: a neighbour, or a stand-in for one.
#[async_trait]
pub trait Link: std::fmt::Debug + Send + Sync {
    /// Sends a Prepare and waits for the reply until the packet expires; then the reply is a Reject made here.
    async fn send(&self, prepare: Prepare) -> Reply;
}
