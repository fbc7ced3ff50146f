//! What `codiusd demo` runs in its pod: a page, a WebSocket echo, and two endpoints that move bytes.
//!
//! | request | answer |
//! |---|---|
//! | GET, any other path | the page |
//! | GET /ws | WebSocket echo |
//! | GET /bytes/N | N zero bytes |
//! | POST /count | how many bytes the body had |
//! | GET /env-names | names of the environment variables, never their values |
//!
//! It listens on `$PORT` (8080) and writes a line to its log for every request.

use std::{
    env,
    io::{self, Read, Write},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tiny_http::{Header, Method, ReadWrite, Request, Response, Server, StatusCode};
use tungstenite::{
    Message, WebSocket,
    handshake::derive_accept_key,
    protocol::{Role, WebSocketConfig},
};

const PAGE: &str = include_str!("page.html");
/// Requests answered at once.
const WORKERS: usize = 16;
/// WebSockets open at once.
const SOCKETS_MAX: usize = 256;
/// Longest WebSocket message, in bytes.
const MESSAGE_MAX: usize = 64 * 1024 * 1024;

fn main() -> ExitCode {
    exit_on_sigterm();
    let port = env::var("PORT").ok().and_then(|port| port.parse::<u16>().ok()).unwrap_or(8080);
    let server = match Server::http(("0.0.0.0", port)) {
        Ok(server) => Arc::new(server),
        Err(error) => {
            eprintln!("can't listen on port {port}: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("listening on port {port}");
    let sockets = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (server, sockets) = (server.clone(), sockets.clone());
            thread::spawn(move || {
                while let Ok(request) = server.recv() {
                    answer(request, &sockets);
                }
            })
        })
        .collect();
    for worker in workers {
        let _ = worker.join();
    }
    ExitCode::SUCCESS
}

/// Nothing is lost by ending at once: the page keeps nothing.
fn exit_on_sigterm() {
    extern "C" fn exit(_: libc::c_int) {
        // SAFETY: `_exit` may be called from a signal handler.
        unsafe { libc::_exit(0) }
    }
    // SAFETY: the handler only calls `_exit`.
    unsafe { libc::signal(libc::SIGTERM, exit as *const () as libc::sighandler_t) };
}

fn answer(request: Request, sockets: &Arc<AtomicUsize>) {
    let (method, url) = (request.method().clone(), request.url().to_owned());
    let path = url.split('?').next().unwrap_or_default();
    let outcome = match (&method, path) {
        (Method::Get, "/ws") => echo(request, sockets),
        (Method::Get | Method::Head, "/env-names") => send(request, 200, "text/plain", env_names().into_bytes()),
        (Method::Post, "/count") => count(request),
        (Method::Get | Method::Head, path) => match path.strip_prefix("/bytes/").and_then(|count| count.parse().ok()) {
            Some(count) => zeros(request, count),
            None => send(request, 200, "text/html; charset=utf-8", page().into_bytes()),
        },
        _ => send(request, 405, "text/plain", b"not so\n".to_vec()),
    };
    match outcome {
        Ok(status) => println!("{method} {path} {status}"),
        Err(error) => println!("{method} {path} {error}"),
    }
}

fn send(request: Request, status: u16, kind: &str, body: Vec<u8>) -> io::Result<u16> {
    request.respond(Response::from_data(body).with_status_code(status).with_header(header("Content-Type", kind)))?;
    Ok(status)
}

fn zeros(request: Request, count: usize) -> io::Result<u16> {
    let headers = vec![header("Content-Type", "application/octet-stream")];
    let body = io::repeat(0).take(count as u64);
    // A large body with a known length is sent as it is, not in chunks.
    request.respond(Response::new(StatusCode(200), headers, body, Some(count), None).with_chunked_threshold(usize::MAX))?;
    Ok(200)
}

fn count(mut request: Request) -> io::Result<u16> {
    let count = io::copy(request.as_reader(), &mut io::sink())?;
    send(request, 200, "text/plain", format!("{count}\n").into_bytes())
}

/// Answers with what it is sent, in a thread of its own.
fn echo(request: Request, sockets: &Arc<AtomicUsize>) -> io::Result<u16> {
    let key = request.headers().iter().find(|header| header.field.equiv("Sec-WebSocket-Key")).map(|header| derive_accept_key(header.value.as_str().as_bytes()));
    let Some(accept) = key else { return send(request, 400, "text/plain", b"a WebSocket is expected here\n".to_vec()) };
    if sockets.fetch_add(1, Ordering::Relaxed) >= SOCKETS_MAX {
        sockets.fetch_sub(1, Ordering::Relaxed);
        return send(request, 503, "text/plain", b"too many WebSockets\n".to_vec());
    }
    let stream = request.upgrade("websocket", Response::empty(101).with_header(header("Sec-WebSocket-Accept", &accept)));
    let sockets = sockets.clone();
    thread::spawn(move || {
        let ended = echo_all(stream);
        sockets.fetch_sub(1, Ordering::Relaxed);
        println!("WebSocket closed{}", ended.map_or_else(|error| format!(": {error}"), |()| String::new()));
    });
    Ok(101)
}

fn echo_all(stream: Box<dyn ReadWrite + Send>) -> tungstenite::Result<()> {
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX)).max_frame_size(Some(MESSAGE_MAX));
    let mut socket = WebSocket::from_raw_socket(Flushed(stream), Role::Server, Some(config));
    loop {
        match socket.read() {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => socket.send(message)?,
            Ok(_) => socket.flush()?,
            Err(tungstenite::Error::ConnectionClosed) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// The server's stream is buffered; an echo must leave at once.
struct Flushed(Box<dyn ReadWrite + Send>);

impl Read for Flushed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Flushed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name.as_bytes(), value.as_bytes()).unwrap_or_else(|()| unreachable!("{name} is a valid header"))
}

fn page() -> String {
    let variable = |name: &str| escaped(&env::var(name).unwrap_or_else(|_| "not in a pod".to_owned()));
    PAGE.replace("{{hash}}", &variable("CODIUS_MANIFEST_HASH")).replace("{{host}}", &variable("CODIUS_HOST"))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn env_names() -> String {
    let mut names: Vec<String> = env::vars_os().map(|(name, _)| format!("{}\n", name.to_string_lossy())).collect();
    names.sort();
    names.concat()
}
