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
//! It listens on `$PORT` (8080) and writes a line to its log for every request. It has no dependencies: `build.rs` has rustc make a static
//! binary of it, which works offline and needs no lock file.

mod http;
mod websocket;

use std::{
    env,
    io::{self, Read},
    net::{TcpListener, TcpStream},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use http::{Connection, Request};

const PAGE: &str = include_str!("../page.html");
/// Connections open at once; more are closed.
const CONNECTIONS_MAX: usize = 512;

unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
    fn _exit(status: i32) -> !;
}

fn main() -> ExitCode {
    exit_on_sigterm();
    let port = env::var("PORT").ok().and_then(|port| port.parse::<u16>().ok()).unwrap_or(8080);
    let listener = match TcpListener::bind(("0.0.0.0", port)) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("can't listen on port {port}: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("listening on port {port}");
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming().flatten() {
        if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let open = open.clone();
        thread::spawn(move || {
            if let Err(error) = serve(stream) {
                println!("connection lost: {error}");
            }
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
    ExitCode::SUCCESS
}

/// The first process of a container ignores SIGTERM otherwise. Nothing is lost by ending at once: the page keeps nothing.
fn exit_on_sigterm() {
    const SIGTERM: i32 = 15;
    extern "C" fn exit(_: i32) {
        // SAFETY: `_exit` may be called from a signal handler.
        unsafe { _exit(0) }
    }
    // SAFETY: the handler only calls `_exit`.
    unsafe { signal(SIGTERM, exit) };
}

fn serve(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = Connection::new(stream);
    while let Some(request) = connection.request()? {
        let path = request.target.split('?').next().unwrap_or_default().to_owned();
        if request.method == "GET" && path == "/ws" {
            return echo(&mut connection, &request);
        }
        let status = answer(&mut connection, &request, &path)?;
        println!("{} {path} {status}", request.method);
        if request.field("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            break;
        }
    }
    Ok(())
}

fn answer(connection: &mut Connection, request: &Request, path: &str) -> io::Result<u16> {
    let received = connection.discard_body(request)?;
    let (status, kind, body) = match (request.method.as_str(), path) {
        ("GET" | "HEAD", "/env-names") => (200, "text/plain", env_names()),
        ("POST", "/count") => (200, "text/plain", format!("{received}\n")),
        ("GET" | "HEAD", path) => match path.strip_prefix("/bytes/").and_then(|count| count.parse().ok()) {
            Some(count) => {
                connection.respond(request, "200 OK", "application/octet-stream", count, io::repeat(0))?;
                return Ok(200);
            }
            None => (200, "text/html; charset=utf-8", page()),
        },
        _ => (405, "text/plain", "not allowed\n".to_owned()),
    };
    let line = if status == 200 { "200 OK" } else { "405 Method Not Allowed" };
    connection.respond(request, line, kind, body.len() as u64, body.as_bytes())?;
    Ok(status)
}

fn echo(connection: &mut Connection, request: &Request) -> io::Result<()> {
    let Some(key) = request.field("Sec-WebSocket-Key") else {
        println!("GET /ws 400");
        let body = "a WebSocket is expected here\n";
        return connection.respond(request, "400 Bad Request", "text/plain", body.len() as u64, body.as_bytes());
    };
    println!("GET /ws 101");
    connection.upgrade(&format!("Upgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n", websocket::accept_of(key)))?;
    let ended = websocket::echo(connection);
    println!("WebSocket closed{}", ended.map_or_else(|error| format!(": {error}"), |()| String::new()));
    // The client closes first, or has nothing more to say.
    connection.stream().shutdown(std::net::Shutdown::Write)?;
    io::copy(&mut connection.reader().take(1 << 20), &mut io::sink()).map(drop)
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
