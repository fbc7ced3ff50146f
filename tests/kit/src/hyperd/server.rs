//! HTTP: who is let in, what is called, what goes wrong on purpose.

use std::{collections::BTreeMap, io, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body_util::BodyExt;
use hyper::{body::Incoming, ext::ReasonPhrase, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::{
    net::{UnixListener, UnixStream},
    time::sleep,
};

use super::{
    answer::{self, Answer, Body, Refusal},
    daemon::Daemon,
    faults::Fault,
    routes,
};

/// What is asked of the daemon.
#[derive(Debug)]
pub(super) struct Call {
    pub method: Method,
    /// Without a version in front.
    pub path: String,
    pub query: BTreeMap<String, String>,
    pub content_type: String,
    pub body: Bytes,
}

/// Serves for ever.
pub(super) async fn serve(daemon: Arc<Daemon>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(daemon.clone(), stream))),
            Err(error) => eprintln!("hyperd: accept: {error}"),
        }
    }
}

async fn connection(daemon: Arc<Daemon>, stream: UnixStream) {
    let service = service_fn(move |request| serve_request(daemon.clone(), request));
    // An error is a client that has hung up, or a fault.
    let _ = http1::Builder::new().timer(TokioTimer::new()).half_close(false).serve_connection(TokioIo::new(stream), service).await;
}

async fn serve_request(daemon: Arc<Daemon>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    if let Some(words) = wrong_host(&request) {
        return Ok(refused_host(words));
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let content_type = head.headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let call = Call {
        path: unversioned(head.uri.path()).to_owned(),
        query: query(&head.uri),
        content_type: content_type.unwrap_or_default(),
        method: head.method,
        body,
    };
    match call.path.as_str() {
        "/double/fault" | "/double/calls" | "/double/stalled" => Ok(double(&daemon, &call)),
        _ => serve_call(daemon, call, &head.uri).await,
    }
}

/// Does what is asked, or what a test wants instead. What has begun is done, whether or not the client stays.
async fn serve_call(daemon: Arc<Daemon>, call: Call, uri: &Uri) -> io::Result<Response<Body>> {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let (number, fault) = daemon.faults.called(call.method.as_str(), target, &call.path);
    let gone = || Err(io::Error::other("a fault"));
    match fault {
        Some(Fault::Hang) => return std::future::pending().await,
        Some(Fault::DropBefore) => return gone(),
        Some(Fault::CrashBefore) => std::process::abort(),
        Some(Fault::Error500) => {
            daemon.faults.answered(number, 500);
            return Ok(Refusal::new("a fault").into_response());
        }
        Some(Fault::CrashIn(delay)) => drop(tokio::spawn(async move {
            sleep(delay).await;
            std::process::abort()
        })),
        Some(Fault::Slow(delay)) => sleep(delay).await,
        Some(Fault::DropAfter | Fault::HangAfter | Fault::CrashAfter) | None => {}
    }
    let task = {
        let daemon = daemon.clone();
        tokio::spawn(async move { routes::answer(&daemon, call).await })
    };
    let answer: Answer = task.await.map_err(io::Error::other)?;
    match fault {
        Some(Fault::DropAfter) => return gone(),
        Some(Fault::HangAfter) => return std::future::pending().await,
        Some(Fault::CrashAfter) => std::process::abort(),
        _ => {}
    }
    let response = answer.unwrap_or_else(Refusal::into_response);
    daemon.faults.answered(number, response.status().as_u16());
    Ok(response)
}

/// The double's own calls: `POST /double/fault`, `DELETE /double/fault`, `GET /double/calls`,
/// `GET /double/stalled`: names of containers whose output nobody reads any more and that wait in `write()`.
fn double(daemon: &Daemon, call: &Call) -> Response<Body> {
    let done = match (call.method.as_str(), call.path.as_str()) {
        ("POST", "/double/fault") => plan(daemon, &call.body),
        ("DELETE", "/double/fault") => {
            daemon.faults.clear();
            Ok(json!({}))
        }
        ("GET", "/double/stalled") => {
            let state = daemon.state();
            let stalled = state.containers.values().filter(|container| container.stalled).map(|container| &container.name);
            Ok(json!(stalled.collect::<Vec<_>>()))
        }
        ("GET", "/double/calls") => Ok(daemon.faults.calls()),
        _ => Err("there is no such call".to_owned()),
    };
    match done {
        Ok(value) => answer::json_value(StatusCode::OK, &value),
        Err(error) => Refusal::new(error).status(StatusCode::BAD_REQUEST).into_response(),
    }
}

fn plan(daemon: &Daemon, body: &[u8]) -> Result<Value, String> {
    let wish: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    match wish.get("registries-down").and_then(Value::as_bool) {
        Some(down) => daemon.state().images.registries_down = down,
        None => daemon.faults.plan(wish)?,
    }
    Ok(json!({}))
}

/// A `Host` header has to be there, with nothing in it that can't be in a host.
fn wrong_host(request: &Request<Incoming>) -> Option<&'static str> {
    match request.headers().get(header::HOST) {
        None if request.version() == Version::HTTP_11 => Some("400 Bad Request: missing required Host header"),
        Some(host) if host.as_bytes().iter().any(|byte| b"/ \\\"<>^`{|}".contains(byte)) => Some("400 Bad Request: malformed Host header"),
        _ => None,
    }
}

fn refused_host(words: &'static str) -> Response<Body> {
    let mut response = answer::text(StatusCode::BAD_REQUEST, words);
    response.headers_mut().remove(header::SERVER);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response.extensions_mut().insert(ReasonPhrase::from_static(&words.as_bytes()[4..]));
    response
}

/// The path without `/v<digits and dots>` in front.
fn unversioned(path: &str) -> &str {
    let version = path.strip_prefix("/v").and_then(|rest| Some((rest, rest.find('/')?)));
    match version {
        Some((rest, end)) if end > 0 && rest[..end].chars().all(|c| c.is_ascii_digit() || c == '.') => &rest[end..],
        _ => path,
    }
}

/// The parameters; of one that is given twice, the first.
fn query(uri: &Uri) -> BTreeMap<String, String> {
    let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let mut query = BTreeMap::new();
    for (key, value) in pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))) {
        query.entry(decoded(key)).or_insert_with(|| decoded(value));
    }
    query
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        match (first, code) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (byte, _) => {
                bytes.push(if *byte == b'+' { b' ' } else { *byte });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
