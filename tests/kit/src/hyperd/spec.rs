//! The body of `/pod/create`, read as Go reads it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{answer::Refusal, logs::Bounds, net::Nic};

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct PodSpec {
    pub id: String,
    pub vcpu: i64,
    pub memory: i64,
    pub containers: Vec<ContainerSpec>,
    /// How much of its logs is kept; none: as before.
    pub bounds: Option<Bounds>,
    /// The interface it is to have.
    pub interface: Option<Nic>,
}

/// A container that is asked for. What isn't given is empty.
#[derive(Clone, Debug)]
pub(super) struct ContainerSpec {
    /// Of a container to adopt.
    pub id: String,
    pub name: String,
    pub image: String,
    pub workdir: String,
    pub command: Vec<String>,
    pub envs: Vec<(String, String)>,
}

impl PodSpec {
    /// Reads a body.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let value: Value = serde_json::from_slice(body).map_err(|_| Refusal::new(syntax_error(body)))?;
        let pod = Object::of(&value, "UserPod", "")?;
        let resource = pod.object("resource", "UserResource")?;
        let (mut containers, mut made_up) = (Vec::new(), 0);
        let id = pod.text("id")?;
        for container in pod.list("containers", "UserContainer")? {
            let mut container = ContainerSpec::of(&container)?;
            if container.name.is_empty() {
                container.name = format!("{id}--{made_up}");
            }
            made_up += 1;
            containers.push(container);
        }
        for (number, container) in containers.iter().enumerate() {
            let names: BTreeSet<&String> = container.envs.iter().map(|(name, _)| name).collect();
            if names.len() < container.envs.len() {
                return Err(Refusal::new(format!("in container {number}, environment name are not unique")));
            }
        }
        let bounds = bounds(&pod.object("log", "PodLogConfig")?)?;
        let interface = match pod.list("interfaces", "UserInterface")?.first() {
            Some(asked) => interface(asked)?,
            None => None,
        };
        Ok(Self { bounds, interface, vcpu: resource.number("vcpu")?, memory: resource.number("memory")?, id, containers })
    }
}

fn bounds(log: &Object<'_>) -> Result<Option<Bounds>, Refusal> {
    let kind = log.text("type")?;
    if kind.is_empty() {
        return Ok(None);
    }
    let config = log.object("config", "PodLogConfig")?;
    let (size, files) = (config.text("max-size")?, config.text("max-file")?);
    let size_max = size.trim_end_matches(['k', 'm']).parse::<u64>().ok().map(|number| match size.chars().last() {
        Some('m') => number * 1_000_000,
        Some('k') => number * 1000,
        _ => number,
    });
    Ok(Some(Bounds { size_max, files_max: files.parse().unwrap_or(1), none: kind == "none" }))
}

/// The interface that is asked for; none if its address isn't.
fn interface(asked: &Object<'_>) -> Result<Option<Nic>, Refusal> {
    let (ip, bridge) = (asked.text("ip")?, asked.text("bridge")?);
    if ip.is_empty() {
        let nothing = bridge.is_empty().then_some(None);
        return nothing.ok_or_else(|| Refusal::new("if configured a bridge, must specify the IP address"));
    }
    let invalid = || Refusal::new(format!("invalid CIDR address: {ip}"));
    let (address, prefix) = ip.split_once('/').ok_or_else(invalid)?;
    let (address, prefix) = (address.parse().map_err(|_| invalid())?, prefix.parse().map_err(|_| invalid())?);
    let gateway = asked.text("gateway")?.parse().map_err(|_| invalid())?;
    Ok(Some(Nic { link: asked.text("ifname")?, bridge, address, prefix, gateway, mac: asked.text("mac")? }))
}

impl ContainerSpec {
    fn of(container: &Object<'_>) -> Result<Self, Refusal> {
        let mut envs = Vec::new();
        for env in container.list("envs", "EnvironmentVar")? {
            envs.push((env.text("env")?, env.text("value")?));
        }
        Ok(Self {
            id: container.text("id")?,
            name: container.text("name")?,
            image: container.text("image")?,
            workdir: container.text("workdir")?,
            command: container.texts("command")?,
            envs,
        })
    }
}

/// A JSON object, or nothing, that is read into a Go struct.
struct Object<'a> {
    value: &'a Value,
    name: &'static str,
    path: String,
}

impl<'a> Object<'a> {
    fn of(value: &'a Value, name: &'static str, path: &str) -> Result<Self, Refusal> {
        match value {
            Value::Null | Value::Object(_) => Ok(Self { value, name, path: path.to_owned() }),
            _ if path.is_empty() => Err(Refusal::new(format!("json: cannot unmarshal {} into Go value of type types.{name}", kind(value)))),
            _ => Err(Refusal::new(format!("json: cannot unmarshal {} into Go struct field {path} of type types.{name}", kind(value)))),
        }
    }

    fn field(&self, key: &str) -> (&'a Value, String) {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        (self.value.get(key).unwrap_or(&Value::Null), path)
    }

    fn wrong<T>(&self, value: &Value, path: &str, kind_of_field: &str) -> Result<T, Refusal> {
        Err(Refusal::new(format!(
            "json: cannot unmarshal {} into Go struct field {}.{path} of type {kind_of_field}",
            kind(value),
            self.name
        )))
    }

    fn object(&self, key: &str, name: &'static str) -> Result<Self, Refusal> {
        let (value, path) = self.field(key);
        Self::of(value, name, &path)
    }

    fn text(&self, key: &str) -> Result<String, Refusal> {
        let (value, path) = self.field(key);
        match value {
            Value::Null => Ok(String::new()),
            Value::String(text) => Ok(text.clone()),
            other => self.wrong(other, &path, "string"),
        }
    }

    fn number(&self, key: &str) -> Result<i64, Refusal> {
        let (value, path) = self.field(key);
        match value {
            Value::Null => Ok(0),
            Value::Number(number) if number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()) => {
                Ok(number.as_i64().unwrap_or_default())
            }
            other => self.wrong(other, &path, "int32"),
        }
    }

    fn items(&self, key: &str, kind_of_field: &str) -> Result<(&'a [Value], String), Refusal> {
        let (value, path) = self.field(key);
        match value {
            Value::Null => Ok((&[], path)),
            Value::Array(items) => Ok((items, path)),
            other => self.wrong(other, &path, kind_of_field),
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<String>, Refusal> {
        let (items, path) = self.items(key, "[]string")?;
        items.iter().map(|item| item.as_str().map_or_else(|| self.wrong(item, &path, "string"), |text| Ok(text.to_owned()))).collect()
    }

    fn list(&self, key: &str, name: &'static str) -> Result<Vec<Self>, Refusal> {
        let (items, path) = self.items(key, &format!("[]*types.{name}"))?;
        items.iter().map(|item| Self::of(item, name, &path)).collect()
    }
}

/// What Go calls it.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// What Go says about a text that isn't JSON: exact for a cut text and for a broken literal, else about right.
fn syntax_error(body: &[u8]) -> String {
    let body = body.trim_ascii();
    for literal in ["null", "true", "false"] {
        let same = body.iter().zip(literal.bytes()).take_while(|(found, expected)| **found == *expected).count();
        if let (1.., Some(found), Some(expected)) = (same, body.get(same), literal.as_bytes().get(same)) {
            let (found, expected) = (char::from(*found), char::from(*expected));
            return format!("invalid character '{found}' in literal {literal} (expecting '{expected}')");
        }
    }
    match body.first() {
        None | Some(b'{' | b'[' | b'"') => "unexpected end of JSON input".to_owned(),
        Some(first) => format!("invalid character '{}' looking for beginning of value", char::from(*first)),
    }
}
