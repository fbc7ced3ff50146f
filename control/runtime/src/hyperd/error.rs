//! The one place where hyperd's answers become reasons.
//!
//! hyperd 1.1.0 says what went wrong in one line of text, with a status made of words in that text ("no such" is 404, most else
//! 500). No text made by its Go runtime (JSON, URLs, dialling) is matched here: those change with the compiler.

use std::{error::Error as StdError, io};

use http::StatusCode;

use super::client::Call;
use crate::{PodId, RuntimeError};

/// What a call to hyperd came to if not to an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HyperdError {
    /// There is no connection: nothing was asked.
    #[error("hyperd can't be reached")]
    Away(#[source] io::Error),
    /// It is in the middle of starting or stopping the pod.
    #[error("hyperd is busy with the pod: {0}")]
    Busy(String),
    /// The connection broke or the time was up after the call was sent: it may have been done, or go on.
    #[error("hyperd didn't answer")]
    Lost(#[source] Box<dyn StdError + Send + Sync>),
    /// The guest has ended when a container was made in it.
    #[error("the guest ended when a container was made: {0}")]
    GuestKilled(String),
    /// An image isn't there.
    #[error("hyperd doesn't have the image")]
    MissingImage,
    /// A container of that name is left from a create that failed; hyperd lists it nowhere.
    #[error("a container name is left over from a failed create")]
    NameLeaked {
        /// The name, without the slash.
        name: String,
        /// Its id, by which it can be adopted.
        container: String,
    },
    /// It has handed out all addresses it knows of.
    #[error("hyperd has no address left to hand out")]
    NoAddress,
    /// The name of the pod, or of a container of it, belongs to a pod that is there.
    #[error("the name is taken: {0}")]
    NameTaken(String),
    /// There is no such pod, or no such container.
    #[error("hyperd doesn't know the pod")]
    NoSuchPod,
    /// Any other refusal.
    #[error("hyperd refuses: {status} {text}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// What it says, cut to a line.
        text: String,
    },
    /// The answer isn't one of hyperd's.
    #[error("hyperd's answer can't be understood")]
    Unreadable,
}

/// How hyperd says that it doesn't know a pod or container, call by call; mostly with status 500.
const NO_SUCH_POD: [&str; 4] =
    ["Can not find that Pod", "Can not get Pod info", "can not be found, please create it first", "cannot find container"];
/// Longest text of hyperd that is kept, in characters.
const TEXT_MAX: usize = 300;

impl HyperdError {
    /// Every kind, as the metric has them.
    pub(super) const KINDS: [&str; 11] = [
        "away",
        "busy",
        "guest_killed",
        "lost",
        "missing_image",
        "name_leaked",
        "name_taken",
        "no_address",
        "no_such_pod",
        "refused",
        "unreadable",
    ];

    /// Its place in [`Self::KINDS`].
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Away(_) => "away",
            Self::Busy(_) => "busy",
            Self::GuestKilled(_) => "guest_killed",
            Self::Lost(_) => "lost",
            Self::MissingImage => "missing_image",
            Self::NameLeaked { .. } => "name_leaked",
            Self::NameTaken(_) => "name_taken",
            Self::NoAddress => "no_address",
            Self::NoSuchPod => "no_such_pod",
            Self::Refused { .. } => "refused",
            Self::Unreadable => "unreadable",
        }
    }

    /// What a refusal's status and text say.
    pub(super) fn of_text(status: StatusCode, text: &str) -> Self {
        let (whole, text): (&str, String) = (text, text.trim_end().chars().take(TEXT_MAX).collect());
        let says = |words: &str| whole.contains(words);
        if NO_SUCH_POD.iter().any(|words| says(words)) {
            Self::NoSuchPod
        } else if says("No such image") {
            Self::MissingImage
        } else if says("no available ip addresses") {
            Self::NoAddress
        } else if let Some((name, container)) = leaked(whole) {
            Self::NameLeaked { name, container }
        } else if says("has already in use") || says("has already taken by pod") {
            Self::NameTaken(text)
        } else if says("Create new container failed") && says("hyperstart closed") {
            Self::GuestKilled(text)
        } else if status == StatusCode::PRECONDITION_FAILED || says("pod not ready") {
            Self::Busy(text)
        } else {
            Self::Refused { status, text }
        }
    }

    /// As the trait's callers know it. `doing` is fit for uploaders.
    pub(super) fn into_runtime(self, id: &PodId, doing: &str) -> RuntimeError {
        let (id, doing) = (id.clone(), doing.to_owned());
        match self {
            Self::NoSuchPod => RuntimeError::NoSuchPod(id),
            Self::NameTaken(_) => RuntimeError::AlreadyExists(id),
            Self::NoAddress => RuntimeError::NoRoom { what: "all addresses are in use".to_owned(), source: Some(Box::new(self)) },
            Self::Busy(_) => RuntimeError::Busy,
            // What hyperd refuses a description it has taken before for is its own trouble, and passes.
            Self::Away(_)
            | Self::GuestKilled(_)
            | Self::Lost(_)
            | Self::MissingImage
            | Self::NameLeaked { .. }
            | Self::Refused { .. }
            | Self::Unreadable => RuntimeError::Unavailable { operation: doing, source: Some(Box::new(self)) },
        }
    }
}

/// `Conflict. The name "/N" is already in use by container <64 hex digits>. ...`
fn leaked(text: &str) -> Option<(String, String)> {
    let (_, rest) = text.split_once("The name \"/")?;
    let (name, rest) = rest.split_once("\" is already in use by container ")?;
    let container = rest.get(..64).filter(|id| id.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    Some((name.to_owned(), container.to_owned()))
}

/// What a failed pull says, for the uploader.
pub(super) fn pull_reason(text: &str) -> &'static str {
    if text.contains("does not support OCI") {
        "it is an OCI image, and hyperd only runs Docker images (schema 2): push it with `docker push`, or convert it with \
         `skopeo copy --format v2s2`"
    } else if text.contains("manifest unknown") || text.contains("not found") {
        "the registry has no such image"
    } else if text.contains("not a valid repository") {
        "not a valid image reference"
    } else {
        "the registry doesn't give it to hyperd"
    }
}

/// Whether a failed pull says something of the image, rather than of the way to the registry.
pub(super) fn is_about_the_image(text: &str) -> bool {
    ["manifest unknown", "not found", "not a valid repository", "unauthorized", "denied"].iter().any(|words| text.contains(words))
}

impl HyperdError {
    /// Whether it says something of hyperd as a whole, not of one pod.
    pub(super) fn is_of_the_daemon(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Lost(_))
    }
}

impl From<(Call, Box<dyn StdError + Send + Sync>)> for HyperdError {
    fn from((call, source): (Call, Box<dyn StdError + Send + Sync>)) -> Self {
        tracing::debug!(call = call.label(), error = source.as_ref() as &dyn StdError, "hyperd didn't answer");
        Self::Lost(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recorded_text_has_its_kind() {
        let container = "4e7583fe9e6e6875502c8c1c44043316b5a4e734e35c5f3c37c3595f711f1478";
        let leaked = format!(
            "Conflict. The name \"/pod__app\" is already in use by container {container}. You have to remove (or rename) that \
             container to be able to reuse that name.\n"
        );
        let long = format!("finished with errors: map[{}: Create new container failed: hyperstart closed]", "x".repeat(TEXT_MAX));
        let table = [
            (500, "Can not find that Pod(x)\n", "no_such_pod"),
            (500, "Can not get Pod info with pod ID(x)\n", "no_such_pod"),
            (500, "The pod(x) can not be found, please create it first\n", "no_such_pod"),
            (404, "No such image: 127.0.0.1:5000/codius/none@sha256:1f\n", "missing_image"),
            (500, "pod name x has already in use\n", "name_taken"),
            (500, "container name x__app has already taken by pod x\n", "name_taken"),
            (409, &leaked, "name_leaked"),
            (412, "cannot complete the operation, because the pod x is not alive\n", "busy"),
            (500, "pod not ready\n", "busy"),
            (500, "no available ip addresses on network\n", "no_address"),
            (500, "hyperstart closed\n", "refused"),
            (500, &long, "guest_killed"),
            (500, "finished with errors: map[x__app__00: Create new container failed: hyperstart closed]\n", "guest_killed"),
            (500, "", "refused"),
        ];
        for (status, text, kind) in table {
            let error = HyperdError::of_text(StatusCode::from_u16(status).unwrap(), text);
            assert_eq!(error.kind(), kind, "{status} {text}");
            assert!(HyperdError::KINDS.contains(&kind));
        }
        let HyperdError::NameLeaked { name, container: found } = HyperdError::of_text(StatusCode::CONFLICT, &leaked) else { panic!() };
        assert_eq!((name.as_str(), found.as_str()), ("pod__app", container));
    }
}
