//! Manifests to upload.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// What is uploaded: a manifest and its private variables. Every one made here has a name, and so a hash, of its own.
#[derive(Clone, Debug)]
pub struct Upload(Value);

impl Upload {
    /// One container `app` of `image`, which listens on port 8080.
    pub fn of(image: &str) -> Self {
        let name = format!("test-{:016x}", rand::random::<u64>());
        Self(json!({ "manifest": {
            "name": name,
            "version": "1.0.0",
            "machine": "small",
            "port": "8080",
            "containers": [{ "id": "app", "image": image }],
        }}))
    }

    /// Anyone may read its log.
    #[must_use]
    pub fn debug(mut self) -> Self {
        self.0["manifest"]["debug"] = json!(true);
        self
    }

    /// The first container runs `command`.
    #[must_use]
    pub fn command(mut self, command: &[&str]) -> Self {
        self.0["manifest"]["containers"][0]["command"] = json!(command);
        self
    }

    /// Its traffic goes to `port`.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.0["manifest"]["port"] = json!(port.to_string());
        self
    }

    /// It is of this size.
    #[must_use]
    pub fn machine(mut self, name: &str) -> Self {
        self.0["manifest"]["machine"] = json!(name);
        self
    }

    /// One more container.
    #[must_use]
    pub fn container(mut self, container: Value) -> Self {
        if let Some(containers) = self.0["manifest"]["containers"].as_array_mut() {
            containers.push(container);
        }
        self
    }

    /// The first container's environment has `name` set to `value`.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        set(&mut self.0["manifest"]["containers"][0], "environment", name, json!(value));
        self
    }

    /// A private variable, in the first container's environment under its own name.
    #[must_use]
    pub fn private(self, name: &str, value: &str) -> Self {
        let nonce = hex::encode(rand::random::<[u8; 16]>());
        // The canonical JSON of both, as long as neither needs an escape.
        let hash = hex::encode(Sha256::digest(json!({ "nonce": nonce, "value": value }).to_string()));
        let mut upload = self.env(name, &format!("${name}"));
        set(&mut upload.0["manifest"], "vars", name, json!({ "encoding": "private:sha256", "value": hash }));
        if upload.0["private"].is_null() {
            upload.0["private"] = json!({ "vars": {} });
        }
        upload.0["private"]["vars"][name] = json!({ "nonce": nonce, "value": value });
        upload
    }

    /// What to send.
    pub fn json(&self) -> &Value {
        &self.0
    }
}

fn set(to: &mut Value, group: &str, name: &str, value: Value) {
    if to[group].is_null() {
        to[group] = Value::Object(Map::new());
    }
    to[group][name] = value;
}
