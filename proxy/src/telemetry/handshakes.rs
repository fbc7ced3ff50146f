//! What became of TLS handshakes.

use std::io;

use prometheus::{IntCounter, Registry};
use rustls::{Error, HandshakeKind, ProtocolVersion};

use crate::telemetry::families::counters;

const VERSIONS: [&str; 2] = ["1.2", "1.3"];
const KINDS: [&str; 2] = ["full", "resumed"];

/// Why a handshake came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It took too long.
    Deadline,
    /// The client left, or its network did.
    Left,
    /// What it sent is not TLS.
    Malformed,
    /// It speaks no version, cipher or protocol that we do.
    Incompatible,
    /// It said that it does not want to go on, mostly because of the certificate.
    Refused,
    /// Anything else, such as an attempt to tamper with it.
    Other,
}

impl Failure {
    const ALL: [(Failure, &str); 6] = [
        (Failure::Deadline, "deadline"),
        (Failure::Left, "client_closed"),
        (Failure::Malformed, "malformed"),
        (Failure::Incompatible, "incompatible"),
        (Failure::Refused, "refused"),
        (Failure::Other, "other"),
    ];

    pub(crate) fn of(error: &io::Error) -> Failure {
        let Some(error) = error.get_ref().and_then(|source| source.downcast_ref::<Error>()) else { return Failure::Left };
        match error {
            Error::InvalidMessage(_) | Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
                Failure::Malformed
            }
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Failure::Incompatible,
            Error::AlertReceived(_) => Failure::Refused,
            _ => Failure::Other,
        }
    }
}

/// Handles resolved once.
#[derive(Debug)]
pub(crate) struct Handshakes {
    /// By version and kind.
    done: [[IntCounter; 2]; 2],
    failed: [(Failure, IntCounter); 6],
}

impl Handshakes {
    pub(crate) fn register(registry: &Registry) -> Result<Handshakes, prometheus::Error> {
        let done = "TLS handshakes that succeeded, by version, and whether an earlier session was resumed.";
        let done = counters(registry, "codius_edge_tls_handshakes_total", done, &["version", "kind"])?;
        let failed = counters(registry, "codius_edge_tls_failures_total", "TLS handshakes that failed, by reason.", &["reason"])?;
        Ok(Handshakes {
            done: VERSIONS.map(|version| KINDS.map(|kind| done.with_label_values(&[version, kind]))),
            failed: Failure::ALL.map(|(failure, label)| (failure, failed.with_label_values(&[label]))),
        })
    }

    /// Counts one that succeeded.
    pub(crate) fn done(&self, version: Option<ProtocolVersion>, kind: Option<HandshakeKind>) {
        let [older, newest] = &self.done;
        let [full, resumed] = if version == Some(ProtocolVersion::TLSv1_2) { older } else { newest };
        match kind {
            Some(HandshakeKind::Resumed) => resumed.inc(),
            Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest) | None => full.inc(),
        }
    }

    /// Counts one that failed.
    pub(crate) fn failed(&self, failure: Failure) {
        if let Some((_, counter)) = self.failed.iter().find(|(known, _)| *known == failure) {
            counter.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, InvalidMessage, PeerIncompatible};

    use super::*;

    #[test]
    fn a_failure_has_a_reason() {
        let told = |error: Error| Failure::of(&io::Error::new(io::ErrorKind::InvalidData, error));
        assert_eq!(told(Error::InvalidMessage(InvalidMessage::InvalidContentType)), Failure::Malformed);
        assert_eq!(told(Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon)), Failure::Incompatible);
        assert_eq!(told(Error::AlertReceived(AlertDescription::UnknownCA)), Failure::Refused);
        assert_eq!(told(Error::DecryptError), Failure::Other);
        assert_eq!(Failure::of(&io::ErrorKind::UnexpectedEof.into()), Failure::Left);
        assert_eq!(Failure::of(&io::Error::other("reset")), Failure::Left);
    }
}
