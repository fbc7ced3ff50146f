//! Pulls. All images are pulled before a create: hyperd checks for images only after it has booted a machine, and then leaks names.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use serde::Deserialize;

use super::{
    client::{Call, Client},
    error::{HyperdError, is_about_the_image, pull_reason},
    wire::Info,
};
use crate::RuntimeError;

/// Maximum number of images remembered as present.
const KNOWN_MAX: usize = 10_000;

/// A line of a pull's progress. For a pull by tag, hyperd reports failures inside a 200 answer.
#[derive(Deserialize)]
struct Progress {
    #[serde(default)]
    error: Option<String>,
}

/// Images that this hyperd had: for these, an unreachable registry is no obstacle.
#[derive(Debug, Default)]
pub(super) struct Images {
    known: Mutex<HashSet<String>>,
}

impl Images {
    /// Remembers an image as present.
    pub(super) fn remember(&self, image: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < KNOWN_MAX {
            known.insert(image.to_owned());
        }
    }

    /// Remembers the images of a pod that hyperd has created.
    pub(super) fn remember_all(&self, info: &Info) {
        for container in &info.spec.containers {
            self.remember(&container.image);
        }
    }

    /// Forgets an image that turned out to be missing.
    pub(super) fn forget(&self, image: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(image);
    }

    fn is_known(&self, image: &str) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(image)
    }

    /// Makes hyperd pull `image`; it queries the registry each time, even for an image that it has.
    pub(super) async fn pull(&self, client: &Client, image: &str) -> Result<(), RuntimeError> {
        let said = match pull(client, image).await {
            Ok(None) => {
                self.remember(image);
                return Ok(());
            }
            Ok(Some(text)) => text,
            Err(HyperdError::Refused { text, .. }) => text,
            Err(error) => return Err(RuntimeError::Unavailable { operation: "pulling images".to_owned(), source: Some(Box::new(error)) }),
        };
        if self.is_known(image) && !is_about_the_image(&said) {
            tracing::warn!(image, said, "registry does not answer; using the image hyperd has");
            return Ok(());
        }
        let reason = pull_reason(&said).to_owned();
        Err(RuntimeError::ImageUnavailable { image: image.to_owned(), reason, source: Some(said.into()) })
    }
}

/// The error, in hyperd's words.
async fn pull(client: &Client, image: &str) -> Result<Option<String>, HyperdError> {
    let mut failure = None;
    let look = |line: &[u8]| {
        if let Ok(Progress { error: Some(text) }) = serde_json::from_slice(line) {
            failure = Some(text);
        }
    };
    client.lines(Call::Pull, &[("imageName", image)], look).await?;
    Ok(failure)
}
