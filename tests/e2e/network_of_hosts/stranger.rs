//! Whoever isn't a codiusd, over TLS: says what it is told to, and remembers who asked for what.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) by: IpAddr,
    /// The host name it was asked under.
    pub(super) name: String,
    /// Method and path.
    pub(super) what: String,
}

impl Asked {
    pub(super) fn is_look(&self) -> bool {
        self.what == "GET /info"
    }
}

/// An answer.
pub(super) enum Says {
    /// These bytes.
    Bytes(String),
    /// The beginning of an answer of `/info`, and then blanks for as long as they are taken.
    Endless,
    /// The same, a byte at a time.
    Trickle,
}

/// A host's `/info` under the name it was asked by, or another.
pub(super) fn info(name: &str) -> Says {
    ok(&json!({ "fullMem": false, "acceptingUploads": true, "uri": format!("https://{name}") }).to_string())
}

/// What a host answers that knows these.
pub(super) fn knows(names: &[&str]) -> Says {
    let peers: Vec<String> = names.iter().map(|name| format!("https://{name}")).collect();
    ok(&json!({ "name": "Codiusd (JavaScript)", "version": "1.2.5", "peers": peers }).to_string())
}

fn ok(body: &str) -> Says {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=utf-8\r\nconnection: close";
    Says::Bytes(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
}

pub(super) fn redirect(target: &str) -> Says {
    Says::Bytes(format!("HTTP/1.1 302 Found\r\nlocation: {target}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"))
}

/// Somebody at one address.
pub(super) struct Stranger(Arc<Mutex<Vec<Asked>>>);

impl Stranger {
    pub(super) fn speaking(listener: TcpListener, tls: TlsAcceptor, says: impl Fn(&Asked) -> Says + Send + Sync + 'static) -> Self {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let (seen, says) = (Arc::new(Mutex::new(Vec::new())), Arc::new(says));
        let stranger = Self(seen.clone());
        tokio::spawn(async move {
            loop {
                let (stream, from) = listener.accept().await.unwrap();
                let (seen, says, tls) = (seen.clone(), says.clone(), tls.clone());
                tokio::spawn(async move { serve(stream, from, &tls, &seen, &*says).await });
            }
        });
        stranger
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.0.lock().unwrap().clone()
    }

    /// How often it was asked who it is, by a host.
    pub(super) fn looks_by(&self, host: IpAddr) -> usize {
        self.asked().iter().filter(|asked| asked.by == host && asked.is_look()).count()
    }
}

/// One request and its answer. None: the other side has hung up.
async fn serve(
    stream: TcpStream,
    from: SocketAddr,
    tls: &TlsAcceptor,
    seen: &Mutex<Vec<Asked>>,
    says: &(dyn Fn(&Asked) -> Says + Send + Sync),
) -> Option<()> {
    let mut stream = tls.accept(stream).await.ok()?;
    let (what, name) = request(&mut stream).await?;
    let asked = Asked { by: from.ip().to_canonical(), name, what };
    seen.lock().unwrap().push(asked.clone());
    answer(&mut stream, says(&asked)).await
}

async fn request(stream: &mut (impl AsyncRead + Unpin)) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        stream.read_buf(&mut bytes).await.ok().filter(|length| *length > 0)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let field = |name: &str| head.lines().find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)));
        let length: usize = field("content-length").map_or(0, |(_, length)| length.parse().unwrap());
        if body.len() >= length {
            let what = head.lines().next()?.rsplit_once(' ')?.0.to_owned();
            return Some((what, field("host")?.1.to_owned()));
        }
    }
}

async fn answer(stream: &mut (impl AsyncWrite + Unpin), says: Says) -> Option<()> {
    const BEGINNING: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{";
    let (blanks, pause) = match says {
        Says::Bytes(bytes) => {
            stream.write_all(bytes.as_bytes()).await.ok()?;
            return stream.shutdown().await.ok();
        }
        Says::Endless => (&[b' '; 16 * 1024][..], Duration::ZERO),
        Says::Trickle => (&b" "[..], Duration::from_millis(100)),
    };
    stream.write_all(BEGINNING).await.ok()?;
    loop {
        stream.write_all(blanks).await.ok()?;
        stream.flush().await.ok()?;
        sleep(pause).await;
    }
}
