//! Routes a child's packet to the host's receiver or to another child, or rejects it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    address::Address,
    btp::session::Session,
    ildcp::{self, Account},
    link::Link,
    packet::{ErrorCode, Prepare, Reject, Reply},
    stream::{crypto::condition_of, receiver::Receiver},
};

/// Time every hop subtracts from a packet's expiry.
const WINDOW: SignedDuration = SignedDuration::from_secs(1);
/// Longest time a packet is held.
const HOLD_MAX: SignedDuration = SignedDuration::from_secs(30);
/// Sessions per account; beyond that the oldest is closed.
const SESSIONS_MAX: usize = 8;
/// The address segment of the host's own receiver; no child may use it.
pub const HOST: &str = "host";

/// Routing table of the embedded connector.
#[derive(Debug)]
pub struct Router {
    own: Account,
    host: Account,
    receiver: Arc<Receiver>,
    /// The sessions of each account, the newest last.
    children: Mutex<HashMap<String, Vec<Session>>>,
}

impl Router {
    /// A router with address `own.address`, whose children use the same asset.
    pub fn new(own: Account, receiver: Arc<Receiver>) -> Self {
        let address = own.address.join(HOST).unwrap_or_else(|_| unreachable!("a segment of letters, below a short address"));
        let host = Account { address, ..own.clone() };
        Self { own, host, receiver, children: Mutex::default() }
    }

    /// The host's own account.
    pub fn host(&self) -> &Account {
        &self.host
    }

    /// Routes packets for `child` to `session` from now on. Earlier sessions of the account may keep sending: the `codius` CLI opens three
    /// with one token. Returns the oldest session if there are too many, for the caller to close.
    pub(super) fn connect(&self, child: &str, session: Session) -> Option<Session> {
        let mut children = self.children();
        let sessions = children.entry(child.to_owned()).or_default();
        sessions.push(session);
        (sessions.len() > SESSIONS_MAX).then(|| sessions.remove(0))
    }

    /// Removes a session of `child`.
    pub(super) fn disconnect(&self, child: &str, session: &Session) {
        let mut children = self.children();
        let Some(sessions) = children.get_mut(child) else { return };
        sessions.retain(|current| !current.is(session));
        if sessions.is_empty() {
            children.remove(child);
        }
    }

    /// Routes a child's Prepare and returns its reply.
    pub(super) async fn route(&self, child: &str, mut prepare: Prepare, now: Timestamp) -> Reply {
        let reject = |code, message| Err(Reject::new(code, &self.own.address, message));
        if ildcp::is_request(&prepare) {
            return match self.own.address.join(child) {
                Ok(address) => Ok(ildcp::respond(&Account { address, ..self.own.clone() })),
                Err(_) => reject(ErrorCode::F00_BAD_REQUEST, "the account's name can't be part of an address"),
            };
        }
        if prepare.destination.as_str().starts_with("peer.") {
            return reject(ErrorCode::F01_INVALID_PACKET, "unknown peer protocol");
        }
        if now.duration_until(prepare.expires_at) < WINDOW * 2 {
            return reject(ErrorCode::R02_INSUFFICIENT_TIMEOUT, "expires too soon");
        }
        prepare.expires_at = outgoing_expiry(prepare.expires_at, now);
        let condition = prepare.condition;
        let reply = match self.next_hop(&prepare.destination) {
            Some(HOST) => self.receiver.handle(&self.host, prepare, now).await,
            Some(next) if next == child => return reject(ErrorCode::F02_UNREACHABLE, "refusing to route payments back to sender"),
            Some(next) => {
                let session = self.children().get(next).and_then(|sessions| sessions.last()).cloned();
                match session {
                    Some(session) => session.send(prepare).await,
                    None => return reject(ErrorCode::T01_PEER_UNREACHABLE, "the account isn't connected"),
                }
            }
            None => return reject(ErrorCode::F02_UNREACHABLE, "no route"),
        };
        match reply {
            Ok(fulfill) if condition_of(&fulfill.fulfillment) != condition => {
                reject(ErrorCode::F05_WRONG_CONDITION, "the fulfillment doesn't fit the condition")
            }
            reply => reply,
        }
    }

    fn next_hop<'a>(&self, destination: &'a Address) -> Option<&'a str> {
        self.own.address.strip_prefix_of(destination)?.split('.').next()
    }

    fn children(&self) -> MutexGuard<'_, HashMap<String, Vec<Session>>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn outgoing_expiry(incoming: Timestamp, now: Timestamp) -> Timestamp {
    let earlier = incoming.checked_sub(WINDOW).unwrap_or(incoming);
    now.checked_add(HOLD_MAX).map_or(earlier, |latest| earlier.min(latest))
}
