//! `$VAR` in environments: public values from the manifest, private ones sent beside it, checked against their hashes.

use std::fmt;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    ManifestError, canonical, rules,
    wire::{Encoding, Manifest, Private},
};

/// A container's variables with all values substituted. May hold private values.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Environment(pub(super) Vec<(String, String)>);

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Whether private values are required.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Secrets {
    MayBeMissing,
    Needed,
}

/// Substitutes the values. A value that begins with `$` names a variable, which is inserted verbatim, not expanded again.
pub(super) fn interpolate(manifest: &Manifest, private: &Private, secrets: Secrets) -> Result<Vec<Environment>, ManifestError> {
    let environment = |(index, container): (usize, &super::wire::Container)| {
        let variable = |(name, value): &(String, String)| {
            let field = format!("manifest.containers[{index}].environment.{name}");
            let value = match value.strip_prefix('$') {
                None => value.clone(),
                Some(variable) => lookup(&field, variable, manifest, private, secrets)?,
            };
            rules::check_value(&field, &value)?;
            Ok((name.clone(), value))
        };
        container.environment.iter().map(variable).collect::<Result<_, _>>().map(Environment)
    };
    manifest.containers.iter().enumerate().map(environment).collect()
}

fn lookup(field: &str, name: &str, manifest: &Manifest, private: &Private, secrets: Secrets) -> Result<String, ManifestError> {
    let fail = |problem: String| ManifestError::unprocessable(field, problem);
    let declared = manifest.vars.get(name).ok_or_else(|| fail(format!("could not interpolate var. var=${name} isn't in manifest.vars")))?;
    match declared.encoding {
        None => Ok(declared.value.clone()),
        Some(Encoding::PrivateSha256) => {
            let given = match (private.vars.get(name), secrets) {
                (Some(given), _) => given,
                (None, Secrets::MayBeMissing) => return Ok(String::new()),
                (None, Secrets::Needed) => {
                    return Err(fail(format!("could not interpolate private var. var=${name} isn't in private.vars")));
                }
            };
            if private_hash(&given.nonce, &given.value) != declared.value {
                return Err(fail(format!("private var does not match hash. var=${name} encoding=private:sha256")));
            }
            Ok(given.value.clone())
        }
    }
}

/// What a manifest holds in place of a private value.
pub(super) fn private_hash(nonce: &str, value: &str) -> String {
    let hashed = canonical::to_string(&json!({ "nonce": nonce, "value": value }));
    hex::encode(Sha256::digest(hashed.as_bytes()))
}
