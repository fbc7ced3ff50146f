//! A host with a certificate of its own making: paid and visited over https, HTTP/1.1 and HTTP/2.

use std::{fs, net::SocketAddr, path::Path, process::Command, sync::Arc, time::Duration};

use bytes::Bytes;
use codiusd_kit::{Host, Upload, process::Signal, until, web};
use http::{Request, StatusCode, Version, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::host;

const NAME: &str = "codius.localhost";

/// `codiusd certs dev`, and what it says to set.
pub(crate) fn make_certificates(directory: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_codiusd")).args(["certs", "dev"]).arg(directory).output().expect("run codiusd");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    let setting = text.lines().find_map(|line| line.trim().strip_prefix("CODIUS_TLS_CERTS="));
    setting.unwrap_or_else(|| panic!("no CODIUS_TLS_CERTS in {text}")).to_owned()
}

/// Where the host speaks TLS, as it says itself.
fn tls_address(host: &Host) -> SocketAddr {
    let ready = fs::read(host.root().join("run/ready.json")).expect("ready.json");
    let ready: serde_json::Value = serde_json::from_slice(&ready).expect("JSON");
    ready["tls"][0].as_str().and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address in {ready}"))
}

async fn connect(address: SocketAddr, authority: &Path, name: &str, protocol: &str) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).expect("the authority")).expect("a root");
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let mut config = builder.with_safe_default_protocol_versions().expect("versions").with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(address).await.expect("connect");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a handshake")
}

async fn get(address: SocketAddr, authority: &Path, name: &str, protocol: &str) -> (StatusCode, Version, String) {
    let stream = TokioIo::new(connect(address, authority, name, protocol).await);
    let request = Request::get(if protocol == "h2" { format!("https://{name}/version") } else { "/version".to_owned() });
    let request = if protocol == "h2" { request } else { request.header(header::HOST, name) };
    let request = request.body(Empty::<Bytes>::new()).expect("a request");
    let response = if protocol == "h2" {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
        tokio::spawn(connection);
        sender.send_request(request).await
    } else {
        let (mut sender, connection) = http1::handshake(stream).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        sender.send_request(request).await
    };
    let (head, body) = response.expect("an answer").into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    (head.status, head.version, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_paid_and_visited_over_https() {
    let directory = tempfile::tempdir().unwrap();
    let setting = make_certificates(directory.path());
    let authority = directory.path().join("ca.pem");
    let mut host = host()
        .set("CODIUS_TLS_LISTEN", "127.0.0.1:0")
        .set("CODIUS_TLS_CERTS", setting.clone())
        .set("CODIUS_PUBLIC_URI", format!("https://{NAME}"))
        .set("CODIUS_HTTP_REDIRECT", "true")
        .set("SSL_CERT_FILE", authority.display().to_string())
        .start()
        .await;
    let address = tls_address(&host);

    let file = host.root().join("upload.json");
    fs::write(&file, Upload::of(host.image()).json().to_string()).expect("write the manifest");
    let (file, uri) = (file.display().to_string(), format!("https://{NAME}:{}", address.port()));
    let uploaded = host.run(&["upload", &file, "--host", &uri, "--duration", "60"]).await;
    assert!(uploaded.status.success(), "{}: {}", uploaded.status, uploaded.text);
    let hash = host.run(&["manifest", "hash", &file]).await.text.trim().to_owned();
    assert!(uploaded.text.contains(&format!("https://{hash}.{NAME}")), "{}", uploaded.text);
    assert_eq!(host.books().earned, 228_311);

    let pod = format!("{hash}.{NAME}");
    for (protocol, version) in [("http/1.1", Version::HTTP_11), ("h2", Version::HTTP_2)] {
        let (status, spoken, body) = get(address, &authority, NAME, protocol).await;
        assert_eq!((status, spoken), (StatusCode::OK, version), "{body}");
        assert!(body.contains("Codiusd"), "{body}");
        let (status, spoken, body) = get(address, &authority, &pod, protocol).await;
        assert_eq!((status, spoken), (StatusCode::OK, version), "{body}");
    }
    let plain = web::send(host.edge(), web::get(&pod, "/page?x=1")).await.expect("an answer");
    assert_eq!(
        (plain.status, plain.header("location")),
        (StatusCode::PERMANENT_REDIRECT, Some(format!("https://{pod}/page?x=1").as_str()))
    );

    let shown = async || {
        let stream = connect(address, &authority, NAME, "h2").await;
        stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec()
    };
    let before = shown().await;
    assert_eq!(make_certificates(directory.path()), setting);
    host.running().signal(Signal::SIGHUP);
    until("the new certificate to be shown", Duration::from_secs(10), async || (shown().await != before).then_some(())).await;
    let status = host.terminate().await;
    assert!(status.success(), "codiusd ended with {status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_cannot_be_used_is_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let setting = make_certificates(directory.path());
    let key = directory.path().canonicalize().unwrap().join("key.pem");
    fs::copy(directory.path().join("ca-key.pem"), &key).expect("put another key there");
    for (command, code) in [("check", 64), ("serve", 1)] {
        let mut codiusd = Command::new(env!("CARGO_BIN_EXE_codiusd"));
        codiusd.arg(command).env_clear().envs([
            ("CODIUS_DEV", "true"),
            ("CODIUS_RUNTIME", "noop"),
            ("CODIUS_TLS_LISTEN", "127.0.0.1:0"),
            ("CODIUS_TLS_CERTS", setting.as_str()),
        ]);
        let output = codiusd.env("CODIUS_ROOT", directory.path().join("root")).output().expect("run codiusd");
        let expected = format!(
            "codiusd: tls.certificates (CODIUS_TLS_CERTS): {}: isn't the key of the certificate in {}\n",
            key.display(),
            key.with_file_name("cert.pem").display()
        );
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(code), expected.as_str()), "{command}");
    }
}
