//! The services of this crate as the host uses them: receiver, sender, connector and uplink, against each other.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails where it stands")]

mod connector;
mod credit_sink;
mod payments;
mod peer;
mod receiver;
mod uplink;
