//! What a host refuses to run, whatever its shape. The Node codiusd took money for most of this and then failed.

use std::collections::{BTreeMap, HashSet};

use super::{
    ManifestError,
    wire::{Container, Manifest},
};
use crate::pod_sizes::PodSizes;

/// An environment string can't be longer (`MAX_ARG_STRLEN` of Linux), and the manifest is passed as one.
const VARIABLE_MAX: usize = 128 * 1024 - 64;

/// What this host accepts.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Most containers of one pod.
    pub containers_max: usize,
    /// The sizes of pods it sells.
    pub machines: PodSizes,
    /// Ports a pod can't use, and why.
    pub denied_ports: BTreeMap<u16, String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { containers_max: 16, machines: PodSizes::default(), denied_ports: BTreeMap::new() }
    }
}

impl Rules {
    pub(super) fn check(&self, manifest: &Manifest) -> Result<(), ManifestError> {
        not_empty("manifest.name", &manifest.name)?;
        not_empty("manifest.version", &manifest.version)?;
        if let Some(port) = &manifest.port {
            self.check_port(port)?;
        }
        if let Some(name) = &manifest.machine
            && self.machines.get(name).is_none()
        {
            return Err(ManifestError::field("manifest.machine", format!("must be {}", self.machines.names())));
        }
        let count = manifest.containers.len();
        if count == 0 || count > self.containers_max {
            let problem = format!("must have 1 to {} containers, has {count}", self.containers_max);
            return Err(ManifestError::field("manifest.containers", problem));
        }
        let mut ids = HashSet::new();
        for (index, container) in manifest.containers.iter().enumerate() {
            let path = format!("manifest.containers[{index}]");
            check_container(&path, container)?;
            if !ids.insert(&container.id) {
                return Err(ManifestError::field(format!("{path}.id"), "another container has this id"));
            }
        }
        Ok(())
    }

    /// Every container gets the manifest as CODIUS_MANIFEST.
    pub(super) fn check_size(&self, json: &str) -> Result<(), ManifestError> {
        if json.len() > VARIABLE_MAX {
            let problem = format!("is {} bytes of JSON, and a container can't be given more than {VARIABLE_MAX}", json.len());
            return Err(ManifestError::field("manifest", problem));
        }
        Ok(())
    }

    fn check_port(&self, port: &str) -> Result<(), ManifestError> {
        let plain = !port.starts_with('0') && port.bytes().all(|byte| byte.is_ascii_digit());
        let Some(number) = port.parse::<u16>().ok().filter(|number| plain && *number > 0) else {
            return Err(ManifestError::field("manifest.port", "must be a decimal number from 1 to 65535, as a string"));
        };
        match self.denied_ports.get(&number) {
            Some(reason) => Err(ManifestError::field("manifest.port", format!("{number} is refused: {reason}"))),
            None => Ok(()),
        }
    }
}

fn check_container(path: &str, container: &Container) -> Result<(), ManifestError> {
    let fail = |field: &str, problem: &str| Err(ManifestError::field(format!("{path}.{field}"), problem));
    if !is_container_id(&container.id) {
        return fail("id", "must be 1 to 64 of a-z, A-Z, 0-9, _, . and -, beginning with a letter or digit");
    }
    if !is_pinned(&container.image) {
        return fail("image", "must be pinned by its digest, as in registry.example/name@sha256:<64 hex digits>");
    }
    if let Some(command) = &container.command {
        if command.first().is_some_and(String::is_empty) {
            return fail("command[0]", "must not be empty");
        }
        if command.iter().any(|word| word.contains('\0')) {
            return fail("command", "must not hold NUL characters");
        }
    }
    let workdir = container.workdir.as_deref().filter(|workdir| !workdir.is_empty());
    if workdir.is_some_and(|workdir| !workdir.starts_with('/') || workdir.contains('\0')) {
        return fail("workdir", "must be an absolute path");
    }
    for (name, value) in &container.environment {
        check_variable(path, name, value)?;
    }
    Ok(())
}

fn check_variable(path: &str, name: &str, value: &str) -> Result<(), ManifestError> {
    let field = format!("{path}.environment.{name}");
    if name.starts_with("CODIUS") {
        return Err(ManifestError::unprocessable(field, format!("environment variables starting in \"CODIUS\" are reserved. var={name}")));
    }
    // As permissive as Docker: programs have settings with dots and dashes in their names.
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(ManifestError::field(field, "must have a name, without = and NUL characters"));
    }
    check_value(&field, value)
}

/// A value as passed to a container.
pub(super) fn check_value(field: &str, value: &str) -> Result<(), ManifestError> {
    if value.contains('\0') {
        return Err(ManifestError::field(field, "must not hold NUL characters"));
    }
    if value.len() > VARIABLE_MAX {
        return Err(ManifestError::field(field, format!("must not be longer than {VARIABLE_MAX} bytes")));
    }
    Ok(())
}

fn not_empty(field: &str, value: &str) -> Result<(), ManifestError> {
    if value.is_empty() { Err(ManifestError::field(field, "must not be empty")) } else { Ok(()) }
}

fn is_container_id(id: &str) -> bool {
    let first = id.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    first && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// Checks only that the reference has a digest; the runtime checks the rest.
fn is_pinned(image: &str) -> bool {
    let Some((name, digest)) = image.split_once("@sha256:") else { return false };
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    !name.is_empty() && digest.len() == 64 && digest.bytes().all(hex)
}
